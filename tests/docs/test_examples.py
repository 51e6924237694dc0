"""The programs of examples/ run, and do what they say."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import zoneinfo
from contextlib import contextmanager
from pathlib import Path

import pytest

from watching import eventually

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo.py"

# What each program prints; times are given as `#`.
SHOWN = {
    "from_a_loop": """\
        a for loop   # s
        mh.map       # s
        same results: True
        """,
    "async_functions": """\
        from plain code, coroutines: 550 letters
        from a loop, a function on threads: 550 letters
        one coroutine, awaited: 7
        """,
    "task_group": """\
        all are done here: <header> <body>
        the block raised: (LookupError('no such part: advertisement'),)
        the other task was stopped: True
        """,
    "retries_and_rate": """\
        sum of all answers: 20540
        40 done, 0 failed, 9 tried again
        no faster than 100 a second: True
        one task under a policy: 25
        """,
    "outcomes": """\
        row 0: 12
        row 1: 7
        row 2: '' failed: ValueError
        row 3: 3000
        row 4: '3x' failed: ValueError
        row 5: 21
        4 of 6 rows, failures by kind: {'ValueError': 2}
        the costliest row read '3000'
        or only what succeeded: [12, 7, 3000, 21]
        """,
}
SERVICE = {"demo", "timezone_client", "timezone_service"}

needs_zones = pytest.mark.skipif(
    not zoneinfo.available_timezones(), reason="this machine knows no time zones: install tzdata"
)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_should(name):
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.sub(r"\d+\.\d+(?= s$)", "#", shown.stdout, flags=re.M) == textwrap.dedent(SHOWN[name])
    assert shown.stderr == ""


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHOWN, *SERVICE}


def run_demo(folder, *options):
    command = [sys.executable, str(DEMO), "--folder", str(folder), *options]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@needs_zones
def test_the_demo_ends_in_a_complete_file_and_a_table(tmp_path):
    shown = run_demo(tmp_path, "--rows", "40")
    zones = sorted(zoneinfo.available_timezones())[:40]
    rows = [json.loads(line) for line in (tmp_path / "zones.jsonl").read_text().splitlines()]
    assert [row["zone"] for row in rows] == zones
    abidjan = rows[zones.index("Africa/Abidjan")]
    assert abidjan == {"zone": "Africa/Abidjan", "january": "GMT", "july": "GMT", "hours": [0.0, 0.0]}
    assert "40 of 40 rows" in shown

    table = re.findall(r"^(.{36}) +([\d.]+) +[\d.]+x +(\d+) +(\d+) +(\d+)$", shown, re.M)
    assert [way.strip() for way, *_ in table] == [
        "a for loop",
        "ThreadPoolExecutor(32)",
        "mh.map on 32 threads",
        "mh.map on asyncio, 32 at once",
    ]
    assert all((done, failed) == ("40", "0") for _, _, done, failed, _ in table)
    # The service is as unlucky with every way: the same requests fail.
    assert len({retried for *_, retried in table}) == 1


@contextmanager
def running_demo(folder):
    """The demo in a group of its own, which is what Ctrl-C reaches; and the port of its service."""
    command = [sys.executable, str(DEMO), "--folder", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as demo:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", demo.stdout.readline())[1])
        try:
            yield demo, port
        finally:
            demo.kill()


def is_served(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@needs_zones
def test_ctrl_c_ends_the_demo_and_its_service(tmp_path):
    with running_demo(tmp_path) as (demo, port):
        assert is_served(port)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(20) != 0
        assert not is_served(port)


@needs_zones
def test_the_service_ends_with_the_demo_however_that_ends(tmp_path):
    with running_demo(tmp_path) as (demo, port):
        demo.kill()
        demo.wait()
        # The service's own process is told of it by the kernel; there is nobody left to wait for.
        eventually(lambda: not is_served(port), "the end of the service")


@needs_zones
def test_the_service_fails_and_hangs_as_often_as_it_says():
    sys.path.insert(0, str(EXAMPLES))
    try:
        from timezone_service import ERRORS, HANGS, Service
    finally:
        sys.path.remove(str(EXAMPLES))
    with Service() as service:
        moods = [service.mood("", f"zone {number}") for number in range(10_000)]
        again = [service.mood("another run", f"zone {number}") for number in range(10_000)]
    assert moods == again
    assert abs(moods.count("error") / len(moods) - ERRORS) < 0.005
    assert abs(moods.count("hang") / len(moods) - HANGS) < 0.005
