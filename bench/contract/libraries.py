"""The libraries, each told in its own words to do what the scenarios ask for. Two workers everywhere.

Where a library has several ways, the one that keeps most is taken: futures rather than a map for results
around a fault, its own limit for a task rather than a limit for waiting.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

Function = Callable[[Any], Any]


class Library(ABC):
    """How one library does it; the methods are called in one interpreter, at most once for each scenario."""

    name: ClassVar[str]
    requires: ClassVar[str | None] = None
    """The distribution to be installed; None for the standard library's and our own."""
    impossible: ClassVar[dict[str, str]] = {}
    """The scenarios that its model cannot have, and why."""

    @abstractmethod
    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        """Return the results of the items that did not fail."""

    def suffer(self, function: Function, items: Iterable[Any]) -> None:
        """Run items of which one kills its worker, and come back."""
        self.kept(function, items)

    @abstractmethod
    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Return its iterator over many items."""

    @abstractmethod
    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        """Return the results of the items that took no longer than that."""

    @abstractmethod
    def close(self) -> None:
        """Wait until everything is done."""


def values(gets: Iterable[Callable[[], Any]]) -> list[Any]:
    """What can be had."""
    found = []
    for get in gets:
        try:
            found.append(get())
        except Exception:
            continue
    return found


class Futures(Library):
    """Everything with the face of ``concurrent.futures``."""

    pool: concurrent.futures.Executor

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return values([self.pool.submit(function, item).result for item in items])

    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(function, items)

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        futures = [self.pool.submit(function, item) for item in items]
        return values([lambda future=future: future.result(seconds) for future in futures])

    def close(self) -> None:
        self.pool.shutdown()


class ProcessPool(Futures):
    name = "`ProcessPoolExecutor`"

    def __init__(self) -> None:
        self.pool = concurrent.futures.ProcessPoolExecutor(2)


THREADS = dict.fromkeys(("kill", "reuse"), "to kill a thread's process is to kill the program")


class ThreadPool(Futures):
    name = "`ThreadPoolExecutor`"
    impossible = THREADS

    def __init__(self) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(2)


class Loky(Futures):
    name = "loky"
    requires = "loky"

    def __init__(self) -> None:
        import loky

        self.pool = loky.ProcessPoolExecutor(2)


class MultiprocessingPool(Library):
    name = "`multiprocessing.Pool`"

    def __init__(self) -> None:
        self.pool = multiprocessing.Pool(2)

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return values([self.pool.apply_async(function, (item,)).get for item in items])

    def suffer(self, function: Function, items: Iterable[Any]) -> None:
        # Waiting without a limit hangs, which is the finding of another scenario.
        self.limited(function, items, 2)

    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items)

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        handles = [self.pool.apply_async(function, (item,)) for item in items]
        return values([lambda handle=handle: handle.get(seconds) for handle in handles])

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Joblib(Library):
    name = "joblib"
    requires = "joblib"

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        from .scenarios import good

        return good(self._run(function, items, "generator_unordered"))

    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self._run(function, items, "generator"))

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        from .scenarios import good

        return good(self._run(function, items, "generator_unordered", timeout=seconds))

    def _run(self, function: Function, items: Iterable[Any], kind: str, **options: Any) -> Any:
        import joblib

        return joblib.Parallel(2, return_as=kind, **options)(joblib.delayed(function)(item) for item in items)

    def close(self) -> None:
        """Its results are taken from calls that have ended."""


class Mpire(Library):
    name = "mpire"
    requires = "mpire"

    def __init__(self) -> None:
        import mpire

        self.pool = mpire.WorkerPool(2, daemon=False)

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return values([self.pool.apply_async(function, (item,)).get for item in items])

    def suffer(self, function: Function, items: Iterable[Any]) -> None:
        # After single tasks the pool hangs, after a map it does not.
        from .scenarios import good

        good(self.mapped(function, items))

    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(function, items))

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        handles = [self.pool.apply_async(function, (item,), task_timeout=seconds) for item in items]
        return values([handle.get for handle in handles])

    def close(self) -> None:
        self.pool.stop_and_join()


class Pebble(Library):
    name = "pebble"
    requires = "pebble"

    def __init__(self) -> None:
        import pebble

        self.pool = pebble.ProcessPool(2)

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return values([self.pool.schedule(function, args=(item,)).result for item in items])

    def mapped(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(function, items).result()

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        futures = [self.pool.schedule(function, args=(item,), timeout=seconds) for item in items]
        return values([future.result for future in futures])

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Ours(Library):
    """`mh.map` on one model: the same words for each."""

    model: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        import manyhands

        self.map = manyhands.map
        self.pool = manyhands.executor(self.model, workers=2, **self.options)

    def task(self, function: Function) -> Function:
        return function

    def kept(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.mapped(function, items))

    def mapped(self, function: Function, items: Iterable[Any], **options: Any) -> Iterator[Any]:
        outcomes = self.map(self.task(function), items, on=self.pool, on_error="return", **options)
        return (outcome.value for outcome in outcomes if outcome.ok)

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        return list(self.mapped(function, items, timeout=seconds))

    def close(self) -> None:
        self.pool.shutdown()


class OurThreads(Ours):
    name = "**manyhands**, thread"
    model = "thread"
    impossible = THREADS


class OurProcesses(Ours):
    name = "**manyhands**, process"
    model = "process"


class OurLoops(Ours):
    name = "**manyhands**, async"
    model = "async"
    impossible = THREADS

    def task(self, function: Function) -> Function:
        async def call(item: Any) -> Any:
            return function(item)

        return call

    def limited(self, function: Function, items: Iterable[Any], seconds: float) -> list[Any]:
        # A coroutine that never awaits keeps its event loop for itself; this one does await.
        from .scenarios import spins_on_loop

        outcomes = self.map(spins_on_loop, items, on=self.pool, on_error="return", timeout=seconds)
        return [outcome.value for outcome in outcomes if outcome.ok]


class OurLoopsInProcesses(OurLoops):
    name = "**manyhands**, process+async"
    model = "process+async"
    options = {"concurrency": 1}  # noqa: RUF012 - two items at a time, as everywhere
    impossible = {}  # noqa: RUF012


LIBRARIES: tuple[type[Library], ...] = (
    OurProcesses,
    OurLoopsInProcesses,
    OurThreads,
    OurLoops,
    MultiprocessingPool,
    ProcessPool,
    ThreadPool,
    Loky,
    Joblib,
    Mpire,
    Pebble,
)
BY_CLASS = {library.__name__: library for library in LIBRARIES}
