"""A task queue that speaks Celery's protocol: functions that run elsewhere, later, and for certain.

`Queue` is the application: it makes functions into `Task`s, which any process that has the same broker can
call, and any worker that has the same functions runs. With ``sqlite:///jobs.db`` as the broker no server is
needed; on Redis and RabbitMQ, Celery's own producers and workers may stand at the other side.

The exceptions are in `manyhands.errors`.
"""

from manyhands._lazy import imported_on_demand

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from manyhands.queue.app import Queue, current_task
    from manyhands.queue.request import Request
    from manyhands.queue.results import AsyncResult
    from manyhands.queue.signature import Signature
    from manyhands.queue.task import Task
    from manyhands.queue.worker import Worker
else:
    __getattr__, __dir__ = imported_on_demand(
        __name__,
        (),
        {
            "AsyncResult": "results",
            "Queue": "app",
            "Request": "request",
            "Signature": "signature",
            "Task": "task",
            "Worker": "worker",
            "current_task": "app",
        },
    )

__all__ = ["AsyncResult", "Queue", "Request", "Signature", "Task", "Worker", "current_task"]
