"""One task at a time: submit it, wait for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import manyhands as mh

from ..runner import Bar, Metric, Subject, Times
from .work import nothing


def trips(executor: type[Executor], pause: float, size: int) -> dict[str, float]:
    with executor(1) as pool:  # type: ignore[call-arg]
        pool.submit(nothing).result()
        taken = sorted(trip(pool, pause) for _ in range(size))
    return {"p50": taken[size // 2], "p99": taken[size * 99 // 100]}


def trip(pool: Executor, pause: float) -> float:
    if pause:
        time.sleep(pause)
    began = time.perf_counter()
    pool.submit(nothing).result()
    return time.perf_counter() - began


def subject(name: str, title: str, how: str, pause: float, size: int, bars: Sequence[Bar]) -> Subject:
    return Subject(
        name=name,
        title=title,
        how=how,
        size=size,
        peers={"ThreadPoolExecutor": partial(trips, ThreadPoolExecutor, pause)},
        ours=partial(trips, mh.ThreadExecutor, pause),
        metrics=[Metric("p50", "p50", "s", bars), Metric("p99", "p99", "s", bars)],
    )


SUBJECTS = (
    subject(
        "trip",
        "idle round trip",
        "`pool.submit(nothing).result()` with one worker and a pause of 2 ms before each, so that the worker "
        "sleeps; median and 99th percentile of the trips.",
        0.002,
        1500,
        [Times(2)],
    ),
    subject(
        "trip-tight",
        "round trip without a pause",
        "The same, one trip right after the other.",
        0.0,
        20_000,
        [],
    ),
)
