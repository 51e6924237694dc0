"""Submit many tasks that do nothing, then take their results."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import manyhands as mh

from ..runner import Metric, Subject, Times
from .work import Stopwatch, nothing


def submit_and_take(executor: type[Executor], workers: int | None, size: int) -> dict[str, float]:
    with executor(workers) as pool:  # type: ignore[call-arg]
        pool.submit(nothing).result()
        with Stopwatch() as watch:
            futures = [pool.submit(nothing) for _ in range(size)]
            for future in futures:
                future.result()
    return {"task": watch.seconds / size}


def subject(name: str, title: str, workers: int | None) -> Subject:
    return Subject(
        name=name,
        title=title,
        how="`[pool.submit(nothing) for _ in range(n)]`, then `future.result()` for each; time per task.",
        size=100_000,
        peers={"ThreadPoolExecutor": partial(submit_and_take, ThreadPoolExecutor, workers)},
        ours=partial(submit_and_take, mh.ThreadExecutor, workers),
        metrics=[Metric("task", "", "s", [Times(5)])],
    )


SUBJECTS = (
    subject("submit", "submit + result", None),
    subject("submit-one", "submit + result, one worker", 1),
)
