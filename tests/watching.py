"""What tests of processes share: waits for what wakes nobody, looks at others, repeats under seeds."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import manyhands as mh

REPEATS = int(os.environ.get("MANYHANDS_FAULT_REPEATS", "0"))
"""How often each fault is repeated, if not as often as its test says: set 50 for a thorough look."""


def seeds(count):
    """Run a test once for each of `count` seeds."""
    return pytest.mark.parametrize("seed", range(REPEATS or count))


def has_ended(pid):
    """Whether the process is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


PAUSE = 0.002


def eventually(is_so, what="what was waited for", seconds=20.0):
    """Return what `is_so` gives once that is true, or fail; for what other processes do, which wakes nobody.

    Counts looks rather than seconds, of which each takes longer on a machine that has much to do.
    """
    for _ in range(round(seconds / PAUSE)):
        if found := is_so():
            return found
        time.sleep(PAUSE)
    raise AssertionError(f"{what}: not within {seconds:g} s of looking")


def in_thread(function, *args):
    """A future of the call, in a thread of its own."""
    future = mh.Future()

    def run():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


async def eventually_on_loop(is_so, what="what was waited for", seconds=20.0):
    """The same for coroutines: others run meanwhile."""
    for _ in range(round(seconds / PAUSE)):
        if found := is_so():
            return found
        await asyncio.sleep(PAUSE)
    raise AssertionError(f"{what}: not within {seconds:g} s of looking")


def written(file):
    """What another process writes into a file, once there is something."""
    return eventually(lambda: file.exists() and file.read_text(), f"a word in {file}")


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
