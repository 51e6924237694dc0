"""Many small tasks on processes, one by one or at once, and one task at a time."""

from __future__ import annotations

import time
from functools import partial

import manyhands as mh

from ..runner import Metric, Times
from .pools import FEW, Multiprocessing, Ours, Pool, Standard, each, of_processes, seconds
from .work import Stopwatch, nothing

PARTS = (2, 10)
"""Into how many chunks the peers' items are cut by hand; the best counts."""


def submit_and_take(kind: type[Pool], size: int) -> dict[str, float]:
    with kind().started() as pool, Stopwatch() as watch:
        for get in [pool.submit(nothing) for _ in range(size)]:
            get()
    return {"task": watch.seconds / size}


def cut(kind: type[Pool], way: str, size: int) -> dict[str, float]:
    """Go through results in chunks of several sizes, of which the best counts."""
    with kind() as pool:
        results = partial(getattr(pool, way), nothing, range(size))
        taken = [seconds(results, max(1, size // parts)) for parts in PARTS]
    return {"item": min(taken) / size}


def one_by_one(kind: type[Pool], size: int) -> dict[str, float]:
    with kind() as pool:
        seconds(pool.one_by_one, nothing, range(FEW))
        return {"item": seconds(pool.one_by_one, nothing, range(size)) / size}


def mapped(size: int) -> dict[str, float]:
    with Ours().started() as ours:
        return {"item": seconds(ours.pool.map, nothing, range(size)) / size}


def mapped_by_mh(ordered: bool, size: int) -> dict[str, float]:
    with Ours().started() as ours:
        results = partial(mh.map, nothing, range(size), on=ours.pool, ordered=ordered)
        return {"item": seconds(results) / size}


def trips(kind: type[Pool], pause: float, size: int) -> dict[str, float]:
    with kind().started() as pool:
        taken = sorted(trip(pool, pause) for _ in range(size))
    return {"p50": taken[size // 2], "p99": taken[size * 99 // 100]}


def trip(pool: Pool, pause: float) -> float:
    time.sleep(pause)
    began = time.perf_counter()
    pool.submit(nothing)()
    return time.perf_counter() - began


SUBJECTS = (
    of_processes(
        name="process-submit",
        title="submit + result",
        how=(
            "Tasks that do nothing submitted to two started processes, then each result; time per task. The "
            "peers' way is `submit`, `apply_async` or `schedule`."
        ),
        size=20_000,
        ours=partial(submit_and_take, Ours),
        peers=each(submit_and_take),
        metrics=[Metric("task", "", "s", [Times(25, Standard.name), Times(8, Multiprocessing.name)])],
    ),
    of_processes(
        name="process-map",
        title="Executor.map without a chunk size against chunks by hand",
        how=(
            "`for _ in pool.map(nothing, range(n))`; ours without a chunk size, the peers with chunks of a "
            "half and of a tenth of the items, of which the best counts; time per item. mpire by its `imap`."
        ),
        size=200_000,
        ours=mapped,
        peers=each(cut, "map"),
        metrics=[Metric("item", "", "s", [Times(1)])],
    ),
    of_processes(
        name="process-mh-map",
        title="mh.map without a chunk size against chunks by hand",
        how=(
            "The same by `mh.map(nothing, range(n), on=pool)`, which pulls its input as it goes; the peers "
            "by what gives first results first: `multiprocessing.Pool.imap` instead of `map`."
        ),
        size=200_000,
        ours=partial(mapped_by_mh, True),
        peers=each(cut, "lazily"),
        metrics=[Metric("item", "", "s", [Times(1)])],
    ),
    of_processes(
        name="process-items",
        title="items one by one, as they finish",
        how=(
            "`for _ in mh.map(nothing, range(n), on=pool, ordered=False)` against the peers' way of handing "
            "out each result as it comes, chunks of one item (`imap_unordered`; where there is none, `map`); "
            "time per item."
        ),
        size=5_000,
        ours=partial(mapped_by_mh, False),
        peers=each(one_by_one),
        metrics=[Metric("item", "", "s", [Times(20)])],
    ),
    of_processes(
        name="process-trip",
        title="idle round trip",
        how=(
            "`pool.submit(nothing).result()` with a pause of 2 ms before each, so that everybody sleeps; "
            "median and 99th percentile."
        ),
        size=600,
        ours=partial(trips, Ours, 0.002),
        peers=each(trips, 0.002),
        metrics=[
            Metric("p50", "p50", "s", [Times(5, Standard.name)]),
            Metric("p99", "p99", "s", [Times(3, Standard.name)]),
        ],
    ),
)
