"""Rows that fail: stop, skip, record, the budget, the file, and what resuming does about them."""

import json

import pytest

PICKY = """
    import os
    LOG = os.open("calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work(row):
        os.write(LOG, f"{row['id']}\\n".encode())
        if row["id"] in BAD and not os.path.exists("mended"):
            raise LookupError(f"no {row['id']}") from OSError("offline")
        return row["id"]

    BAD = {3, 5}
"""


@pytest.fixture
def picky(shell, counted):
    shell.write("work.py", PICKY)
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in range(8)])
    return counted


def run(shell, *options, code=1, output="out.jsonl"):
    ended = shell.map("work.py:work", "rows.jsonl", "-o", output, *options)
    assert ended.code == code, ended
    return ended


def mend(shell):
    shell.write("mended", "")


def error(id_, attempts=1):
    return {"error": {"type": "LookupError", "message": f"no {id_}", "attempts": attempts}}


def test_the_first_failure_stops_the_run_and_is_tried_again_by_resume(shell, picky):
    ended = run(shell, "--workers", "1")
    assert "stopped: the row on line 4 of `rows.jsonl` failed with LookupError: no 3" in ended.err
    assert "the same command with --resume continues; --on-error record or skip goes on" in ended.err
    assert shell.rows("out.jsonl") == [0, 1, 2]
    mend(shell)
    picky()
    run(shell, "--workers", "1", "--resume", code=0)
    again = picky()
    assert 3 in again
    assert not {0, 1, 2} & set(again)
    assert shell.rows("out.jsonl") == list(range(8))


def test_the_traceback_begins_in_the_users_code(shell, picky):
    err = run(shell).err
    assert "OSError: offline" in err
    assert "The above exception was the direct cause" in err
    frames = [line for line in err.splitlines() if line.strip().startswith("File ")]
    assert len(frames) == 1
    assert 'work.py", line 8, in work' in frames[0]


def test_skip_leaves_the_row_out(shell, picky):
    ended = run(shell, "--on-error", "skip")
    assert shell.rows("out.jsonl") == [0, 1, 2, 4, 6, 7]
    assert "8 rows: 6 done, 2 failed (LookupError 2)" in ended.err


def test_record_writes_the_error_in_the_rows_place(shell, picky):
    run(shell, "--on-error", "record", "--retries", "2", "--backoff", "1ms")
    assert shell.rows("out.jsonl") == [0, 1, 2, error(3, 3), 4, error(5, 3), 6, 7]


def test_failed_rows_stay_failed_until_they_are_to_be_retried(shell, picky):
    run(shell, "--on-error", "record")
    picky()
    before = shell.read("out.jsonl")
    mend(shell)
    run(shell, "--on-error", "record", "--resume")
    assert picky() == []
    assert shell.read("out.jsonl") == before
    run(shell, "--on-error", "record", "--resume", "--retry-failures", code=0)
    assert sorted(picky()) == [3, 5]
    assert shell.rows("out.jsonl") == list(range(8))


def test_a_run_that_stops_at_failures_does_not_live_with_old_ones(shell, picky):
    run(shell, "--on-error", "skip")
    picky()
    mend(shell)
    run(shell, "--resume", code=0)
    assert sorted(picky()) == [3, 5]


def test_recorded_and_skipped_are_two_views_of_one_journal(shell, picky):
    run(shell, "--on-error", "record")
    picky()
    run(shell, "--on-error", "skip", "--resume")
    assert shell.rows("out.jsonl") == [0, 1, 2, 4, 6, 7]
    run(shell, "--on-error", "record", "--resume")
    assert shell.rows("out.jsonl") == [0, 1, 2, error(3), 4, error(5), 6, 7]
    assert picky() == []


def test_failures_are_listed_with_all_there_is_to_know(shell, picky):
    run(shell, "--on-error", "skip", "--failures", "bad.jsonl")
    listed = sorted(shell.rows("bad.jsonl"), key=lambda failure: failure["line"])
    assert [failure["line"] for failure in listed] == [4, 6]
    assert [failure["input"] for failure in listed] == [{"id": 3}, {"id": 5}]
    assert listed[0]["error"] == error(3)["error"]
    assert listed[0]["traceback"].endswith("LookupError: no 3\n")
    assert "manyhands" not in listed[0]["traceback"].replace(str(shell.folder), "")
    # Rows that are not run again are listed again, where they stand now.
    shell.write_rows("rows.jsonl", [{"id": 9}, *({"id": id_} for id_ in range(8))])
    run(shell, "--on-error", "skip", "--failures", "bad.jsonl", "--resume")
    assert [failure["line"] for failure in shell.rows("bad.jsonl")] == [5, 7]


def test_the_file_for_failures_is_not_overwritten_unasked(shell, picky):
    shell.write("bad.jsonl", "precious\n")
    assert (
        "could not write `bad.jsonl`: it exists already" in run(shell, "--failures", "bad.jsonl", code=2).err
    )
    assert shell.read("bad.jsonl") == "precious\n"
    assert not shell.path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--failures", "out.jsonl"), "could not write `out.jsonl`: it is the file for failures"),
        (("--failures", "rows.jsonl"), "could not write `rows.jsonl`: it is the input"),
        (("--failures", "-"), "--failures needs a file"),
        (("--failures", "no/such/file"), "found no directory `no/such`"),
    ],
)
def test_the_file_for_failures_is_a_file_of_its_own(shell, picky, options, words):
    assert words in run(shell, *options, code=2).err
    assert len(shell.rows("rows.jsonl")) == 8


@pytest.mark.parametrize(("budget", "code_", "done"), [("1", 1, False), ("2", 1, True)])
def test_a_budget_of_rows_ends_the_run_when_it_is_exceeded(shell, picky, budget, code_, done):
    ended = run(shell, "--max-failures", budget, "--workers", "1", "--json", code=code_)
    assert ended.summary["status"] == ("failures" if done else "stopped")
    if done:
        assert len(shell.rows("out.jsonl")) == 8
    else:
        assert f"2 of 6 rows failed, more than --max-failures {budget}" in ended.err
        assert shell.rows("out.jsonl")[:6] == [0, 1, 2, error(3), 4, error(5)]
        run(shell, "--max-failures", budget, "--resume")
        assert shell.rows("out.jsonl") == [0, 1, 2, error(3), 4, error(5), 6, 7]


def test_a_budget_as_a_share_counts_from_the_hundredth_row(shell, picky):
    shell.write_rows("rows.jsonl", [{"id": 3}] * 30 + [{"id": 0}] * 300)
    ended = run(shell, "--max-failures", "10%", "--on-error", "skip", "--workers", "1")
    assert "30 of" not in ended.err.split("gave up")[0]
    assert "more than --max-failures 10%" not in ended.err
    shell.write_rows("rows.jsonl", [{"id": 0}] * 100 + [{"id": 3}] * 30)
    ended = run(shell, "--max-failures", "10%", "--on-error", "skip", "--workers", "1", "--force")
    assert "gave up: 12 of 112 rows failed, more than --max-failures 10%" in ended.err


def test_a_budget_and_stopping_contradict(shell, picky):
    assert (
        "--on-error stop ends the run" in run(shell, "--max-failures", "3", "--on-error", "stop", code=2).err
    )


def test_the_summary_counts(shell, picky):
    ended = run(shell, "--on-error", "record", "--retries", "1", "--backoff", "1ms", "--json")
    summary = ended.summary
    assert ended.err == ""
    assert summary["failures"] == {"LookupError": 2}
    assert {
        name: summary[name] for name in ("status", "rows", "succeeded", "failed", "resumed", "retries")
    } == {
        "status": "failures",
        "rows": 8,
        "succeeded": 6,
        "failed": 2,
        "resumed": 0,
        "retries": 2,
    }
    assert (summary["output"], summary["journal"], summary["exit_code"]) == (
        "out.jsonl",
        "out.jsonl.journal",
        1,
    )
    ended = run(shell, "--on-error", "record", "--json", output="-")
    assert json.loads(ended.err.splitlines()[-1])["output"] == "-"
    assert len(ended.out.splitlines()) == 8


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "raise KeyboardInterrupt", "raise Odd()"])
def test_exceptions_of_all_kinds_are_failures_of_their_row(shell, how):
    shell.write(
        "work.py",
        f"""
        class Odd(Exception):
            def __str__(self):
                raise ValueError("not even this")
        def work(row):
            if row == 2:
                {how}
            return row
        """,
    )
    shell.write_rows("rows.jsonl", [1, 2, 3])
    run(shell, "--on-error", "record")
    rows = shell.rows("out.jsonl")
    assert [rows[0], rows[2]] == [1, 3]
    assert rows[1]["error"]["type"] in how
