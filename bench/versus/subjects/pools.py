"""Pools of two processes, each told in its own words to run many small tasks. Ours is one of them."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import multiprocessing
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import manyhands as mh

from ..runner import Measure, Subject
from .work import Stopwatch, nothing

if TYPE_CHECKING:
    from typing_extensions import Self

AnyCrew = TypeVar("AnyCrew", bound="Crew")
Function = Callable[[Any], Any]
WORKERS, FEW = 2, 20


class Crew(ABC):
    """Workers of one kind, which do tasks, open within a ``with`` block."""

    name: ClassVar[str]
    requires: ClassVar[str | None] = None
    """The module that it comes from, if that is not the standard library's or ours."""
    pool: Any

    @classmethod
    def is_installed(cls) -> bool:
        return cls.requires is None or importlib.util.find_spec(cls.requires) is not None

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *exc_info: object) -> None:
        """Wait for the workers to end."""

    @abstractmethod
    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        """Submit a task; return what waits for its result."""

    def started(self) -> Self:
        for get in [self.submit(nothing) for _ in range(FEW)]:
            get()
        return self


class Pool(Crew):
    """One that maps, too.

    Its workers are started by `started`, or by a few items in the way that is to be measured: mpire starts
    others when the way changes, and mistakes results of the first ones for theirs.
    """

    @abstractmethod
    def map(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        """Return the results in order, by what takes the least time, chunks of so many items."""

    def lazily(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        """Return the results in order, the first ones before the last ones are there."""
        return self.map(function, items, chunk)

    def one_by_one(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        """Return each result as it comes, or in order where there is no other way; no chunks."""
        return self.map(function, items, 1)


class Executor(Pool):
    def __exit__(self, *exc_info: object) -> None:
        self.pool.shutdown()

    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        return self.pool.submit(function, *args).result

    def map(self, function: Function, items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return self.pool.map(function, items, chunksize=chunk)


class Ours(Executor):
    name = "manyhands"

    def __init__(self) -> None:
        self.pool = mh.ProcessExecutor(WORKERS)


class Standard(Executor):
    name = "ProcessPoolExecutor"

    def __init__(self) -> None:
        self.pool = concurrent.futures.ProcessPoolExecutor(WORKERS)


class Loky(Executor):
    name, requires = "loky", "loky"

    def __init__(self) -> None:
        import loky

        self.pool = loky.ProcessPoolExecutor(WORKERS)


class Multiprocessing(Pool):
    name = "multiprocessing.Pool"

    def __init__(self) -> None:
        self.pool = multiprocessing.Pool(WORKERS)

    def __exit__(self, *exc_info: object) -> None:
        self.pool.close()
        self.pool.join()

    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(function, args).get

    def map(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        return self.pool.map(function, items, chunk)

    def lazily(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        return self.pool.imap(function, items, chunk)

    def one_by_one(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.imap_unordered(function, items)


class Mpire(Pool):
    name, requires = "mpire", "mpire"

    def __init__(self) -> None:
        import mpire

        self.pool = mpire.WorkerPool(WORKERS, keep_alive=True)

    def __exit__(self, *exc_info: object) -> None:
        self.pool.stop_and_join()

    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(function, args).get

    def map(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        return self.pool.imap(function, items, chunk_size=chunk)

    def one_by_one(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.imap_unordered(function, items, chunk_size=1)


class Pebble(Pool):
    name, requires = "pebble", "pebble"

    def __init__(self) -> None:
        import pebble

        self.pool = pebble.ProcessPool(WORKERS)

    def __exit__(self, *exc_info: object) -> None:
        self.pool.close()
        self.pool.join()

    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        return self.pool.schedule(function, args=args).result

    def map(self, function: Function, items: Iterable[Any], chunk: int) -> Iterable[Any]:
        return self.pool.map(function, items, chunksize=chunk).result()


class Ray(Crew):
    """A cluster of this machine alone, made for large data: objects lie in memory that all workers map."""

    name, requires = "ray", "ray"
    LARGE, STORE_BYTES = 100_000, 1 << 30

    def __init__(self) -> None:
        import ray

        # Standard output is for figures; and what is measured here is nobody else's business.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            object_store_memory=self.STORE_BYTES,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=self._folder.name,
        )

        @ray.remote
        def call(function: Function, *args: Any) -> Any:
            return function(*args)

        self.pool, self._call = ray, call

    def __exit__(self, *exc_info: object) -> None:
        self.pool.shutdown()
        self._folder.cleanup()

    def submit(self, function: Function, *args: Any) -> Callable[[], Any]:
        kept = [self.pool.put(arg) if sys.getsizeof(arg) > self.LARGE else arg for arg in args]
        return partial(self.pool.get, self._call.remote(function, *kept))


def installed(*kinds: type[AnyCrew]) -> tuple[type[AnyCrew], ...]:
    """Those of them that are there."""
    return tuple(kind for kind in kinds if kind.is_installed())


PEERS = installed(Standard, Multiprocessing, Loky, Mpire, Pebble)
CARRIERS = (*PEERS, *installed(Ray))
"""The peers for large data."""


of_processes = partial(Subject, section="processes", own_process=True, rounds=3)
"""A subject of which each side is measured in an interpreter that no other side's workers have been in."""


def each(
    measure: Callable[..., dict[str, float]], *args: Any, of: Iterable[type[Crew]] = PEERS
) -> Mapping[str, Measure]:
    """Return the same measurement of each peer, by its name."""
    return {kind.name: partial(measure, kind, *args) for kind in of}


def seconds(results: Callable[..., Iterable[Any]], *args: Any) -> float:
    """Return how long it takes to ask for results and go through them."""
    with Stopwatch() as watch:
        for _ in results(*args):
            pass
    return watch.seconds
