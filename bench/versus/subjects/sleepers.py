"""Many tasks that wait, on many workers: does the pool keep them all busy?"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import manyhands as mh

from ..runner import AtMost, Metric, Subject
from .work import Stopwatch

WORKERS = 100
SECONDS = 0.01


def sleep_all(executor: type[Executor], size: int) -> dict[str, float]:
    with executor(WORKERS) as pool:  # type: ignore[call-arg]
        all_started = threading.Barrier(WORKERS)
        for future in [pool.submit(all_started.wait) for _ in range(WORKERS)]:
            future.result()
        with Stopwatch() as watch:
            for task in [pool.submit(time.sleep, SECONDS) for _ in range(size)]:
                task.result()
    ideal = -(-size // WORKERS) * SECONDS
    return {"over": watch.seconds / ideal}


SUBJECTS = (
    Subject(
        name="sleepers",
        title=f"sleeping {SECONDS * 1000:.0f} ms on {WORKERS} workers",
        how=(
            "`time.sleep(0.01)` as a task, on 100 threads that have all been started; time as a multiple "
            "of the ideal (1 s for 10,000 of them)."
        ),
        size=10_000,
        peers={"ThreadPoolExecutor": partial(sleep_all, ThreadPoolExecutor)},
        ours=partial(sleep_all, mh.ThreadExecutor),
        metrics=[Metric("over", "time over ideal", "x", [AtMost(1.15, "≤ 1.15x")])],
    ),
)
