"""Celery's names of exceptions; the module is called as Celery's is."""

from __future__ import annotations

import sys

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

__all__ = [
    "Ignore",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Reject",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
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
if sys.version_info >= (3, 11):
    TimeoutError = TimeoutError
else:
    from concurrent.futures import TimeoutError
"""What waiting for a result raises when the time is over, as Celery names it."""
