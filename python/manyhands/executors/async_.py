"""Tasks on asyncio event loops in background threads."""

from __future__ import annotations

import asyncio
import itertools
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from manyhands import _core
from manyhands.executors.base import Executor, _Hands, _start_thread

if TYPE_CHECKING:
    from manyhands.futures import Future

__all__ = ["AsyncExecutor"]

P = ParamSpec("P")
T = TypeVar("T")
_numbers = itertools.count()


class AsyncExecutor(Executor):
    """Runs ``async def`` functions on event loops in background threads.

    Any thread may submit; up to `concurrency` coroutines are in flight on each loop, the rest queue. A
    coroutine is cancelled at its next ``await`` when its future is cancelled or its time limit passes. What
    is queued at the interpreter's exit still runs.

    Args:
        loops: How many event loops; more than one helps only code that computes between its awaits without
            the GIL.
        concurrency: How many coroutines may be in flight on one loop.
        initializer: Called on each loop's thread, with its loop set, before its first task; see
            `ThreadExecutor`.
        initargs: The arguments of `initializer`.
        loop_factory: Makes each event loop; by default ``asyncio.new_event_loop``.
        name: What thread names begin with.

    Raises:
        ValueError: `loops` or `concurrency` is not positive.
        TypeError: `initializer` is not callable.

    Example:
        >>> import asyncio, manyhands as mh
        >>> async def double(x):
        ...     await asyncio.sleep(0.01)
        ...     return 2 * x
        >>> with mh.AsyncExecutor() as pool:
        ...     pool.submit(double, 21).result()
        42
    """

    model: ClassVar[str] = "async"

    def __init__(
        self,
        loops: int = 1,
        concurrency: int = 1000,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        name: str | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"could not make the executor: the initializer {initializer!r} is not callable")

        def prepare() -> None:
            if initializer is not None:
                initializer(*initargs)

        self._open(loops, concurrency, loop_factory, prepare, name=name)

    def _open(
        self,
        loops: int,
        concurrency: int,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        prepare: Callable[[], object] = int,
        finish: Callable[[], object] = int,
        name: str | None = None,
    ) -> None:
        """Be open; each loop's thread calls `prepare` before its first task, and `finish` after the last."""
        for option, found in (("loops", loops), ("concurrency", concurrency)):
            if found < 1:
                raise ValueError(f"could not make the executor: found {option}={found}, expected 1 or more")
        self.capacity = loops * concurrency
        prefix = name or f"AsyncExecutor-{next(_numbers)}"
        self._hands, self._name = _Hands(), prefix
        hands = weakref.ref(self._hands)
        numbers = itertools.count()

        # A closure without `self`: the workers must not keep the executor alive.
        def spawn(hand: _core.Loop) -> None:
            def run(thread_name: str) -> None:
                try:
                    _serve(hand, thread_name, loop_factory, prepare)
                finally:
                    finish()

            _start_thread(hands, hand, run, f"{prefix}_{next(numbers)}")

        self._open_loops(loops, concurrency, spawn)

    if TYPE_CHECKING:
        # The same methods, in other types: what a coroutine function returns is not what its task gives.
        def submit(  # type: ignore[override]  # noqa: D102
            self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
        ) -> Future[T]: ...

        def map(  # type: ignore[override]  # noqa: D102
            self,
            fn: Callable[..., Awaitable[T]],
            *iterables: Iterable[Any],
            timeout: float | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...


def _serve(
    hand: _core.Loop,
    name: str,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    prepare: Callable[[], object],
) -> None:
    """Run one event loop until its pool is closed and nothing is left to do."""
    loop = loop_factory()
    asyncio.set_event_loop(loop)
    try:
        try:
            prepare()
        except BaseException:
            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            hand.break_down()
            return
        hand.attach(name, loop)
        try:
            loop.run_forever()
        finally:
            hand.detach()
            _clean(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _clean(loop: asyncio.AbstractEventLoop) -> None:
    """End what tasks left behind on the loop, as ``asyncio.run`` does."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
