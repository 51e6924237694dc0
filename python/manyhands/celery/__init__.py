"""Celery's names for manyhands' queue: a Celery program moves by changing what it imports.

``from manyhands.celery import Celery, shared_task`` instead of ``from celery import Celery, shared_task``.
What Celery has and manyhands has not is named in a `CelerySettingWarning`, and never ends the program. Where
the two differ by default, these names follow Celery: messages are settled before the task runs
(``task_acks_late``), results are kept nowhere without a ``result_backend``, a task that does not say so is
not tried again.
"""

from __future__ import annotations

from manyhands.celery.app import AsyncResult, Celery, current_app, get_task_logger, shared_task, signature
from manyhands.celery.settings import CelerySettingWarning
from manyhands.celery.tasks import Task
from manyhands.errors import (
    BrokerError,
    Ignore,
    MaxRetriesExceeded,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevoked,
    TaskTimeout,
    UnknownTask,
    WorkerDied,
)
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

MaxRetriesExceededError = MaxRetriesExceeded
"""Celery's name of `MaxRetriesExceeded`."""
NotRegistered = UnknownTask
"""Celery's name of `UnknownTask`."""
OperationalError = BrokerError
"""Kombu's name of `BrokerError`."""
TaskRevokedError = TaskRevoked
"""Celery's name of `TaskRevoked`."""
TimeLimitExceeded = TaskTimeout
"""Celery's name of `TaskTimeout`."""
WorkerLostError = WorkerDied
"""Celery's name of `WorkerDied`."""
