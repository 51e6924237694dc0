"""The demo: the machine's own time zones, looked up at a slow and unreliable service.

    python examples/demo.py [--folder demo-output] [--rows 600]

First by `manyhands map`, which ends in a complete file; then in four ways that are compared: a serial loop,
the standard library's threads, and `mh.map` on threads and on an event loop.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import os
import subprocess
import sys
import time
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from timezone_client import look_up, look_up_async

import manyhands as mh

HERE = Path(__file__).resolve().parent
TIMEOUT = 1.0
RETRIES = 5
WORKERS = 32

Row = dict[str, str]


class Result(NamedTuple):
    """What a way of doing it came to."""

    seconds: float
    done: int
    failed: int
    retried: int


@contextmanager
def service() -> Iterator[str]:
    """Run the service in a process of its own, which ends with this one, and tell the client where it is."""
    command = [sys.executable, str(HERE / "timezone_service.py"), "--port", "0", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        url = running.stdout.readline().strip()
        os.environ["TIMEZONE_PORT"] = str(urlsplit(url).port)
        yield url


def write_table(target: Path, most: int | None) -> list[Row]:
    """Write the machine's time zones to `target`; return the rows."""
    rows = [{"zone": zone} for zone in sorted(zoneinfo.available_timezones())][:most]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["zone"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def by_command(table: Path, output: Path) -> None:
    """Look the whole table up with the command."""
    command = ["map", f"{HERE / 'timezone_client.py'}:look_up", str(table), "-o", str(output), "--force"]
    command += ["--workers", str(WORKERS), "--timeout", f"{TIMEOUT:g}s", "--retries", str(RETRIES)]
    print("$ manyhands", *(word.replace(f"{HERE}{os.sep}", "examples/") for word in command), flush=True)
    subprocess.run([sys.executable, "-m", "manyhands.cli", *command], check=True)


def patiently(row: Row) -> int:
    """Look a row up by hand: a limit, several tries, a growing pause. Returns the number of tries."""
    for attempt in range(1, RETRIES + 2):
        try:
            look_up(row, timeout=TIMEOUT)
        except OSError:
            if attempt > RETRIES:
                raise
            time.sleep(0.1 * 2 ** (attempt - 1) / 2)
        else:
            return attempt
    raise AssertionError("the loop returns or raises")


def serial(rows: list[Row]) -> Result:
    """One row after the other."""
    return by_hand(rows, lambda function, rows: [call(function, row) for row in rows])


def standard_threads(rows: list[Row]) -> Result:
    """The standard library's pool."""

    def run(function: Callable[[Row], int], rows: list[Row]) -> list[int | OSError]:
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(lambda row: call(function, row), rows))

    return by_hand(rows, run)


def call(function: Callable[[Row], int], row: Row) -> int | OSError:
    """Call, and return the failure instead of raising it, so that one bad row does not end the rest."""
    try:
        return function(row)
    except OSError as error:
        return error


def by_hand(rows: list[Row], run: Callable[[Callable[[Row], int], list[Row]], list[int | OSError]]) -> Result:
    """Time a way that has to do limits, tries and failures itself."""
    began = time.perf_counter()
    tries = run(patiently, rows)
    seconds = time.perf_counter() - began
    done = [number for number in tries if isinstance(number, int)]
    return Result(seconds, len(done), len(rows) - len(done), sum(done) - len(done))


def by_map(function: Callable[[Row], Any]) -> Callable[[list[Row]], Result]:
    """`mh.map`, which does them for us."""

    def run(rows: list[Row]) -> Result:
        options: dict[str, Any] = {"timeout": TIMEOUT, "retries": RETRIES, "on_error": "skip"}
        results = mh.map(function, rows, workers=WORKERS, **options)
        for _ in results:
            pass
        summary = results.summary()
        return Result(summary.seconds, summary.succeeded, summary.failed, summary.retried)

    return run


WAYS: dict[str, Callable[[list[Row]], Result]] = {
    "a for loop": serial,
    f"ThreadPoolExecutor({WORKERS})": standard_threads,
    f"mh.map on {WORKERS} threads": by_map(look_up),
    f"mh.map on asyncio, {WORKERS} at once": by_map(look_up_async),
}


def compare(rows: list[Row]) -> None:
    """Print the table of all ways."""
    print(f"{'':36} {'seconds':>8} {'speed-up':>9} {'done':>6} {'failed':>7} {'retried':>8}", flush=True)
    first: float | None = None
    for number, (name, way) in enumerate(WAYS.items()):
        os.environ["TIMEZONE_RUN"] = str(number)
        result = way(rows)
        first = first or result.seconds
        speed_up = first / result.seconds
        print(
            f"{name:36} {result.seconds:8.1f} {speed_up:8.1f}x"
            f" {result.done:6} {result.failed:7} {result.retried:8}",
            flush=True,
        )


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo-output"))
    parser.add_argument("--rows", type=int, help="take only so many zones")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    table, output = options.folder / "zones.csv", options.folder / "zones.jsonl"
    rows = write_table(table, options.rows)
    with service() as url:
        print(f"{len(rows)} time zones; the service at {url} takes 50 ms,")
        print(f"fails 2 times in 100 and hangs once in 100; each try has {TIMEOUT:g} s\n", flush=True)
        by_command(table, output)
        lines = output.read_text().splitlines()
        print(f"\n{output}: {len(lines)} of {len(rows)} rows, the first of them:")
        print(*lines[:3], sep="\n")
        print("\nthe same rows, four ways:\n")
        compare(rows)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
