"""One function over many items, and results as they come."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

import manyhands as mh

from ..runner import Metric, Subject, Times
from .work import Stopwatch, nothing


def executor_map(executor: type[Executor], size: int) -> dict[str, float]:
    with executor() as pool:
        pool.submit(nothing).result()
        with Stopwatch() as watch:
            for _ in pool.map(nothing, range(size)):
                pass
    return {"item": watch.seconds / size}


def lazy_map(size: int, **options: Any) -> dict[str, float]:
    with Stopwatch() as watch:
        for _ in mh.map(nothing, range(size), **options):
            pass
    return {"item": watch.seconds / size}


def completed(
    executor: type[Executor], as_completed: Callable[[list[Any]], Iterable[Any]], size: int
) -> dict[str, float]:
    with executor() as pool:
        pool.submit(nothing).result()
        with Stopwatch() as watch:
            for future in as_completed([pool.submit(nothing) for _ in range(size)]):
                future.result()
    return {"task": watch.seconds / size}


PEER_MAP = partial(executor_map, ThreadPoolExecutor)

SUBJECTS = (
    Subject(
        name="map",
        title="Executor.map",
        how="`for _ in pool.map(nothing, range(n))`, everything submitted at once; time per item.",
        size=100_000,
        peers={"ThreadPoolExecutor": PEER_MAP},
        ours=partial(executor_map, mh.ThreadExecutor),
        metrics=[Metric("item", "", "s", [Times(5)])],
    ),
    Subject(
        name="mh-map",
        title="mh.map against Executor.map",
        how=(
            "`for _ in mh.map(nothing, range(n))`, lazy, making and closing its executor included; time "
            "per item."
        ),
        size=100_000,
        peers={"ThreadPoolExecutor": PEER_MAP},
        ours=lazy_map,
        metrics=[Metric("item", "", "s", [Times(5)])],
    ),
    Subject(
        name="mh-map-outcomes",
        title='mh.map(…, on_error="return") against Executor.map',
        how=(
            "As before, unordered, each item as an `Outcome` with its receipt, for which the processor "
            "time of each task is taken."
        ),
        size=100_000,
        peers={"ThreadPoolExecutor": PEER_MAP},
        ours=partial(lazy_map, on_error="return", ordered=False),
        metrics=[Metric("item", "", "s")],
    ),
    Subject(
        name="as-completed",
        title="submit + as_completed",
        how=(
            "`for future in as_completed([pool.submit(nothing) for _ in range(n)])`, each with its own "
            "`as_completed`; time per task."
        ),
        size=50_000,
        peers={"ThreadPoolExecutor": partial(completed, ThreadPoolExecutor, concurrent.futures.as_completed)},
        ours=partial(completed, mh.ThreadExecutor, mh.as_completed),
        metrics=[Metric("task", "", "s")],
    ),
)
