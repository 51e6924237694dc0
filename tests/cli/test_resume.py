"""Going on after a run: what is run again, what is refused, what the output is."""

import fcntl
import json
import os
import random
import shutil

import pytest

from manyhands import _core

from .conftest import COUNTED, size, until


def squares(ids):
    return [{"id": id_, "square": id_**2, "text": "é" * (id_ % 7)} for id_ in ids]


def start(shell, ids, *options, code=0):
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in ids])
    ended = shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--json", *options)
    assert ended.code == code, ended.err
    return ended


def test_a_complete_run_is_resumed_without_a_call(shell, counted):
    start(shell, range(50))
    assert sorted(counted()) == list(range(50))
    before = shell.path("out.jsonl").stat()
    ended = start(shell, range(50), "--resume")
    assert counted() == []
    assert (ended.summary["status"], ended.summary["resumed"], ended.summary["succeeded"]) == (
        "complete",
        50,
        0,
    )
    after = shell.path("out.jsonl").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_resume_begins_what_has_not_begun(shell, counted):
    start(shell, range(3), "--resume")
    assert shell.rows("out.jsonl") == squares(range(3))


def test_further_rows_at_the_end_run_alone(shell, counted):
    start(shell, range(10))
    counted()
    start(shell, range(15), "--resume")
    assert sorted(counted()) == list(range(10, 15))
    assert shell.rows("out.jsonl") == squares(range(15))


def test_a_trial_with_a_limit_grows_into_the_whole_run(shell, counted):
    start(shell, range(20), "--limit", "5")
    assert sorted(counted()) == list(range(5))
    start(shell, range(20), "--resume")
    assert sorted(counted()) == list(range(5, 20))
    assert shell.rows("out.jsonl") == squares(range(20))


def test_an_edited_input_runs_what_is_new_and_gives_the_output_of_its_order(shell, counted):
    start(shell, range(40))
    counted()
    shuffled = list(range(40))
    random.Random(7).shuffle(shuffled)
    edited = [100, *shuffled[:20], 101, *shuffled[25:], 102]
    start(shell, edited, "--resume")
    assert sorted(counted()) == [100, 101, 102]
    assert shell.rows("out.jsonl") == squares(edited)


def test_a_row_inserted_at_the_top_does_not_shift_the_others(shell, counted):
    start(shell, range(10))
    counted()
    start(shell, [99, *range(10)], "--resume")
    assert counted() == [99]
    assert shell.rows("out.jsonl") == squares([99, *range(10)])


def test_each_of_several_equal_rows_runs_once(shell, counted):
    start(shell, [1, 1, 2, 1])
    assert sorted(counted()) == [1, 1, 1, 2]
    start(shell, [1, 2, 1, 1, 1, 2], "--resume")
    assert sorted(counted()) == [1, 2]
    assert shell.rows("out.jsonl") == squares([1, 2, 1, 1, 1, 2])


def test_rows_are_known_by_what_they_say_not_how(shell, counted):
    shell.write("rows.jsonl", '{"id": 1, "x": [1.5, null]}\n')
    assert shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl").code == 0
    shell.write("rows.jsonl", '{"x":[1.5,null],"id":1}\n{"id": 1, "x": [1.5, "null"]}\n')
    assert shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--resume").code == 0
    assert counted() == [1, 1]


@pytest.mark.parametrize("damage", ["torn", "doubled", "gone", "other", "longer"])
def test_whatever_became_of_the_output_it_is_restored(shell, counted, damage):
    start(shell, range(30))
    counted()
    whole = shell.path("out.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    made = {
        "torn": whole[:-9],
        "doubled": b"".join(lines[:10] + lines[9:]),
        "gone": None,
        "other": b"something else\n",
        "longer": whole + lines[-1],
    }[damage]
    if made is None:
        shell.path("out.jsonl").unlink()
    else:
        shell.path("out.jsonl").write_bytes(made)
    start(shell, range(30), "--resume")
    assert counted() == []
    assert shell.path("out.jsonl").read_bytes() == whole


def test_an_existing_output_is_refused_and_left_alone(shell, counted):
    shell.write("out.jsonl", "precious\n")
    ended = start(shell, range(3), code=2)
    assert "could not write `out.jsonl`: it exists already" in ended.err
    assert "hint: --force overwrites it" in ended.err
    ended = start(shell, range(3), "--resume", code=2)
    assert "could not resume `out.jsonl`: found no journal `out.jsonl.journal`" in ended.err
    assert shell.read("out.jsonl") == "precious\n"
    assert counted() == []
    start(shell, range(3), "--force")
    assert shell.rows("out.jsonl") == squares(range(3))


def test_an_output_with_a_journal_says_how_to_resume(shell, counted):
    start(shell, range(3))
    ended = start(shell, range(3), code=2)
    assert "hint: --resume continues the run it belongs to, --force begins anew" in ended.err
    shell.path("out.jsonl").unlink()
    ended = start(shell, range(3), code=2)
    assert "found the journal of an earlier run, `out.jsonl.journal`" in ended.err


def test_force_forgets_the_journal(shell, counted):
    start(shell, range(3))
    counted()
    start(shell, range(3), "--force")
    assert sorted(counted()) == [0, 1, 2]


def test_resume_and_force_contradict(shell, counted):
    assert "give one of them" in start(shell, range(3), "--resume", "--force", code=2).err


@pytest.mark.parametrize("option", ["--retry-failures", "--accept-changed-function"])
def test_options_of_resume_want_it(shell, counted, option):
    assert f"{option} says how to --resume" in start(shell, range(3), option, code=2).err


def test_a_changed_function_is_refused_or_accepted_by_name(shell, counted):
    start(shell, range(10), "--limit", "4")
    counted()
    shell.write("work.py", COUNTED.replace("** 2", "** 3"))
    ended = start(shell, range(10), "--resume", code=2)
    assert "`work.py:work` is not the function `out.jsonl.journal` was begun with" in ended.err
    assert "--accept-changed-function keeps the 4 rows that are finished" in ended.err
    assert counted() == []
    start(shell, range(10), "--resume", "--accept-changed-function")
    assert sorted(counted()) == list(range(4, 10))
    assert [row["square"] for row in shell.rows("out.jsonl")] == [
        0,
        1,
        4,
        9,
        *(id_**3 for id_ in range(4, 10)),
    ]
    # Accepted once, the new function is the one to resume with.
    start(shell, range(10), "--resume")
    shell.write("work.py", COUNTED)
    start(shell, range(10), "--resume", code=2)


def test_code_beside_the_function_may_change(shell, counted):
    start(shell, range(3))
    shell.write("work.py", COUNTED + "\n    def another():\n        pass\n")
    start(shell, range(3), "--resume")


def test_another_seed_is_refused(shell, counted):
    start(shell, range(3), "--seed", "1")
    ended = start(shell, range(3), "--seed", "2", "--resume", code=2)
    assert "found --seed 2, expected --seed 1 as in `out.jsonl.journal`" in ended.err
    assert "found no seed" in start(shell, range(3), "--resume", code=2).err


def test_the_same_journal_serves_another_format(shell, counted):
    start(shell, range(3))
    counted()
    start(shell, range(3), "--resume", "--output-format", "csv")
    assert counted() == []
    assert shell.read("out.jsonl") == "id,square,text\n0,0,\n1,1,é\n2,4,éé\n"


def test_a_file_that_is_no_journal_is_never_touched(shell, counted):
    shell.write("out.jsonl.journal", "my diary, do not touch")
    for option in ("--resume", "--force"):
        ended = start(shell, range(3), option, code=2)
        assert "could not open journal `out.jsonl.journal`: found a file that is not a journal" in ended.err
    assert shell.read("out.jsonl.journal") == "my diary, do not touch"


def test_a_damaged_journal_names_the_place_and_the_way_out(shell, counted):
    start(shell, range(30))
    counted()
    path = shell.path("out.jsonl.journal")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ended = start(shell, range(30), "--resume", code=2)
    assert "could not read journal `out.jsonl.journal`: found damaged bytes at offset " in ended.err
    assert path.read_bytes() == data
    offset = int(ended.err.split("truncate -s ")[1].split()[0])
    with path.open("r+b") as file:
        file.truncate(offset)
    ended = start(shell, range(30), "--resume")
    assert 0 < ended.summary["resumed"] < 30
    assert len(counted()) == ended.summary["succeeded"] == 30 - ended.summary["resumed"]
    assert shell.rows("out.jsonl") == squares(range(30))


def test_a_journal_torn_at_any_of_its_last_bytes_resumes(shell, counted):
    start(shell, range(6))
    counted()
    whole = shell.path("out.jsonl.journal").read_bytes()
    output = shell.path("out.jsonl").read_bytes()
    # 41 bytes at the end say what is synced: a kill leaves none.
    for cut in random.Random(3).sample(range(41, 300), 12):
        shell.path("out.jsonl.journal").write_bytes(whole[:-cut])
        ended = start(shell, range(6), "--resume")
        assert len(counted()) == ended.summary["succeeded"] > 0
        assert "note: dropped an unfinished record" in ended.err
        assert shell.path("out.jsonl").read_bytes() == output


BLOCKED = """
    import os
    LOG = os.open("calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work(row):
        os.write(LOG, f"{row['id']}\\n".encode())
        if row["id"] == 3:
            open("gate").read()
        return row["id"]
"""


def test_two_runs_at_once_are_one_too_many(shell, counted):
    shell.write("work.py", BLOCKED)
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in range(10)])
    os.mkfifo(shell.path("gate"))
    first = shell.start("work.py:work", "rows.jsonl", "-o", "out.jsonl")
    assert until(lambda: size(shell.path("out.jsonl")) == len("0\n1\n2\n"), first)
    journal = shell.path("out.jsonl.journal")
    for option in ("--resume", "--force"):
        second = shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl", option)
        assert second.code == 2
        assert "could not open journal `out.jsonl.journal`: another run is using it" in second.err
        assert "hint: wait until it has ended" in second.err
    assert size(journal) > 0
    shell.path("gate").write_text("go on")
    assert first.wait(20) == 0
    assert shell.rows("out.jsonl") == list(range(10))


def test_rows_behind_a_slow_one_are_in_the_journal_before_it_ends(shell, counted):
    shell.write("work.py", BLOCKED)
    shell.write_rows("rows.jsonl", [{"id": id_} for id_ in range(10)])
    os.mkfifo(shell.path("gate"))
    process = shell.start("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--workers", "2")
    assert until(lambda: len(journaled(shell, [{"id": id_} for id_ in range(10)])) == 9, process)
    assert until(lambda: shell.read("out.jsonl") == "0\n1\n2\n", process)
    process.kill()
    process.wait()
    counted()
    shell.path("gate").unlink()
    shell.write("gate", "")
    ended = shell.map("work.py:work", "rows.jsonl", "-o", "out.jsonl", "--resume", "--json")
    assert (ended.summary["resumed"], ended.summary["succeeded"]) == (9, 1)
    assert counted() == [3]
    assert shell.rows("out.jsonl") == list(range(10))


def journaled(shell, rows, name="out.jsonl.journal"):
    """The rows that the journal holds, read from a copy so that nobody is disturbed."""
    path, copy = shell.path(name), shell.path("copy.journal")
    if not path.exists():
        return []
    shutil.copyfile(path, copy)
    try:
        ledger = _core.Ledger.resume(copy, ordered=True, retry_failures=True)
    except FileNotFoundError:
        return []
    kept = [row for line, row in enumerate(rows) if ledger.claim(row, line) is not None]
    ledger.close()
    return kept


def test_a_locked_journal_is_locked_for_others_too(shell, counted):
    start(shell, range(3))
    with shell.path("out.jsonl.journal").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run is using it" in start(shell, range(3), "--resume", code=2).err
    start(shell, range(3), "--resume")


def test_an_opening_that_is_not_ours_is_refused(shell, counted):
    ledger = _core.Ledger.create(shell.path("out.jsonl.journal"), b"\xff[]", ordered=True, overwrite=False)
    ledger.close()
    assert "found an opening that does not name a function" in start(shell, range(3), "--resume", code=2).err


def test_a_dry_run_tells_what_is_left(shell, counted):
    start(shell, range(10), "--limit", "4")
    counted()
    before = shell.path("out.jsonl").read_bytes()
    ended = start(shell, range(10), "--resume", "--dry-run")
    assert "would run `work.py:work` over 6 of 10 rows of `rows.jsonl`" in ended.out
    assert "first row: {'id': 0}" in ended.out
    assert counted() == []
    assert shell.path("out.jsonl").read_bytes() == before
    assert "it exists already" in start(shell, range(10), "--dry-run", code=2).err
    shell.write("rows.jsonl", '{"id": 1}\n{broken\n')
    ended = shell.map("work.py:work", "rows.jsonl", "-o", "new.jsonl", "--dry-run")
    assert ended.code == 2
    assert "line 2 of `rows.jsonl`" in ended.err
    assert not shell.path("new.jsonl").exists()
    assert not shell.path("new.jsonl.journal").exists()


def test_unordered_runs_resume_as_well(shell, counted):
    start(shell, range(30), "--unordered", "--limit", "20")
    counted()
    start(shell, range(30), "--unordered", "--resume")
    assert sorted(counted()) == list(range(20, 30))
    rows = shell.rows("out.jsonl")
    assert sorted(row["id"] for row in rows) == list(range(30))
    assert json.dumps(sorted(rows, key=lambda row: row["id"])) == json.dumps(squares(range(30)))
