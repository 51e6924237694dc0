"""Options that shape the run, and the errors of wrong ones."""

import contextlib
import os
import subprocess

import pytest

from manyhands.cli.units import duration, failure_budget, rate

from .conftest import PROGRAM


@pytest.fixture(autouse=True)
def rows(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write_rows("rows.jsonl", list(range(20)))


def test_help_shows_every_option(shell):
    ended = shell.run("map", "--help")
    assert ended.code == 0
    for option in (
        "--resume",
        "--on-error",
        "--max-failures",
        "--accept-changed-function",
        "--dry-run",
        "--rate",
    ):
        assert option in ended.out
    assert "Exit codes: 0 every row is done" in ended.out
    assert "map" in shell.run("--help").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Missing option '-o'"),
        (("-o", "-", "--timeout", "0"), "found '0', expected a time above zero"),
        (("-o", "-", "--timeout", "soon"), "expected a time above zero like 10s, 500ms, 2m or 1h"),
        (("-o", "-", "--rate", "fast"), "expected a rate above zero like 100/s, 600/m or 5000/h"),
        (("-o", "-", "--max-failures", "120%"), "expected a number of rows like 20 or a share like 5%"),
        (("-o", "-", "--workers", "0"), "--workers"),
        (("-o", "-", "--retries", "-1"), "--retries"),
        (("-o", "-", "--on", "moon"), "found 'moon', expected one of thread, process"),
        (("-o", "-", "--on", "moon://a:secret@b"), "found an address of 'moon', expected one of thread"),
        (("-o", "-", "--on", "memory://", "--args"), "leave --args away"),
        (("-o", "-", "--no-such-option"), "No such option"),
        (("-o", "no/such/out.jsonl"), "found no directory `no/such`"),
        (("-o", "."), "found a directory, expected a file"),
        (("-o", "rows.jsonl"), "could not write `rows.jsonl`: it is the input"),
        (("-o", "./rows.jsonl", "--force"), "it is the input"),
        (("-o", "-", "--resume"), "could not resume: the standard output is not a regular file"),
    ],
)
def test_wrong_usage_is_explained(shell, options, words):
    ended = shell.map("fn.py:fn", "rows.jsonl", *options)
    assert ended.code == 2
    assert words in ended.err
    assert ended.out == ""
    assert len(shell.rows("rows.jsonl")) == 20


def test_no_password_of_an_address_is_shown(shell):
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--dry-run", "--on", "redis://me:secret@host/0")
    assert ended.code == 0
    assert "with on=redis://host/0 " in ended.err
    assert "secret" not in ended.err


def test_a_function_that_cannot_be_named_to_a_queue_is_refused(shell):
    shell.write("fn.py", "fn = lambda row: row\n")
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--on", "memory://nobody")
    assert ended.code == 2
    assert "error: could not send a call of <function <lambda>" in ended.err
    assert "hint: a queue sends names and no code" in ended.err


def test_an_output_that_leads_to_the_input_is_seen_through_links(shell):
    shell.path("link.jsonl").symlink_to(shell.path("rows.jsonl"))
    assert "it is the input" in shell.map("fn.py:fn", "rows.jsonl", "-o", "link.jsonl", "--force").err
    assert len(shell.rows("rows.jsonl")) == 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("10s", 10), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400), (" 1 s ", 1), (".5s", 0.5)],
)
def test_durations(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "value"), [("100/s", 100), ("600/m", 10), ("3600/h", 1), ("5", 5), ("1/min", 1 / 60)]
)
def test_rates(text, value):
    assert rate(text) == pytest.approx(value)


def test_budgets():
    assert failure_budget("0").is_exceeded(1, 1)
    assert not failure_budget("2").is_exceeded(2, 2)
    assert not failure_budget("5%").is_exceeded(99, 99)
    assert failure_budget("5%").is_exceeded(6, 100)
    assert not failure_budget("5%").is_exceeded(5, 100)


def test_a_timeout_ends_a_row_that_hangs(shell):
    shell.write("fn.py", "import time\ndef fn(row):\n    time.sleep(30 if row == 1 else 0)\n    return row\n")
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--timeout", "200ms", "--on-error", "record")
    assert ended.code == 1
    assert ended.out.count("\n") == 20
    assert '{"error":{"type":"TaskTimeout"' in ended.out.splitlines()[1]


def test_retries_are_bounded_by_the_total_timeout(shell):
    shell.write("fn.py", "def fn(row):\n    raise OSError('down')\n")
    options = ("--retries", "1000000", "--backoff", "5ms", "--total-timeout", "300ms")
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--limit", "1", "--on-error", "record", *options)
    assert ended.code == 1
    assert ended.out.count("\n") == 1


def test_a_rate_is_not_exceeded(shell):
    shell.write("fn.py", "import time\ndef fn(row):\n    return time.monotonic()\n")
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--rate", "50/s")
    assert ended.code == 0
    times = sorted(float(line) for line in ended.out.splitlines())
    assert times[-1] - times[0] >= 0.3


def test_workers_run_at_the_same_time(shell):
    shell.write(
        "fn.py", "import threading\nB = threading.Barrier(4)\ndef fn(row):\n    B.wait(20)\n    return row\n"
    )
    assert shell.map("fn.py:fn", "rows.jsonl", "-o", "-", "--workers", "4").code == 0


RANDOM = """
    import manyhands as mh
    tries = {}
    def fn(row):
        drawn = [mh.item_random().random(), mh.item_seed()]
        tries[row] = tries.get(row, 0) + 1
        if row % 4 == 0 and tries[row] == 1:
            raise OSError("again")
        return [row, drawn]
"""


def drawn(shell, output, *options, seed="1"):
    fixed = ("--seed", seed, "--retries", "1", "--backoff", "1ms")
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", output, *fixed, *options)
    assert ended.code == 0, ended.err
    return ended.out if output == "-" else shell.read(output)


def test_a_seed_ties_random_numbers_to_rows_whatever_the_run(shell):
    shell.write("fn.py", RANDOM)
    rows = [*range(20), 3, 3]
    shell.write_rows("rows.jsonl", rows)
    one = drawn(shell, "one.jsonl", "--workers", "1")
    assert drawn(shell, "-", "--workers", "7") == one
    assert drawn(shell, "other.jsonl", seed="2") != one
    # Equal rows draw numbers of their own.
    lines = one.splitlines()
    assert len({lines[3], lines[20], lines[21]}) == 3
    # A run in parts, over rows that have been moved meanwhile, draws what a whole one draws.
    drawn(shell, "parts.jsonl", "--limit", "9")
    shell.write_rows("rows.jsonl", rows[::-1])
    assert sorted(drawn(shell, "parts.jsonl", "--resume").splitlines()) == sorted(lines)


def test_progress_is_off_where_nobody_watches(shell):
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "-")
    assert len(ended.err.splitlines()) == 1


def test_progress_tells_how_much_there_is(shell):
    assert shell.map("fn.py:fn", "rows.jsonl", "-o", "out.jsonl", "--limit", "5").code == 0
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "out.jsonl", "--resume", "--progress")
    assert ended.code == 0
    assert "/15 " in ended.err


def test_a_terminal_gets_a_bar(shell):
    main, terminal = os.openpty()
    arguments = [*PROGRAM, "map", "fn.py:fn", "rows.jsonl", "-o", "out.jsonl"]
    process = subprocess.Popen(arguments, cwd=shell.folder, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while chunk := os.read(main, 4096):
            shown += chunk
    os.close(main)
    assert process.wait(20) == 0
    assert b"/20 " in shown
    assert b"20 rows: 20 done" in shown
