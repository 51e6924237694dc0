"""What a policy adds to a task."""

from __future__ import annotations

from functools import partial
from typing import Any

import manyhands as mh

from ..runner import Metric, Subject
from .work import Stopwatch, nothing


def submit_under(policy: dict[str, Any], size: int) -> dict[str, float]:
    with mh.ThreadExecutor() as executor:
        pool = executor.with_policy(**policy)
        pool.submit(nothing).result()
        with Stopwatch() as watch:
            for future in [pool.submit(nothing) for _ in range(size)]:
                future.result()
    return {"task": watch.seconds / size}


def subject(name: str, title: str, **policy: Any) -> Subject:
    return Subject(
        name=name,
        title=title,
        how=(
            "Submit and result as above, on a view `with_policy(…)`; time per task. What the ratio is "
            "below 1 is the cost of the policy."
        ),
        size=100_000,
        peers={"our own tasks without a policy": partial(submit_under, {})},
        ours=partial(submit_under, policy),
        metrics=[Metric("task", "", "s")],
    )


SUBJECTS = (
    subject("timeout", "a task with timeout=60 against one without", timeout=60),
    subject("retries", "a task with retries=3 against one without", retries=3),
    subject("rate", "a task with rate=1e9 against one without", rate=1e9),
)
