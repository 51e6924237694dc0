"""A future by itself, without an executor and without anybody who waits."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

import manyhands as mh

from ..runner import AtMost, Metric, Subject
from .work import Stopwatch


def set_and_take(future: type[Any], size: int) -> dict[str, float]:
    futures = [future() for _ in range(size)]
    with Stopwatch() as watch:
        for each in futures:
            each.set_result(None)
            each.result()
    return {"pair": watch.seconds / size}


def make(future: type[Any], size: int) -> dict[str, float]:
    with Stopwatch() as watch:
        for _ in range(size):
            future()
    return {"future": watch.seconds / size}


SUBJECTS = (
    Subject(
        name="future",
        title="set_result → result",
        how=(
            "`future.set_result(None); future.result()` on futures made before, in one thread; time for "
            "both calls, loop included."
        ),
        size=100_000,
        peers={"concurrent.futures.Future": partial(set_and_take, Future)},
        ours=partial(set_and_take, mh.Future),
        metrics=[Metric("pair", "", "s", [AtMost(1e-6, "< 1 µs")])],
    ),
    Subject(
        name="future-made",
        title="Future()",
        how="Making a future and dropping it.",
        size=100_000,
        peers={"concurrent.futures.Future": partial(make, Future)},
        ours=partial(make, mh.Future),
        metrics=[Metric("future", "", "s")],
    ),
)
