"""Result documents, in Celery's form: what a worker stores of a task, and what whoever asks makes of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from manyhands.errors import (
    Ignore,
    MaxRetriesExceeded,
    Reject,
    RemoteTraceback,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevoked,
    TaskTimeout,
    UnknownTask,
    WorkerDied,
)

__all__ = ["document", "error_of", "error_record"]

READY = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
"""The states that change no more."""

# Ours by the names that Celery's readers know: they look the class up in a module that they have.
_CELERYS: dict[type[BaseException], tuple[str, str]] = {
    TaskRevoked: ("celery.exceptions", "TaskRevokedError"),
    MaxRetriesExceeded: ("celery.exceptions", "MaxRetriesExceededError"),
    UnknownTask: ("celery.exceptions", "NotRegistered"),
    Retry: ("celery.exceptions", "Retry"),
    Reject: ("celery.exceptions", "Reject"),
    Ignore: ("celery.exceptions", "Ignore"),
    SoftTimeLimitExceeded: ("billiard.exceptions", "SoftTimeLimitExceeded"),
    TaskTimeout: ("billiard.exceptions", "TimeLimitExceeded"),
    WorkerDied: ("billiard.exceptions", "WorkerLostError"),
}
_OURS = {name: kind for kind, (_, name) in _CELERYS.items()}


def error_record(error: BaseException) -> dict[str, Any]:
    """What a document says of an exception. Its arguments are to be ones that JSON holds."""
    kind = type(error)
    module, name = _CELERYS.get(kind, (kind.__module__, kind.__qualname__))
    return {"exc_type": name, "exc_message": [_plain(each) for each in error.args], "exc_module": module}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else _text(value)


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception as failure:
        return f"<{type(value).__name__} whose repr() raised {type(failure).__name__}>"


def document(
    id: str,
    state: str,
    result: Any,
    *,
    traceback: str | None = None,
    parent_id: str | None = None,
    group_id: str | None = None,
) -> dict[str, Any]:
    """The document of a task. For an exception, `result` is its `error_record`."""
    made: dict[str, Any] = {
        "status": state,
        "result": result,
        "traceback": traceback,
        "children": [],
        "date_done": datetime.now(timezone.utc).isoformat() if state in READY else None,
        "task_id": id,
    }
    if group_id is not None:
        made["group_id"] = group_id
    if parent_id is not None:
        made["parent_id"] = parent_id
    return made


def error_of(found: Mapping[str, Any]) -> BaseException:
    """The exception of a document, with the worker's traceback as its cause. Nothing is imported for it."""
    record = found.get("result")
    error = record if isinstance(record, BaseException) else _rebuilt(found.get("status"), record)
    traceback = found.get("traceback")
    if isinstance(traceback, str) and error.__cause__ is None:
        error.__cause__ = RemoteTraceback(traceback)
    return error


def _rebuilt(state: object, record: Any) -> BaseException:
    if not isinstance(record, Mapping) or not isinstance(record.get("exc_type"), str):
        return TaskRevoked(str(record)) if state == "REVOKED" else RuntimeError(_text(record))
    name, module = record["exc_type"], record.get("exc_module")
    message = record.get("exc_message")
    args = tuple(message) if isinstance(message, list | tuple) else (() if message is None else (message,))
    kind = _class_of(name, module)
    # Not by its constructor: that may ask for what is not in `args`.
    try:
        error = kind.__new__(kind, *args)
    except Exception:
        error = _stand_in(name, module).__new__(_stand_in(name, module))
    error.args = args
    if isinstance(error, TaskTimeout):
        _know_limit(error)
    elif isinstance(error, WorkerDied):
        error.task, error.pid, error.exitcode, error.peak_memory = "", None, None, None
    elif isinstance(error, UnknownTask):
        error.hint = (
            "the worker that took it knows no task of that name: does its -A import the one that has it?"
        )
    return error


def _know_limit(error: TaskTimeout) -> None:
    """Give one that was stored its fields, and for Celery's only argument, the limit, our words."""
    error.task, error.limit, error.attempts = "", float("nan"), 1
    if len(error.args) == 1 and isinstance(error.args[0], int | float):
        error.limit = float(error.args[0])
        error.args = (f"the task ran longer than its limit of {error.limit:g} s and was stopped",)


def _class_of(name: str, module: object) -> type[BaseException]:
    """The class of that name, if it is an exception that somebody has imported; otherwise one like it."""
    if isinstance(module, str):
        if module.partition(".")[0] in ("celery", "billiard") and name in _OURS:
            return _OURS[name]
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Exception):  # a stored result ends no program
            return found
    return _stand_in(name, module)


def _stand_in(name: str, module: object) -> type[BaseException]:
    short = name.rpartition(".")[2]
    return type(short, (Exception,), {"__module__": module if isinstance(module, str) else __name__})
