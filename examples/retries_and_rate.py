"""Limits and second tries: for a service that sometimes fails, sometimes hangs, and counts your calls.

python examples/retries_and_rate.py
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import manyhands as mh

attempts: Counter[int] = Counter()
lock = threading.Lock()


def ask(number: int) -> int:
    """Ask the service: every fifth question fails the first time, one hangs the first time."""
    with lock:
        attempts[number] += 1
        first = attempts[number] == 1
    if first and number == 3:
        wait_for_ever()
    if first and number % 5 == 0:
        raise ConnectionError("connection reset")
    return number * number


def wait_for_ever() -> None:
    """Wait for an answer that does not come."""
    while True:
        time.sleep(0.01)


def main() -> None:
    """Map under a policy, then submit under one."""
    began = time.perf_counter()
    answers = mh.map(
        ask,
        range(40),
        workers=8,
        rate="100/s",  # starts of attempts, retries among them
        timeout=0.2,  # seconds for one attempt; a hung thread is replaced, not waited for
        retries=2,
        retry_on=(ConnectionError, mh.TaskTimeout),
        backoff=0.05,
    )
    print("sum of all answers:", sum(answers))
    summary = answers.summary()
    print(f"{summary.succeeded} done, {summary.failed} failed, {summary.retried} tried again")
    print("no faster than 100 a second:", time.perf_counter() - began > (40 + summary.retried - 1) / 100)

    with mh.ThreadExecutor(4) as pool:
        patient = pool.with_policy(retries=3, backoff=0.01)
        attempts.clear()
        print("one task under a policy:", patient.submit(ask, 5).result())


if __name__ == "__main__":
    main()
