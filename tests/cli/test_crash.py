"""Killed and interrupted runs: nothing finished is run again, and the end is that of a run left in peace."""

import random
import signal

import pytest

from .conftest import size, until
from .test_resume import journaled

WORKERS = 8

SLOW = """
    import os, time
    LOG = os.open("calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work(row):
        os.write(LOG, f"{row['id']}\\n".encode())
        time.sleep(0.001 * (row["id"] % 5))
        return {"id": row["id"], "text": "é" * (row["id"] % 50)}
"""


def input_rows(count):
    # Some rows are equal, none stands where its number says.
    rows = [{"id": number - number % 3 if number % 10 == 0 else number} for number in range(count)]
    random.Random(count).shuffle(rows)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv"])
def test_twenty_kills_leave_no_trace(shell, counted, output):
    shell.write("work.py", SLOW)
    rows = input_rows(3000)
    shell.write_rows("rows.jsonl", rows)
    arguments = ("work.py:work", "rows.jsonl", "--workers", str(WORKERS))
    assert shell.map(*arguments, "-o", f"peace-{output}").code == 0
    peace = shell.path(f"peace-{output}").read_bytes()
    counted()

    journal, chance = shell.path(f"{output}.journal"), random.Random(20)
    whole = size(shell.path(f"peace-{output}.journal"))
    calls, kills = [], 0
    while kills < 20:
        goal = size(journal) + chance.randrange(whole // 25)
        process = shell.start(*arguments, "-o", output, "--resume")
        assert until(lambda goal=goal: size(journal) > goal, process), process.communicate()
        process.kill()
        process.communicate()
        kills += 1
        done = journaled(shell, rows, f"{output}.journal")
        assert_prefix(shell.path(output).read_bytes(), peace)
        calls.append((counted(), done))
    ended = shell.map(*arguments, "-o", output, "--resume")
    assert ended.code == 0, ended.err
    calls.append((counted(), rows))

    assert shell.path(output).read_bytes() == peace
    assert_each_finished_row_ran_once(rows, calls)


def assert_prefix(found, whole):
    """A killed run's output is what a finished one's begins with, up to the line that was being written."""
    end = found.rfind(b"\n") + 1
    assert whole.startswith(found[:end])
    assert whole[end:].startswith(found[end:])


def assert_each_finished_row_ran_once(rows, calls):
    expected = {}
    for row in rows:
        expected[row["id"]] = expected.get(row["id"], 0) + 1
    finished: dict[int, int] = {}
    for called, done in calls:
        left = {id_: count - finished.get(id_, 0) for id_, count in expected.items()}
        for id_ in called:
            left[id_] -= 1
            assert left[id_] >= 0, f"row {id_} was run again although it was in the journal"
        finished = {}
        for row in done:
            finished[row["id"]] = finished.get(row["id"], 0) + 1
    started = sum(len(called) for called, _ in calls)
    # A kill costs what was under way: rows on the workers, and rows whose results were on their way back.
    assert started - len(rows) <= (len(calls) - 1) * 3 * WORKERS


@pytest.mark.parametrize("workers", ["4"])
def test_control_c_stops_at_once_and_says_how_to_go_on(shell, counted, workers):
    shell.write(
        "work.py",
        """
        import time
        def work(row):
            time.sleep(0 if row["id"] < 50 else 3600)
            return row["id"]
        """,
    )
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in range(100)])
    process = shell.start("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--workers", workers)
    expected = "".join(f"{id_}\n" for id_ in range(50))
    assert until(lambda: size(shell.path("out.jsonl")) == len(expected), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "interrupted: 50 rows are done; the same command with --resume runs the others\n"
    assert out == ""
    assert shell.read("out.jsonl") == expected
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in range(50)])
    ended = shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--resume", "--json")
    assert (ended.code, ended.summary["resumed"]) == (0, 50)


def test_control_c_reaches_async_functions(shell):
    shell.write(
        "work.py",
        """
        import asyncio
        async def work(row):
            await asyncio.sleep(0 if row < 5 else 3600)
            return row
        """,
    )
    shell.write_rows("rows.jsonl", list(range(10)))
    process = shell.start("work.py:work", "rows.jsonl", "-o", "out.jsonl")
    assert until(lambda: size(shell.path("out.jsonl")) == len("0\n1\n2\n3\n4\n"), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.startswith("interrupted: 5 rows are done")
    assert "Traceback" not in err


def test_control_c_while_importing_is_an_interruption(shell):
    shell.write("work.py", "import time\nopen('here', 'w').close()\ntime.sleep(3600)\n")
    shell.write("rows.txt", "a\n")
    process = shell.start("work.py:work", "rows.txt", "-o", "-")
    assert until(lambda: shell.path("here").exists(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_stopped_run_does_not_wait_for_rows_that_hang(shell):
    shell.write(
        "work.py",
        """
        import threading, time
        running = threading.Event()
        def work(row):
            if row == "hangs":
                running.set()
                time.sleep(3600)
            running.wait(20)
            raise ValueError("no")
        """,
    )
    shell.write("rows.txt", "hangs\nfails\n")
    process = shell.start("work.py:work", "rows.txt", "-o", "out.jsonl", "--workers", "2")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the row on line 2 of `rows.txt` failed with ValueError: no" in err
