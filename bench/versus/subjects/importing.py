"""What ``import manyhands`` costs a program that may not even use it."""

from __future__ import annotations

import subprocess
import sys

from ..runner import AtMost, Metric, Subject

MEASURE = """
import os, time
began = time.perf_counter()
{code}
print(time.perf_counter() - began, len(os.listdir("/proc/self/task")) - 1)
"""


def running(code: str) -> dict[str, float]:
    command = [sys.executable, "-I", "-c", MEASURE.format(code=code)]
    seconds, threads = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {"seconds": float(seconds), "threads": float(threads)}


SUBJECTS = (
    Subject(
        name="import",
        title="import manyhands",
        how=(
            "In a fresh interpreter; the peer is `import concurrent.futures.thread, asyncio`. Ours imports "
            "the rest when it is used: see the next row."
        ),
        size=1,
        peers={
            "the standard library's imports": lambda _: running("import concurrent.futures.thread, asyncio")
        },
        ours=lambda _: running("import manyhands"),
        metrics=[Metric("seconds", "time", "s"), Metric("threads", "threads started", "", [AtMost(0, "0")])],
        rounds=15,
    ),
    Subject(
        name="import-use",
        title="import manyhands, and everything for a map on threads",
        how=(
            "`import manyhands; manyhands.map; manyhands.ThreadExecutor`, which imports nearly all that "
            "running on threads needs, in a fresh interpreter; the peer is `import "
            "concurrent.futures.thread`."
        ),
        size=1,
        peers={"ThreadPoolExecutor": lambda _: running("import concurrent.futures.thread")},
        ours=lambda _: running("import manyhands; manyhands.map; manyhands.ThreadExecutor; manyhands.Future"),
        metrics=[Metric("seconds", "time", "s")],
        rounds=15,
    ),
)
