"""`map` and its family: a function over many items, with limits, retries, progress and outcomes."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

from manyhands import _core
from manyhands._core import Policy
from manyhands.executors.base import Executor
from manyhands.executors.by_name import _needs_loop, executor

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from manyhands._core import Outcome
    from manyhands.executors.base import AttemptOptions, RetryOn
    from manyhands.summary import MapSummary

__all__ = ["MapIterator", "map", "starmap"]

T = TypeVar("T")
A = TypeVar("A")
_OnError = Literal["raise", "return", "skip"]

_ASYNC_WORKERS = 100
"""Coroutines in flight by default, as many as the usual HTTP clients keep connections."""


class MapIterator(_core.Mapped[T]):
    """The values of a function for many items, as they come. Made by `map` and `starmap`.

    An iterator and an asynchronous iterator. It reads its input only as far ahead as its buffer is large.
    When it ends, by exhaustion, an error, Ctrl-C, `close()` or because nobody refers to it any more, what is
    in flight is cancelled and stopped. Use it in a ``with`` block if you may leave the loop early and want
    that at once.

    Thread safety: one thread at a time; a second one gets a ValueError.

    Example:
        >>> import itertools, manyhands as mh
        >>> with mh.map(abs, itertools.count(-2)) as values:
        ...     list(itertools.islice(values, 4))
        [2, 1, 0, 1]
    """

    def __enter__(self) -> MapIterator[T]:
        """Return itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the map."""
        self.close()

    async def __aiter__(self) -> AsyncIterator[T]:
        """Iterate on the running asyncio loop, which goes on with other things meanwhile."""
        try:
            while True:
                try:
                    ready = self._poll()
                except StopAsyncIteration:
                    return
                if ready is not None:
                    yield ready[0]
                else:
                    await self._settled()
        finally:
            self.close()

    async def __anext__(self) -> T:
        """Return the next value, for ``anext()``; if that is cancelled, the map goes on."""
        while (ready := self._poll()) is None:
            await self._settled()
        return ready[0]

    async def _settled(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        if self._enrol_loop(loop, woken):
            await woken

    def summary(self) -> MapSummary:
        """Return what has been done so far, or in all once the map is over."""
        from manyhands.summary import Cost, MapSummary  # costs what `dataclasses` does

        figures = self._figures()
        costliest = [Cost(*cost) for cost in figures.pop("costliest")]
        total = figures["succeeded"] + figures["failed"]
        return MapSummary(total=total, costliest=costliest, **figures)


if TYPE_CHECKING:

    class MapOptions(AttemptOptions, total=False):
        """The options of `map`, for type checkers; `on_error` stands apart, for it changes the result."""

        on: str | Executor
        workers: int | None
        ordered: bool
        buffersize: int | None
        progress: bool | str
        seed: int | None


class _Options:
    """Every option of `map`, once, with its default. The policy's are those of `Policy`."""

    on: str | Executor = "thread"
    workers: int | None = None
    ordered: bool = True
    timeout: float | None = None
    total_timeout: float | None = None
    retries: int = 0
    retry_on: RetryOn = Exception
    backoff: float | None = None
    max_backoff: float | None = None
    rate: str | float | None = None
    buffersize: int | None = None
    progress: bool | str = False
    on_error: _OnError = "raise"
    seed: int | None = None

    def __init__(self, **given: Any) -> None:
        for name in given:
            if name not in _Options.__annotations__:
                known = ", ".join(_Options.__annotations__)
                raise TypeError(f"could not map: found the option {name!r}, expected one of {known}")
        self.__dict__.update(given)

    def policy(self) -> Policy:
        """Return the terms of each task."""
        names = ("timeout", "total_timeout", "retries", "retry_on", "backoff", "max_backoff", "rate")
        return Policy(**{name: getattr(self, name) for name in names})

    def check(self) -> None:
        """Raise ValueError for what nobody can have meant."""
        if self.on_error not in get_args(_OnError):
            raise ValueError(
                f'could not map: found on_error={self.on_error!r}, expected "raise", "return" or "skip"'
            )
        for name in ("workers", "buffersize"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"could not map: found {name}={value}, expected 1 or more")

    def executor(self, function: Callable[..., Any]) -> tuple[Executor, bool]:
        """Return the executor to use and whether it is ours to close."""
        if isinstance(self.on, Executor):
            if self.workers is not None:
                raise ValueError(
                    "could not map: `workers` is the executor's own business when `on` is an executor"
                )
            return self.on, False
        if _needs_loop(self.on, function):
            return executor("async", self.workers or _ASYNC_WORKERS, name="map"), True
        workers = self.workers or _ASYNC_WORKERS if self.on == "async" else self.workers
        return executor(self.on, workers, name="map"), True


@overload
def map(
    fn: Callable[[A], Awaitable[T]],
    iterable: Iterable[A],
    /,
    *,
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def map(
    fn: Callable[[A], Awaitable[T]],
    iterable: Iterable[A],
    /,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
@overload
def map(
    fn: Callable[[A], T],
    iterable: Iterable[A],
    /,
    *,
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def map(
    fn: Callable[[A], T],
    iterable: Iterable[A],
    /,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
@overload
def map(
    fn: Callable[..., Awaitable[T]],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def map(
    fn: Callable[..., Awaitable[T]],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
@overload
def map(
    fn: Callable[..., T],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def map(
    fn: Callable[..., T],
    first: Iterable[Any],
    second: Iterable[Any],
    /,
    *more: Iterable[Any],
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
def map(fn: Callable[..., Any], *iterables: Iterable[Any], **options: Any) -> MapIterator[Any]:
    """Return a lazy iterator over ``fn(item)`` for every item, run on many workers at once.

    The input is pulled as the results are taken, so an endless generator works and memory stays flat. A plain
    function runs on threads, an ``async def`` function on an event loop. The result is an iterator and, for
    ``async for``, an asynchronous iterator; see `MapIterator` for how it ends and for its `summary()`.

    Args:
        fn: The function; with several iterables it gets one item of each.
        *iterables: The input. The shortest decides.
        on: "thread", "process", "async", "process+async" or the address of a cluster, as `executor` takes it,
            or an executor, which is left open. An ``async def`` function always runs on event loops.
        workers: How many items are worked on at once: threads or processes (default: as their executors) or
            coroutines (default 100).
        ordered: Hand results out in the order of the input; otherwise as they are settled.
        timeout: Seconds that one attempt may take; see `Policy`.
        total_timeout: Seconds from an item's submission until it is given up, over all attempts.
        retries: How often a failed attempt is repeated.
        retry_on: Which exceptions are worth another attempt: a class, a tuple of them, or a function.
        backoff: Seconds before the first retry, at most; doubled for each further one, and randomised.
        max_backoff: The most seconds between two attempts.
        rate: How often attempts may start: "100/s", "6/m", "1000/h", or a number per second; see `Policy`.
        buffersize: How many items may be in flight or waiting to be taken. By default twice the number of
            workers, more for items that take microseconds.
        progress: Draw a progress bar on standard error; a string is its label.
        on_error: "raise": the first failure ends the iteration, and what is in flight is stopped. "return":
            every item arrives as an `Outcome`. "skip": failed items are left out, and counted in the summary.
        seed: Gives each item its own random stream, see `item_random`.
        **options: The above.

    Raises:
        TypeError: An option that does not exist, or input that is not iterable.
        ValueError: An option out of its range.
        WrongExecutor: A plain function with ``on="async"``.

    Example:
        >>> import manyhands as mh
        >>> list(mh.map(str.upper, ["a", "b", "c"], workers=2))
        ['A', 'B', 'C']
        >>> [outcome.ok for outcome in mh.map(int, ["1", "x"], on_error="return")]
        [True, False]
    """
    if not iterables:
        raise TypeError("could not map: found no iterables, expected at least one")
    if len(iterables) == 1:
        return _start(fn, iterables[0], False, _total(iterables), options)
    return _start(fn, zip(*iterables, strict=False), True, _total(iterables), options)


@overload
def starmap(
    fn: Callable[..., Awaitable[T]],
    iterable: Iterable[Iterable[Any]],
    *,
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def starmap(
    fn: Callable[..., Awaitable[T]],
    iterable: Iterable[Iterable[Any]],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
@overload
def starmap(
    fn: Callable[..., T],
    iterable: Iterable[Iterable[Any]],
    *,
    on_error: Literal["return"],
    **options: Unpack[MapOptions],
) -> MapIterator[Outcome[T]]: ...
@overload
def starmap(
    fn: Callable[..., T],
    iterable: Iterable[Iterable[Any]],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    **options: Unpack[MapOptions],
) -> MapIterator[T]: ...
def starmap(fn: Callable[..., Any], iterable: Iterable[Iterable[Any]], **options: Any) -> MapIterator[Any]:
    """Return a lazy iterator over ``fn(*args)`` for every `args` of the iterable; else like `map`.

    Example:
        >>> import manyhands as mh
        >>> list(mh.starmap(pow, [(2, 3), (3, 2)]))
        [8, 9]
    """
    return _start(fn, iterable, True, _total((iterable,)), options)


def _start(
    fn: Callable[..., Any], source: Iterable[Any], spread: bool, total: int | None, given: dict[str, Any]
) -> MapIterator[Any]:
    if not callable(fn):
        raise TypeError(f"could not map: found {fn!r} as the function, which is not callable")
    options = _Options(**given)
    options.check()
    policy = options.policy()
    iterator = iter(source)
    executor, ours = options.executor(fn)
    label = options.progress if isinstance(options.progress, str) else getattr(fn, "__name__", "map")
    return MapIterator(
        executor.with_policy(policy),
        executor._fitted(fn),
        iterator,
        spread=spread,
        ordered=options.ordered,
        on_error=options.on_error,
        buffersize=options.buffersize,
        capacity=executor.capacity,
        total=total,
        progress=label if options.progress else None,
        seed=None if options.seed is None else _as_seed(options.seed),
        owns_executor=ours,
    )


def _total(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """How many items there are, if every iterable knows its length."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except TypeError:
        return None


def _as_seed(seed: int) -> int:
    """Any whole number, folded to 64 bits."""
    from random import Random

    number = operator.index(seed)
    return number if 0 <= number < 1 << 64 else Random(number).getrandbits(64)
