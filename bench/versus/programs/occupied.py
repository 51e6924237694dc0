"""Prints the memory that a process and its descendants hold, and the most of it until its input ends.

    python occupied.py PID

Memory that several of them share counts once: the proportional set size. Segments of shared memory that no
process has mapped do not count. Descendants are those that there are at the beginning.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Sequence
from pathlib import Path

PAUSE = 0.001


def descendants(ancestor: int) -> list[int]:
    """Return the process and everything that it started, but for this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(entry.name))
    found = [ancestor]
    for process in found:
        found += (child for child in children.get(process, ()) if child != os.getpid())
    return found


def held(processes: Sequence[int]) -> int:
    """Return the bytes that they hold together."""
    total = 0
    for process in processes:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def main(ancestor: int) -> None:
    processes = descendants(ancestor)
    most = held(processes)
    print(most, flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        most = max(most, held(processes))
    print(most)


if __name__ == "__main__":
    main(int(sys.argv[1]))
