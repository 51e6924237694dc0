"""What fault tests share: repeats under seeds, a journal of what has run, and looks at other processes."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPEATS = int(os.environ.get("MANYHANDS_FAULT_REPEATS", "0"))
"""How often each fault is repeated, if not as often as its test says: set 50 for a thorough look."""


def seeds(count):
    """Run a test once for each of `count` seeds."""
    return pytest.mark.parametrize("seed", range(REPEATS or count))


class Journal:
    """Lines that many processes append, each by one write: what has really been run."""

    def __init__(self, path):
        self.path = str(path)

    def note(self, text):
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)

    def lines(self):
        path = Path(self.path)
        return path.read_text().split() if path.exists() else []


def has_ended(pid):
    """Whether the process is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(is_so, what, seconds=20.0):
    """Fail unless it becomes so; for what other processes do, which cannot be waited for."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.002)


def children(pid):
    """The processes that `pid` has started, and those that they have."""
    found = []
    for task in Path("/proc").glob(f"{pid}/task/*"):
        with contextlib.suppress(OSError):  # the thread, or all of the process, has ended meanwhile
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


@contextlib.contextmanager
def program(text, *arguments, **options):
    """Run a program in a session of its own, and end it."""
    with subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
