"""How soon processes begin, and how well they share work that takes its time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import manyhands as mh

from ..programs.counting import count
from ..runner import ROOT, AtMost, Metric, Subject, Times
from .pools import (
    FEW,
    PEERS,
    WORKERS,
    Loky,
    Mpire,
    Multiprocessing,
    Ours,
    Pebble,
    Pool,
    Standard,
    each,
    of_processes,
    seconds,
)
from .work import Stopwatch

CHUNKS = (16, 128)
PROGRAMS = ROOT / "bench" / "versus" / "programs"
STARTS = {
    Standard.name: ("standard", "concurrent.futures.process"),
    Multiprocessing.name: ("multiprocessing_pool", "multiprocessing.pool"),
    Loky.name: ("loky", "loky"),
    Mpire.name: ("mpire", "mpire"),
    Pebble.name: ("pebble", "pebble"),
}
"""How `first.py` makes each pool, and what it imports first."""


def beginnings(kind: str, module: str, _: int) -> dict[str, float]:
    """The first result of the first pool of a program, and of the second."""
    figures: dict[str, float] = json.loads(program(sys.executable, PROGRAMS / "first.py", kind, module))
    return figures


def program(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def heavy_tail(kind: type[Pool], size: int) -> dict[str, float]:
    """The time that sleeping tasks took over the least that two workers need."""
    chance = random.Random(7)
    pauses = [min(0.4, 0.003 * chance.paretovariate(1.2)) for _ in range(size)]
    with kind().started() as pool, Stopwatch() as watch:
        for get in [pool.submit(time.sleep, pause) for pause in pauses]:
            get()
    return {"makespan": watch.seconds / max(sum(pauses) / WORKERS, *pauses)}


def compute(_: int) -> int:
    return sum(number * number for number in range(100_000))


def speed_up(kind: type[Pool], size: int) -> dict[str, float]:
    """The time over half of what one process needs for the same."""
    with kind().started() as pool:
        with Stopwatch() as alone:
            for number in range(size):
                compute(number)
        with Stopwatch() as together:
            for get in [pool.submit(compute, number) for number in range(size)]:
                get()
    return {"time": together.seconds / (alone.seconds / WORKERS)}


def sources(size: int) -> list[str]:
    """Return so many of the source files below the interpreter's library."""
    found = (
        f"{directory}/{name}"
        for directory, _, names in os.walk(sysconfig.get_path("stdlib"))
        for name in sorted(names)
        if name.endswith(".py")
    )
    return list(itertools.islice(found, size))


def counted(size: int) -> dict[str, float]:
    paths = sources(size)
    with Ours().started() as ours:
        return {"file": seconds(partial(mh.map, count, paths, on=ours.pool, ordered=False)) / len(paths)}


def counted_in_chunks(kind: type[Pool], size: int) -> dict[str, float]:
    paths = sources(size)
    with kind() as pool:
        seconds(pool.map, count, paths[:FEW], 1)
        taken = [seconds(pool.map, count, paths, chunk) for chunk in CHUNKS]
    return {"file": min(taken) / len(paths)}


def counted_by_command(size: int) -> dict[str, float]:
    with listed(size) as (paths, output):
        counting = f"{PROGRAMS / 'counting.py'}:count"
        options = ["--output", output, "--on", "process", "--workers", str(WORKERS), "--force"]
        with Stopwatch() as watch:
            program(sys.executable, "-m", "manyhands.cli", "map", counting, paths, *options)
    return {"program": watch.seconds}


def counted_by_script(size: int) -> dict[str, float]:
    taken = []
    with listed(size) as (paths, output):
        for chunk in CHUNKS:
            with Stopwatch() as watch:
                program(sys.executable, PROGRAMS / "counting.py", paths, output, str(chunk))
            taken.append(watch.seconds)
    return {"program": min(taken)}


@contextlib.contextmanager
def listed(size: int) -> Iterator[tuple[Path, Path]]:
    """Give a file with the paths to count, and where results may go."""
    with tempfile.TemporaryDirectory() as directory:
        paths = Path(directory, "paths.txt")
        paths.write_text("\n".join(sources(size)) + "\n")
        yield paths, Path(directory, "counted.jsonl")


SUBJECTS = (
    Subject(
        name="process-start",
        title="first result of a new pool of 2",
        how=(
            "From making the pool to the result of a task that does nothing, in a small program of its own "
            "with everything imported, and once more with a second pool after the first is closed. By each "
            "library's default way, which for ProcessPoolExecutor, multiprocessing.Pool, mpire and pebble is "
            "to fork the program as it stands."
        ),
        size=1,
        ours=partial(beginnings, "manyhands", "manyhands.executors.process"),
        peers={kind.name: partial(beginnings, *STARTS[kind.name]) for kind in PEERS},
        metrics=[
            Metric("first", "first pool", "s"),
            Metric("second", "second pool", "s", [AtMost(0.020, "≤ 20 ms")]),
        ],
        section="processes",
        rounds=5,
    ),
    Subject(
        name="process-start-clean",
        title="first result of a new pool of 2, workers from a clean process",
        how="The same against `ProcessPoolExecutor` with `forkserver`, whose workers are no copies either.",
        size=1,
        ours=partial(beginnings, "manyhands", "manyhands.executors.process"),
        peers={Standard.name: partial(beginnings, "forkserver", "concurrent.futures.process")},
        metrics=[Metric("first", "first pool", "s", [Times(1)]), Metric("second", "second pool", "s")],
        section="processes",
        rounds=5,
    ),
    of_processes(
        name="process-tail",
        title="tasks of very different lengths",
        how=(
            "`time.sleep` of lengths from a Pareto distribution (exponent 1.2, 3 ms to 0.4 s) on two "
            "processes, the same each time; time over the least that two need."
        ),
        size=200,
        ours=partial(heavy_tail, Ours),
        peers=each(heavy_tail),
        metrics=[Metric("makespan", "time over ideal", "x", [AtMost(1.05, "≤ 1.05x")])],
    ),
    of_processes(
        name="process-speed",
        title="computing on two",
        how=(
            "Sums of 100,000 squares in pure Python, on two processes; time over half of what the caller "
            "alone takes for the same, just before. 1.05 is a speed-up of 1.9."
        ),
        size=100,
        ours=partial(speed_up, Ours),
        peers=each(speed_up),
        metrics=[Metric("time", "time over ideal", "x", [AtMost(2 / 1.9, "≤ 1.05x")])],
    ),
    of_processes(
        name="process-count",
        title="lines and words of the library's sources, mh.map",
        how=(
            "Each `.py` file below the interpreter's library read and counted, by `mh.map(…, ordered=False)` "
            "without a chunk size and by the peers' `map` with chunks of 16 and 128, of which the best "
            "counts; time per file."
        ),
        size=100_000,
        ours=counted,
        peers=each(counted_in_chunks),
        metrics=[Metric("file", "", "s", [Times(1, Standard.name)])],
        rounds=2,
    ),
    Subject(
        name="process-command",
        title="lines and words of the library's sources, manyhands map",
        how=(
            "The same as a program: `manyhands map counting.py:count paths.txt --on process --workers 2`, "
            "its journal included, against a script of ten lines with `ProcessPoolExecutor.map` and the same "
            "chunks, of which the best counts; from the start of the program to its end."
        ),
        size=100_000,
        ours=counted_by_command,
        peers={Standard.name: counted_by_script},
        metrics=[Metric("program", "", "s", [Times(1)])],
        section="processes",
        rounds=3,
    ),
)
