"""A map over an input without end must not grow."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import manyhands as mh

from ..runner import AtMost, Metric, Subject
from .work import Stopwatch, nothing

LIMIT = 50_000_000


def endless(size: int) -> dict[str, float]:
    with Stopwatch() as watch, mh.map(nothing, itertools.count()) as values:
        for _ in itertools.islice(values, size):
            pass
    return {"growth": most_memory() - idle_interpreter(), "item": watch.seconds / size}


def most_memory(process: str = "self") -> float:
    """The most bytes that a process ever held in memory."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def idle_interpreter() -> float:
    """The same of an interpreter that has imported nothing of its own accord."""
    wait = [sys.executable, "-I", "-c", "print(flush=True); input()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdin and idle.stdout
        idle.stdout.readline()
        held = most_memory(str(idle.pid))
        idle.stdin.write(b"\n")
    return held


SUBJECTS = (
    Subject(
        name="endless",
        title="mh.map over an endless generator",
        how=(
            "`mh.map(nothing, itertools.count())`, so many items taken; the most memory that the process "
            "ever held (resident) above what an interpreter that does nothing holds, our import included."
            " A process of its own."
        ),
        size=1_000_000,
        long_size=10_000_000,
        ours=endless,
        metrics=[
            Metric("growth", "growth", "B", [AtMost(LIMIT, "< 50 MB")]),
            Metric("item", "time per item", "s"),
        ],
        own_process=True,
        rounds=1,
    ),
)
