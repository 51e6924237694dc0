"""What became of a task, for whoever has its id."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from manyhands.errors import BrokerError
from manyhands.queue._outcomes import READY, error_of
from manyhands.queue.request import _running

if TYPE_CHECKING:
    import asyncio

    from manyhands import _core
    from manyhands.queue.app import Queue

__all__ = ["AsyncResult"]

_EXCEPTIONS = ("FAILURE", "REVOKED")


class AsyncResult:
    """The outcome of a task that was sent, or how far it is.

    Two of the same id are equal. Making one asks nobody: any id has one, and is "PENDING" until something is
    known of it.

    Thread safety: every method may be called from any thread. ``await result`` waits in an asyncio task.

    Args:
        id: The task's id.
        queue: Whose result store is asked.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", eager=True)
        >>> @queue.task
        ... def double(n):
        ...     return 2 * n
        >>> result = double.delay(21)
        >>> result.get(timeout=5), result.status
        (42, 'SUCCESS')
    """

    __slots__ = ("__weakref__", "_known", "_queue", "id")

    id: str
    """The task's id."""

    def __init__(self, id: str, queue: Queue) -> None:
        self.id, self._queue = id, queue
        self._known: Mapping[str, Any] | None = None

    def get(self, timeout: float | None = None, *, propagate: bool = True) -> Any:
        """Wait for the task, and return what it returned.

        Args:
            timeout: Give up waiting after so many seconds; the task goes on.
            propagate: Raise the task's exception; False returns it instead.

        Raises:
            concurrent.futures.TimeoutError: Nothing came in time.
            BrokerError: The result store is away, or there is none.
            TaskRevoked: The task was revoked, or came too late.
        """
        if self._known is None:
            self._refuse_to_wait_in_a_task(timeout)
            store = self._store()
            self._keep(store.wait(self.id, timeout, patience=self._queue._patience))
        return self._outcome(propagate)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the task in an asyncio task; returns what it returned, or raises."""
        if self._known is None:
            waiting = self._store().begin_wait(self.id, patience=self._queue._patience)
            self._keep((yield from _brought(waiting).__await__()))
        return self._outcome(True)

    def ready(self) -> bool:
        """Whether the task is over, however it ended."""
        return self.state in READY

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether the task has raised."""
        return self.state == "FAILURE"

    @property
    def state(self) -> str:
        """How far it is: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a state of the task's own.

        PENDING is also what one says of a task that nobody knows.
        """
        return str(self._look().get("status", "PENDING"))

    @property
    def status(self) -> str:
        """The same as `state`."""
        return self.state

    @property
    def result(self) -> Any:
        """What it returned or the exception that it raised; None if there is neither yet."""
        found = self._look()
        if found.get("status") in (*_EXCEPTIONS, "RETRY"):
            return error_of(found)
        return found.get("result")

    @property
    def info(self) -> Any:
        """The same as `result`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The traceback of the exception that it raised, as text."""
        found = self._look().get("traceback")
        return None if found is None else str(found)

    def revoke(self, *, terminate: bool = False) -> None:
        """Have workers drop the task if it has not begun, see `Queue.revoke`.

        Args:
            terminate: It is ended also if it runs.
        """
        self._queue.revoke(self.id, terminate=terminate)

    def forget(self) -> None:
        """Delete what the result store knows of it."""
        self._known = None
        self._store().forget(self.id)

    def _store(self) -> _core.ResultStore:
        store = self._queue._results
        if store is None:
            raise BrokerError(
                f"could not ask for the result of {self.id}: the queue {self._queue.name!r} keeps none"
            )
        return store

    def _look(self) -> Mapping[str, Any]:
        """What is known now."""
        if self._known is None:
            found = self._store().get(self.id)
            if found is None:
                return {}
            document = self._decoded(found)
            if document.get("status") not in READY:
                return document
            self._known = document
        return self._known

    def _keep(self, found: tuple[str, bytes]) -> None:
        self._known = self._decoded(found)

    def _decoded(self, found: tuple[str, bytes]) -> Mapping[str, Any]:
        return self._queue._read_document(*found)

    def _outcome(self, propagate: bool) -> Any:
        known = self._known
        assert known is not None
        if known.get("status") not in _EXCEPTIONS:
            return known.get("result")
        error = error_of(known)
        if propagate:
            raise error
        return error

    def _refuse_to_wait_in_a_task(self, timeout: float | None) -> None:
        running = _running.get()
        if running is not None and timeout is None and not running[1].is_eager:
            raise RuntimeError(
                f"could not wait for {self.id}: a task that waits for another without a timeout may wait for "
                "ever, for it keeps a worker from running the other\n"
                "hint: give a timeout, or let the other task go on where this one ends"
            )

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same task."""
        return self.id == other.id if isinstance(other, AsyncResult) else NotImplemented

    def __hash__(self) -> int:
        """That of the id."""
        return hash(self.id)

    def __str__(self) -> str:
        """The id."""
        return self.id

    def __repr__(self) -> str:
        """The id, without asking anybody."""
        return f"<AsyncResult {self.id}>"


class _EagerResult(AsyncResult):
    """The outcome of a task that ran where it was sent."""

    __slots__ = ("_eager",)

    def __init__(
        self,
        id: str,
        queue: Queue,
        state: str,
        value: Any,
        error: BaseException | None,
        traceback: str | None,
    ) -> None:
        super().__init__(id, queue)
        self._eager = error
        self._known = {"status": state, "result": value if error is None else error, "traceback": traceback}

    def _outcome(self, propagate: bool) -> Any:
        if self._eager is None or not propagate:
            return super()._outcome(False)
        raise self._eager

    def __await__(self) -> Generator[Any, None, Any]:
        """It is there already."""
        return self._outcome(True)
        yield

    def revoke(self, *, terminate: bool = False) -> None:
        """Do nothing: it is over."""

    def forget(self) -> None:
        """Do nothing: nobody else knows it."""


async def _brought(errand: _core.Errand) -> Any:
    """What an errand brings; given up, the errand is, too."""
    import asyncio  # whoever waits here has it already

    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def tell() -> None:
        loop.call_soon_threadsafe(_settle, over)

    errand.then(tell)
    try:
        await over
    except asyncio.CancelledError:
        errand.cancel()
        raise
    return errand.result()


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
