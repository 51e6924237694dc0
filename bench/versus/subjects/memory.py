"""What a task that waits for its turn occupies."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import manyhands as mh

from ..runner import Metric, Subject, Times
from .work import nothing


def unique_set_size() -> int:
    """The bytes of memory that belong to this process alone."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return (
        sum(int(kilobytes) for kilobytes in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))
        * 1024
    )


def growth(make: Callable[[], Any], size: int) -> float:
    kept: list[Any] = [None] * size
    gc.collect()
    before = unique_set_size()
    for position in range(size):
        kept[position] = make()
    gc.collect()
    return (unique_set_size() - before) / size


def pending(executor: type[Executor], size: int) -> dict[str, float]:
    release = threading.Event()
    pool = executor(1)  # type: ignore[call-arg]
    try:
        pool.submit(release.wait)
        return {"future": growth(lambda: pool.submit(nothing), size)}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        release.set()


def bare(future: Callable[[], Any], size: int) -> dict[str, float]:
    return {"future": growth(future, size)}


SUBJECTS = (
    Subject(
        name="memory",
        title="memory of a pending future",
        how=(
            "Tasks submitted to an executor whose one worker is blocked, futures kept in a list; growth "
            "of the process's own memory (USS) per task, its place in the queue included. Each "
            "measurement in a process of its own."
        ),
        size=100_000,
        peers={"ThreadPoolExecutor": partial(pending, ThreadPoolExecutor)},
        ours=partial(pending, mh.ThreadExecutor),
        metrics=[Metric("future", "", "B", [Times(3)])],
        own_process=True,
        rounds=3,
    ),
    Subject(
        name="memory-bare",
        title="memory of a bare future",
        how="`Future()`, as before.",
        size=100_000,
        peers={"concurrent.futures.Future": partial(bare, Future)},
        ours=partial(bare, mh.Future),
        metrics=[Metric("future", "", "B")],
        own_process=True,
        rounds=3,
    ),
)
