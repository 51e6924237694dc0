"""What workers say besides results: lines of output, log records, warnings.

A worker sends each as a message among its answers, so all that a task said comes before its outcome. In the
parent they go where they would have gone had the task run there: to the ``sys.stdout`` and ``sys.stderr`` of
that moment, the logger of the same name, the ``warnings`` module.

What C code or another program writes to a descriptor is not seen here: it goes to the parent's own.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from manyhands import _core

__all__ = ["Listener", "levels", "speaking"]

_OUT, _ERR, _RECORD, _WARNING = range(4)
_CHUNK = 1 << 14
"""Characters of one message."""
_LONGEST = 1 << 16
"""Bytes of a pickled record; a longer one is cut."""


def levels() -> dict[str, Any]:
    """Return what this process's loggers let pass, for workers: a record that nobody wants costs nothing."""
    known = logging.root.manager.loggerDict.copy()
    explicit = {
        name: logger.level
        for name, logger in known.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"root": logging.root.level, "disable": logging.root.manager.disable, "loggers": explicit}


@contextmanager
def speaking(worker: _core.ProcessWorker, name: str, levels: dict[str, Any]) -> Iterator[None]:
    """Have this process's output, records and warnings sent to the pool, in this process alone."""
    handler = _Handler(worker, name)
    logging.root.addHandler(handler)
    logging.root.setLevel(levels["root"])
    logging.disable(levels["disable"])
    for logger, level in levels["loggers"].items():
        logging.getLogger(logger).setLevel(level)
    show = warnings.showwarning
    warnings.showwarning = _warning_sender(worker, show)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(worker, _OUT, sys.stdout), _Stream(worker, _ERR, sys.stderr)

    def fall_silent() -> None:
        logging.root.removeHandler(handler)
        warnings.showwarning = show
        sys.stdout, sys.stderr = streams

    # What a task forks has descriptors of its own to write to, and no place in the worker's ring.
    os.register_at_fork(after_in_child=fall_silent)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        fall_silent()


class _Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a worker. What it does not know of is asked of the one beneath."""

    def __init__(self, worker: _core.ProcessWorker, number: int, beneath: TextIO) -> None:
        self._worker, self._number, self._beneath = worker, number, beneath

    def write(self, text: str, /) -> int:
        """Send whole lines, keep the rest."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        for start in range(0, len(text), _CHUNK):
            piece = text[start : start + _CHUNK]
            self._worker.write(self._number, piece.encode("utf-8", "surrogatepass"))
        return len(text)

    def flush(self) -> None:
        """Send what there is of a line."""
        self._beneath.flush()
        self._worker.flush(self._number)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the inherited descriptor: for programs that a task starts."""
        return self._beneath.fileno()

    def isatty(self) -> bool:
        """Say whether the inherited descriptor is a terminal."""
        return self._beneath.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream beneath."""
        return self._beneath.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the stream beneath treats what it cannot encode."""
        return self._beneath.errors

    def __getattr__(self, name: str) -> Any:
        """Look it up in the stream beneath: ``buffer``, ``reconfigure`` and the like."""
        return getattr(self._beneath, name)


class _Handler(logging.Handler):
    """Sends the records of all loggers."""

    def __init__(self, worker: _core.ProcessWorker, name: str) -> None:
        super().__init__()
        self._worker, self._process = worker, name

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._worker.note(_RECORD, _pack(record, self._process))
        except Exception:
            self.handleError(record)


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (str, int, float, bool, bytes)


def _pack(record: logging.LogRecord, process: str) -> bytes:
    """Pickle a record; what cannot be sent as it is goes as text."""
    fields = {**record.__dict__, "processName": process}
    if record.exc_info:
        # Kept as text, which every formatter uses: a traceback cannot be pickled.
        fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        fields["exc_info"] = None
    args = record.args.values() if isinstance(record.args, dict) else record.args or ()
    if type(record.msg) is not str or not all(map(_is_plain, args)):
        fields.update(msg=record.getMessage(), args=None)
    try:
        data = pickle.dumps(fields, 5)
    except Exception:
        fields = {key: value if _is_plain(value) else _text(value) for key, value in fields.items()}
        fields.update(msg=record.getMessage(), args=None)
        data = pickle.dumps(fields, 5)
    if len(data) <= _LONGEST:
        return data
    fields.update(msg=record.getMessage(), args=None)
    return pickle.dumps({key: _cut(value) for key, value in fields.items()}, 5)


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


def _cut(value: object) -> object:
    text = value if isinstance(value, str) else "" if _is_plain(value) else _text(value)
    return f"{text[:4000]}… ({len(text)} characters)" if len(text) > 4000 else value


def _warning_sender(worker: _core.ProcessWorker, show: Any) -> Any:
    def showwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:
            show(message, category, filename, lineno, file, line)
            return
        text = str(message)[:_CHUNK]
        try:
            data = pickle.dumps((text, category, filename, lineno), 5)
        except Exception:
            # A class that the parent cannot know.
            data = pickle.dumps((f"{category.__name__}: {text}", UserWarning, filename, lineno), 5)
        worker.note(_WARNING, data)

    return showwarning


class Listener:
    """The parent's side: passes on what one worker says. Called by the one thread that reads its answers.

    Args:
        prefix: Set before each line of output.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._is_within_line = [False, False]
        self._has_complained = [False, False]

    def __call__(self, kind: int, data: bytes) -> None:
        """Pass one message on."""
        if kind == _RECORD:
            record = logging.makeLogRecord(pickle.loads(data))
            logging.getLogger(record.name).handle(record)
        elif kind == _WARNING:
            _warn(*pickle.loads(data))
        else:
            self._write(kind, data.decode("utf-8", "surrogatepass"))

    def _write(self, kind: int, text: str) -> None:
        stream = sys.stdout if kind == _OUT else sys.stderr
        if stream is None:
            return
        text, is_whole = self._prefixed(kind, text), text.endswith("\n")
        try:
            _write(stream, text)
            if not is_whole:
                # Somebody wants to see it before its line is complete.
                stream.flush()
        except (OSError, ValueError):
            # Closed, or nobody reads it any more: that is worth saying once.
            if not self._has_complained[kind]:
                self._has_complained[kind] = True
                raise

    def _prefixed(self, kind: int, text: str) -> str:
        if not self._prefix:
            return text
        first = "" if self._is_within_line[kind] else self._prefix
        self._is_within_line[kind] = not text.endswith("\n")
        # Not splitlines(), which takes other characters for the end of a line, too.
        return first + re.sub(r"\n(?!\Z)", "\n" + self._prefix, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _warn(text: str, category: type[Warning], filename: str, lineno: int) -> None:
    """Issue a warning as if its line had run here: this process's filters say what becomes of it."""
    module, registry = None, _registry
    for name, known in list(sys.modules.items()):
        if getattr(known, "__file__", None) == filename:
            module, registry = name, known.__dict__.setdefault("__warningregistry__", {})
            break
    warnings.warn_explicit(text, category, filename, lineno, module, registry)


_registry: dict[Any, Any] = {}
"""What was warned of in modules that are not loaded here."""
