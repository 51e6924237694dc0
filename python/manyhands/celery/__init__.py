"""Celery's names for manyhands' queue: a Celery program moves by changing what it imports.

``from manyhands.celery import Celery, shared_task`` instead of ``from celery import Celery, shared_task``.
What Celery has and manyhands has not is named in a `CelerySettingWarning`, and never ends the program. Where
the two differ by default, these names follow Celery: messages are settled before the task runs
(``task_acks_late``), results are kept nowhere without a ``result_backend``, a task that does not say so is
not tried again.
"""

from __future__ import annotations

from manyhands.celery.app import Celery
from manyhands.celery.current import current_app, shared_task, signature
from manyhands.celery.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from manyhands.celery.result import AsyncResult
from manyhands.celery.settings import CelerySettingWarning
from manyhands.celery.tasks import Task
from manyhands.celery.utils.log import get_task_logger
from manyhands.queue.app import current_task
from manyhands.queue.signature import Signature

__all__ = [
    "AsyncResult",
    "Celery",
    "CelerySettingWarning",
    "Ignore",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Reject",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "WorkerLostError",
    "current_app",
    "current_task",
    "get_task_logger",
    "shared_task",
    "signature",
]

_NOT_HERE = ("chain", "chord", "chunks", "group", "maybe_signature", "schedules", "signals", "xmap")


def __getattr__(name: str) -> object:
    if name in _NOT_HERE:
        # No AttributeError, of which `from … import` would show nothing.
        raise ImportError(
            f"could not import {name!r} from 'manyhands.celery': manyhands has none yet\n"
            "hint: tasks can send each other; schedules are for cron or a systemd timer"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
