"""What every executor has: the face of ``concurrent.futures.Executor``, policies, figures, a clean exit."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeAlias, TypedDict, TypeVar

from manyhands import _core
from manyhands._core import Policy

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from manyhands.executors.figures import Statistics
    from manyhands.futures import Future

    RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], object]

    class AttemptOptions(TypedDict, total=False):
        """The options that `Policy` and `mh.map` share, for type checkers."""

        timeout: float | None
        total_timeout: float | None
        retries: int
        retry_on: RetryOn
        backoff: float | None
        max_backoff: float | None
        rate: str | float | None

    class PolicyOptions(AttemptOptions, total=False):
        """The options of `Policy`, for type checkers."""

        jitter: bool
        concurrency: int | None
        priority: int


__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")
_Hand: TypeAlias = _core.Thread | _core.Loop


class Executor(_core.Executor, concurrent.futures.Executor):
    """The common face of the executors; make a `ThreadExecutor`, a `ProcessExecutor` or an `AsyncExecutor`.

    A ``concurrent.futures.Executor``, so it works wherever one is asked for. Leaving its ``with`` block waits
    for every task. One that is forgotten without `shutdown()` finishes its queue and ends its workers.

    Thread safety: every method may be called from any thread.

    Example:
        >>> import manyhands as mh
        >>> def total(pool: mh.Executor) -> int:
        ...     return sum(pool.map(abs, [-1, 2, -3]))
        >>> with mh.ThreadExecutor(2) as pool:
        ...     total(pool)
        6
    """

    model: ClassVar[str]
    """The name of the model by which `mh.map` and the command line choose it."""

    capacity: int
    """How many tasks may run at once."""

    _hands: _Hands
    _name: str | None = None
    _policy: Policy | None = None

    if TYPE_CHECKING:
        # The core's own method, in the types of the layer above it.
        def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...  # noqa: D102

    def with_policy(self, policy: Policy | None = None, /, **options: Unpack[PolicyOptions]) -> Self:
        """Return a view of this executor whose tasks carry a policy.

        The view shares workers, queue, statistics and `shutdown()` with this executor. A rate or a
        concurrency limit counts for all tasks submitted through the same view.

        Args:
            policy: The terms; or give them as options.
            **options: What `Policy` takes: timeout, retries, rate, priority, …

        Example:
            >>> import manyhands as mh
            >>> with mh.ThreadExecutor(2) as pool:
            ...     patient = pool.with_policy(retries=3, timeout=10)
            ...     patient.submit(pow, 2, 5).result()
            32
        """
        if policy is not None and options:
            raise TypeError("could not set the policy: found a Policy and options, expected one or the other")
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._policy = Policy(**options) if policy is None else policy
        view._open_view(self, view._policy)
        return view

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn(*items)`` for the items of the iterables, in order.

        Everything is submitted at once, as ``concurrent.futures`` does, unless `buffersize` is given.
        `mh.map` is lazy, and has retries, limits, progress and outcomes.

        Args:
            fn: The function; on an `AsyncExecutor` an ``async def`` function.
            *iterables: As for the builtin ``map``; the shortest decides.
            timeout: Seconds from this call until the iterator gives up.
            chunksize: Ignored: a task here costs too little to be worth batching, and worker processes are
                given as many small items at once as they can do in about a millisecond.
            buffersize: How many results may be waiting to be taken; the input is read that far ahead and no
                further.

        Raises:
            concurrent.futures.TimeoutError: From the iterator, when it gives up.
            ValueError: `buffersize` is not positive.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        function = self._fitted(fn)
        if len(iterables) == 1:
            return _core.map_calls(self, function, iter(iterables[0]), False, timeout, buffersize)
        return _core.map_calls(self, function, zip(*iterables, strict=False), True, timeout, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks.

        Args:
            wait: Return when all tasks are done and the workers have ended. Functions that were stopped at a
                limit and have not returned are not waited for.
            cancel_futures: Cancel the tasks that have not begun.
        """
        self._close(cancel_futures)
        if wait:
            _join(self._hands)

    def statistics(self) -> Statistics:
        """Return the figures of the executor and all its views, since it was made.

        Example:
            >>> import manyhands as mh
            >>> with mh.ThreadExecutor(2) as pool:
            ...     doubled = list(pool.map(abs, range(5)))
            >>> pool.statistics().succeeded
            5
        """
        from manyhands.executors.figures import Statistics, TimesSummary  # costs what `dataclasses` does

        figures = self._statistics()
        return Statistics(
            **{**figures, "wait": TimesSummary(*figures["wait"]), "run": TimesSummary(*figures["run"])}
        )

    def __repr__(self) -> str:
        """Its kind, size, policy and state."""
        name = f"name={self._name!r} " if self._name else ""
        policy = f" policy={self._policy!r}" if self._policy is not None else ""
        try:
            queued, state = self._statistics()["queued"], " closed" if self._shutdown else ""
            return f"<{type(self).__name__} {name}capacity={self.capacity} queued={queued}{policy}{state}>"
        except (AttributeError, RuntimeError):  # its __init__ has not run, or failed
            return f"<{type(self).__name__} not open>"

    def _fitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function in the form that the workers take."""
        return function

    @property
    def _threads(self) -> set[threading.Thread]:
        return {thread for thread, hand in self._hands.items() if not hand.abandoned}


class _Hands(dict[threading.Thread, _Hand]):
    """The workers of one executor.

    They belong to the executor's Python object. What starts them, and lives as long as the pool, knows them
    only weakly: workers know their pool, and a circle of the three would never be freed.
    """

    __slots__ = ("__weakref__",)


_all_hands: dict[threading.Thread, _Hand] = {}
"""Every worker of the process that has not ended: they finish their queues before the interpreter exits."""


def _start_thread(
    hands: weakref.ref[_Hands], hand: _Hand, run: Callable[..., object], name: str, *args: Any
) -> None:
    """Run a worker in a thread; remember it in `hands` and, while it lives, for the interpreter's exit."""

    def live() -> None:
        try:
            if hand.begin():
                run(name, *args)
        finally:
            _all_hands.pop(thread, None)

    thread = threading.Thread(target=live, name=name, daemon=True)
    known = hands()
    _all_hands[thread] = hand
    try:
        thread.start()
        if known is not None:
            for ended in [other for other in list(known) if not other.is_alive()]:
                known.pop(ended, None)
            known[thread] = hand
    except BaseException:
        if hand.revoke():
            _all_hands.pop(thread, None)
            if known is not None:
                known.pop(thread, None)
        elif known is not None:
            # Ctrl-C has come when the thread was there already: it stays, and is waited for.
            known[thread] = hand
        raise


def _join(hands: dict[threading.Thread, _Hand]) -> None:
    """Wait for workers to end, but not for those that were given up in a task."""
    while waited_for := [(thread, hand) for thread, hand in list(hands.items()) if thread.is_alive()]:
        for thread, hand in waited_for:
            if thread is threading.current_thread():
                hands.pop(thread, None)
                continue
            hand.wait_until_over()
            if hand.abandoned:
                hands.pop(thread, None)
            else:
                thread.join()


_process_pools: list[_core.ProcessPool] = []
"""The pools of processes that are not over: they finish before the interpreter exits."""


def _remember(pool: _core.ProcessPool) -> None:
    """Have the interpreter's exit wait for a pool of processes."""
    _process_pools[:] = [known for known in _process_pools if not known.is_over]
    _process_pools.append(pool)


def _finish_all() -> None:
    """Let every executor finish its queue before the interpreter exits, as ``concurrent.futures`` does."""
    _core.refuse_new_tasks()
    pools = list(_process_pools)
    for hand in [*_all_hands.values(), *pools]:
        hand.close()
    if _was_interrupted():
        for pool in pools:
            pool.stop()
    _join(_all_hands)
    for pool in pools:
        pool.wait_until_over()


def _was_interrupted() -> bool:
    """Whether Ctrl-C has ended the program. What was interrupted at a prompt is over long ago."""
    last = getattr(sys, "last_type", None)
    return last is not None and issubclass(last, KeyboardInterrupt) and not hasattr(sys, "ps1")


try:
    # Before the interpreter joins threads, while everything still works; plain atexit is too late for that.
    threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
except AttributeError:
    atexit.register(_finish_all)
os.register_at_fork(after_in_child=_all_hands.clear)
os.register_at_fork(after_in_child=_process_pools.clear)
