"""A task that writes garbage over its worker's memory; on its own, for every worker imports it."""

import contextlib
import mmap
import os
import random
from pathlib import Path

RING = 1 << 19
SLATE, RINGS = 0, -1
PARTS = {
    "slate": (SLATE, 0, 4096),
    "tasks": (RINGS, 0, RING),
    "answers": (RINGS, RING, 2 * RING),
    "states": (RINGS, 128, 136),
    "rings": (RINGS, 0, 2 * RING + 64),
    "note": (RINGS, -16, None),
    "everything": (RINGS, 0, None),
}
"""Which of its segments, by their sizes, and from where to where: what is in it."""


def scribble(seed, part, then="return"):
    """Write garbage over a part of what this worker shares with the pool."""
    segment, begin, end = PARTS[part]
    link = sorted(segments(), key=lambda link: link.stat().st_size)[segment]
    descriptor = os.open(link, os.O_RDWR)
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size) as memory:
        begin, end, _ = slice(begin, end).indices(size)
        memory[begin:end] = random.Random(seed).randbytes(end - begin)
    os.close(descriptor)
    if then == "die":
        os._exit(9)
    return os.getpid()


def segments():
    """The links to the memory that this process shares with its pool."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:manyhands" in os.readlink(link):  # noqa: PTH115
                yield link
