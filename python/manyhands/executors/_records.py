"""Log records of a worker, on their way to its parent."""

from __future__ import annotations

import logging
import pickle

from manyhands import _core
from manyhands.executors._speaking import RECORD

__all__ = ["Handler"]

_LONGEST = 1 << 16
"""Bytes of a pickled record; a longer one is cut."""


class Handler(logging.Handler):
    """Sends the records of all loggers."""

    def __init__(self, worker: _core.ProcessWorker, name: str) -> None:
        super().__init__()
        self._worker, self._process = worker, name

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._worker.note(RECORD, _pack(record, self._process))
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
