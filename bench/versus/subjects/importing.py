"""What ``import manyhands`` costs a program that may not even use it."""

from __future__ import annotations

import subprocess
import sys

from ..runner import AtMost, Metric, Subject

MEASURE = """
import os, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, len(os.listdir("/proc/self/task")) - 1)
"""


def importing(modules: str) -> dict[str, float]:
    command = [sys.executable, "-I", "-c", MEASURE.format(module=modules)]
    seconds, threads = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {"seconds": float(seconds), "threads": float(threads)}


SUBJECTS = (
    Subject(
        name="import",
        title="import manyhands",
        how=(
            "In a fresh interpreter; the peer is `import concurrent.futures.thread, asyncio`, which we "
            "need as well."
        ),
        size=1,
        peers={"the standard library's imports": lambda _: importing("concurrent.futures.thread, asyncio")},
        ours=lambda _: importing("manyhands"),
        metrics=[Metric("seconds", "time", "s"), Metric("threads", "threads started", "", [AtMost(0, "0")])],
        rounds=15,
    ),
)
