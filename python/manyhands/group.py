"""Structured concurrency: a block that its tasks cannot outlive."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from manyhands.errors import Cancelled
from manyhands.executors.base import Executor
from manyhands.executors.by_name import _needs_loop, executor
from manyhands.futures import Future, _settle, wait

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

if sys.version_info >= (3, 11):
    from builtins import BaseExceptionGroup
else:
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

__all__ = ["TaskGroup"]

P = ParamSpec("P")
T = TypeVar("T")


class TaskGroup:
    """A block of tasks: leaving it waits for all of them, and the first failure cancels the rest.

    Use it with ``with`` from plain code and with ``async with`` on an asyncio loop, which goes on with other
    things while the block waits. If tasks failed, or the block's own body did, leaving raises an
    ``ExceptionGroup`` of all those errors. Cancelled tasks are not errors. What runs on a thread when the
    group is cancelled is interrupted at its next bytecode.

    Args:
        on: What `executor` takes ("thread", "process", "async", "process+async", the address of a cluster),
            or an executor, which is left open. By name, an ``async def`` function always runs on an event
            loop.
        workers: As for `executor`.

    Raises:
        ValueError: An unknown model.

    Example:
        >>> import manyhands as mh
        >>> with mh.TaskGroup() as group:
        ...     squares = [group.submit(pow, n, 2) for n in range(3)]
        >>> [square.result() for square in squares]
        [0, 1, 4]

    Source: the nurseries of trio; ``asyncio.TaskGroup``, whose rules for errors it follows.
    """

    def __init__(self, on: str | Executor = "thread", *, workers: int | None = None) -> None:
        if isinstance(on, Executor):
            if workers is not None:
                raise ValueError("could not make the group: `workers` is the executor's own business")
            self._executor, self._owns = on, False
        else:
            self._executor, self._owns = executor(on, workers, name="group"), True
        self._on, self._workers = on, workers
        self._loops: Executor | None = None
        self._opening = threading.Lock()
        self._futures: list[Future[Any]] = []
        self._is_open = False
        self._is_cancelled = False

    @overload
    def submit(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule ``fn(*args, **kwargs)`` in the group and return its future.

        A task may submit further ones, as long as the block has not been left. In a group that was cancelled,
        as by the failure of a task, the future is cancelled from the start.

        Raises:
            RuntimeError: The block was not entered, or was left.
        """
        if not self._is_open:
            raise RuntimeError("could not submit to the group: submit within its `with` block")
        if self._is_cancelled:
            future: Future[Any] = Future()
            future.cancel()
            return future
        future = self._executor_for(fn).submit(fn, *args, **kwargs)
        self._futures.append(future)
        if self._is_cancelled:
            # Meanwhile, by another thread, which did not know of this task.
            future.cancel(force=True)
        future.add_done_callback(self._look_at)
        return future

    def cancel(self) -> None:
        """Cancel every task of the group, running ones too, and take no more."""
        self._is_cancelled = True
        unfinished = [future for future in self._futures if not future.done()]
        # Those that have not begun first: they must not begin in the places of those that are stopped.
        for future in sorted(unfinished, key=lambda future: future.running()):
            future.cancel(force=True)

    def _executor_for(self, fn: Callable[..., Any]) -> Executor:
        """The group's own executor, or a second one with an event loop for ``async def`` functions."""
        if not self._owns or not _needs_loop(self._on, fn):
            return self._executor
        with self._opening:
            if self._loops is None:
                self._loops = executor("async", self._workers, name="group")
            return self._loops

    def _look_at(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is not None and not self._is_cancelled:
            self.cancel()

    def __enter__(self) -> Self:
        """Open the group."""
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all tasks; raise what went wrong."""
        if error is not None:
            self.cancel()
        try:
            while pending := [future for future in self._futures if not future.done()]:
                wait(pending)
        except BaseException:
            self.cancel()
            raise
        finally:
            self._close()
        self._raise(error)

    async def __aenter__(self) -> Self:
        """Open the group."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all tasks on the running loop; raise what went wrong."""
        if error is not None:
            self.cancel()
        try:
            for future in self._futures:  # which grows meanwhile, as tasks submit others
                if not future.done():
                    await _settle(future)
        except BaseException:
            self.cancel()
            raise
        finally:
            self._close()
        self._raise(error)

    def _close(self) -> None:
        self._is_open = False
        for ours in (self._executor, self._loops) if self._owns else ():
            if ours is not None:
                ours.shutdown(wait=False)

    def _raise(self, error: BaseException | None) -> None:
        settled = (future for future in self._futures if not future.cancelled())
        errors = [failure for future in settled if (failure := future.exception()) is not None]
        if error is not None and not isinstance(error, Exception):
            # Ctrl-C, or the cancellation of who runs the block: no failure, it goes on as it is.
            return
        if error is not None and not self._is_echo(error, errors):
            errors.insert(0, error)
        if errors:
            raise BaseExceptionGroup("tasks of the group failed", errors) from None

    @staticmethod
    def _is_echo(error: Exception, failures: list[BaseException]) -> bool:
        """Whether the body failed only because it asked for a task that failed or was cancelled."""
        return any(error is failure for failure in failures) or (
            isinstance(error, Cancelled) and bool(failures)
        )
