"""What workers say besides results: lines of output, log records, warnings. The parent's side.

A worker (see `_speaking`) sends each as a message among its answers, so all that a task said comes before its
outcome. In the parent they go where they would have gone had the task run there: to the ``sys.stdout`` and
``sys.stderr`` of that moment, the logger of the same name, the ``warnings`` module.

What C code or another program writes to a descriptor is not seen here: it goes to the parent's own.
"""

from __future__ import annotations

import logging
import pickle
import re
import sys
import warnings
from typing import Any, TextIO

from manyhands.executors._speaking import OUT, RECORD, WARNING

__all__ = ["Listener", "levels"]


def levels() -> dict[str, Any]:
    """Return what this process's loggers let pass, for workers: a record that nobody wants costs nothing."""
    known = logging.root.manager.loggerDict.copy()
    explicit = {
        name: logger.level
        for name, logger in known.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"root": logging.root.level, "disable": logging.root.manager.disable, "loggers": explicit}


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
        if kind == RECORD:
            record = logging.makeLogRecord(pickle.loads(data))
            logging.getLogger(record.name).handle(record)
        elif kind == WARNING:
            _warn(*pickle.loads(data))
        else:
            self._write(kind, data.decode("utf-8", "surrogatepass"))

    def _write(self, kind: int, text: str) -> None:
        stream = sys.stdout if kind == OUT else sys.stderr
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
