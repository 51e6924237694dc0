"""Futures: the handle of a task's outcome, and waiting for several of them.

`Future` is a ``concurrent.futures.Future`` made in Rust. It works wherever one works, and can also be
awaited.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from manyhands import _core

__all__ = ["Future", "as_completed", "gather", "race", "wait"]

T = TypeVar("T")
F = TypeVar("F", bound="concurrent.futures.Future[Any]")


class Future(_core.Future[T], concurrent.futures.Future[T]):
    """The handle of a task's outcome: PEP 3148's future, made in Rust, which can also be awaited.

    Executors make futures; a program waits for them, asks them, or hangs callbacks on them. `result()` from a
    thread and ``await`` from any asyncio loop give the same outcome. Cancelling the asyncio task that awaits
    a future cancels the future.

    A failure that nobody looks at is not lost: when the future is collected, a `TaskFailureWarning` shows it.

    Thread safety: every method may be called from any thread.

    Example:
        >>> import manyhands as mh
        >>> future = mh.Future()
        >>> future.set_result(42)
        >>> future.result()
        42

    Source: PEP 3148; ``concurrent.futures.Future`` of CPython, whose behaviour it follows.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait on the running asyncio loop for the outcome, and return or raise it.

        Raises:
            asyncio.CancelledError: The future, or the awaiting task, was cancelled.
        """
        import asyncio

        if not self.done():
            loop = asyncio.get_running_loop()
            woken = loop.create_future()
            # What it returns says, as long as it lives, that this task waits.
            enrolled = self._enrol_loop(loop, woken)
            if enrolled:
                try:
                    yield from woken.__await__()
                except asyncio.CancelledError:
                    self.cancel()
                    raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()


if TYPE_CHECKING:

    @overload
    def gather(
        *futures: concurrent.futures.Future[T],
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
    ) -> Future[list[T]]: ...
    @overload
    def gather(
        *futures: concurrent.futures.Future[T], return_exceptions: bool, timeout: float | None = None
    ) -> Future[list[T | BaseException]]: ...
    def gather(*futures: Any, **options: Any) -> Future[Any]: ...  # noqa: D103
    def race(  # noqa: D103
        *futures: concurrent.futures.Future[T], timeout: float | None = None
    ) -> Future[T]: ...

else:
    from manyhands._core import gather, race


async def _settle(future: Future[Any]) -> None:
    """Wait on the running loop until a future is settled, whatever its outcome."""
    import asyncio

    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    if future._enrol_loop(loop, woken):
        await woken


def wait(
    futures: Iterable[concurrent.futures.Future[T]],
    timeout: float | None = None,
    return_when: str = concurrent.futures.ALL_COMPLETED,
) -> concurrent.futures._base.DoneAndNotDoneFutures[T]:
    """Wait until futures are settled.

    Args:
        futures: Futures of ours or of ``concurrent.futures``; duplicates count once.
        timeout: Seconds to wait at most; None waits for ever.
        return_when: ``concurrent.futures.ALL_COMPLETED``, ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION``.

    Returns:
        A named pair of sets, ``done`` and ``not_done``. Running out of time is not an error.

    Raises:
        ValueError: `return_when` is none of the three.
        TypeError: One of them is not such a future.

    Example:
        >>> import manyhands as mh
        >>> with mh.ThreadExecutor() as pool:
        ...     done, not_done = mh.wait([pool.submit(pow, 2, n) for n in range(3)], timeout=10)
        >>> sorted(future.result() for future in done), not_done
        ([1, 2, 4], set())
    """
    unique = list(dict.fromkeys(futures))
    positions = _core.wait_for(unique, timeout, return_when)
    done = {unique[position] for position in positions}
    return concurrent.futures._base.DoneAndNotDoneFutures(done, set(unique) - done)


class _Completed(_core.Completed[F]):
    """Futures in the order in which they are settled, for ``for`` and for ``async for``."""

    async def __aiter__(self) -> AsyncIterator[F]:
        import asyncio

        while len(self):
            future = self.take()
            if future is None:
                loop = asyncio.get_running_loop()
                woken = loop.create_future()
                if self.enrol_loop(loop, woken):
                    await asyncio.wait([woken], timeout=self.seconds_left())
            else:
                yield future


def as_completed(futures: Iterable[F], timeout: float | None = None) -> _Completed[F]:
    """Return an iterator over futures, each as soon as it is settled.

    Also an asynchronous iterator: ``async for future in as_completed(futures)`` lets the loop run meanwhile.

    Args:
        futures: Futures of ours or of ``concurrent.futures``; duplicates are yielded once.
        timeout: Seconds from this call until the iterator gives up; None waits for ever.

    Raises:
        concurrent.futures.TimeoutError: From the iterator, when it gives up; says how many are unfinished.
        TypeError: One of them is not such a future.

    Example:
        >>> import time, manyhands as mh
        >>> with mh.ThreadExecutor(2) as pool:
        ...     naps = {pool.submit(time.sleep, seconds): seconds for seconds in (0.2, 0.01)}
        ...     [naps[future] for future in mh.as_completed(naps)]
        [0.01, 0.2]
    """
    return _Completed(list(dict.fromkeys(futures)), timeout)
