"""Large arguments and results of processes: how long they take, and how much memory they occupy meanwhile."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ..runner import ROOT, AtMost, Bar, Metric, Times
from .pools import CARRIERS, WORKERS, Crew, Ours, Ray, Standard, each, of_processes
from .work import Stopwatch

_kept: dict[int, Any] = {}


def keep(make: Callable[[int], Any], size: int) -> Any:
    """Return something of so many bytes, made once in each worker."""
    if size not in _kept:
        _kept[size] = make(size)
    return _kept[size]


def kept_by(make: Callable[[int], Any], size: int) -> int:
    """Make it, and say which worker has it."""
    keep(make, size)
    return os.getpid()


def there_and_back(kind: type[Crew], make: Callable[[int], Any], size: int) -> dict[str, float]:
    """Send something of so many bytes, and have it returned."""
    value, repeats = make(size), max(2, min(30, (64 << 20) // size))
    with kind().started() as pool:
        every_worker_keeps(pool, make, size)
        sent, most_sent = timed(pool, repeats, len, value)
    with kind().started() as pool:
        every_worker_keeps(pool, make, size)
        returned, most_returned = timed(pool, repeats, keep, make, size)
    return {"sent": sent, "returned": returned, "memory": max(most_sent, most_returned) / size}


def timed(pool: Crew, repeats: int, function: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Return how long a task takes, on average, and how much memory the first of them occupied."""
    occupied = Occupied()
    pool.submit(function, *args)()
    most = occupied.most()
    with Stopwatch() as watch:
        for _ in range(repeats):
            pool.submit(function, *args)()
    return watch.seconds / repeats, most


def every_worker_keeps(pool: Crew, make: Callable[[int], Any], size: int) -> None:
    keepers: set[int] = set()
    while len(keepers) < WORKERS:
        keepers.update([get() for get in [pool.submit(kept_by, make, size) for _ in range(2 * WORKERS)]])


class Occupied:
    """The memory of this process and its children, watched by a process that does nothing else."""

    def __init__(self) -> None:
        command = [sys.executable, str(ROOT / "bench/versus/programs/occupied.py"), str(os.getpid())]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._watch.stdout is not None
        self._before = int(self._watch.stdout.readline())

    def most(self) -> int:
        """Return the most bytes since the beginning, above those of the beginning."""
        most, _ = self._watch.communicate()
        return int(most) - self._before


def array(size: int) -> Any:
    import numpy

    return numpy.ones(max(1, size // 8))


def ways(*bars: Bar) -> list[Metric]:
    """The times there and back, each judged alike."""
    return [Metric(way, way, "s", bars) for way in ("sent", "returned")]


HOW = (
    "To a process that does nothing with it, and from one that has it already, one after the other, after a "
    "first one that is not timed; time for each. Nobody reads what is in it."
)
ARRAYS = (
    of_processes(
        name="process-array",
        title="an array of 64 MiB",
        how=(
            f"{HOW} Memory: the most that parent and workers together ever held (proportional set size) "
            "while it was sent once, or returned once, whichever is more, above what they held before, the "
            "sender's own included; over the size of the array. Each way has a pool of its own. The array is "
            "of float64, from numpy."
        ),
        size=64 << 20,
        ours=partial(there_and_back, Ours, array),
        peers=each(there_and_back, array, of=CARRIERS),
        metrics=[
            *ways(Times(10, Standard.name), *([Times(1.5, Ray.name)] if Ray in CARRIERS else [])),
            Metric("memory", "memory over its size", "x", [AtMost(1.3, "≤ 1.3x")]),
        ],
    ),
)
SUBJECTS = (
    *(ARRAYS if importlib.util.find_spec("numpy") else ()),
    of_processes(
        name="process-bytes",
        title="bytes of 1 MiB",
        how=HOW,
        size=1 << 20,
        ours=partial(there_and_back, Ours, bytes),
        peers=each(there_and_back, bytes, of=CARRIERS),
        metrics=ways(Times(4, Standard.name)),
        rounds=5,
    ),
)
