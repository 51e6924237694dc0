"""Outcomes of tasks with Celery's arguments; the module is called as Celery's is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.celery.current import _default_app
from manyhands.queue.results import AsyncResult as _AsyncResult

if TYPE_CHECKING:
    from manyhands.queue.app import Queue

__all__ = ["AsyncResult"]


class AsyncResult(_AsyncResult):
    """The outcome of a task by its id, with Celery's arguments.

    Args:
        id: The task's id.
        backend: Ignored.
        task_name: Ignored.
        app: The application; by default the current one.
        parent: Ignored.

    Example:
        >>> from manyhands.celery import AsyncResult, Celery
        >>> app = Celery("shop", broker="memory://", backend="memory://")
        >>> AsyncResult("nobody-knows").state
        'PENDING'
    """

    __slots__ = ()

    def __init__(
        self,
        id: str,
        backend: object = None,
        task_name: str | None = None,
        app: Queue | None = None,
        parent: object = None,
    ) -> None:
        super().__init__(id, app or _default_app())

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    def get(self, timeout: float | None = None, propagate: bool = True, **_: Any) -> Any:
        """Wait for the task, and return what it returned; see `mh.queue.AsyncResult.get`."""
        return super().get(timeout, propagate=propagate)

    wait = get

    def revoke(self, connection: object = None, *, terminate: bool = False, **_: Any) -> None:
        """Have workers drop the task if it has not begun; see `Queue.revoke`."""
        super().revoke(terminate=terminate)
