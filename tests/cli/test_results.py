"""What functions may return, and how it is written."""

import json
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manyhands import _core

from .conftest import PROGRAM


def returned(shell, expression, *options):
    """The output of a run over one row whose result is `expression`."""
    shell.write(
        "fn.py", f"import dataclasses, datetime, decimal, enum, math\ndef fn(row):\n    return {expression}\n"
    )
    return shell.map("fn.py:fn", "-", "-o", "-", *options, stdin='{"a": 1}\n')


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ("None", "null"),
        ("True", "true"),
        ("1", "1"),
        ("2**70", str(2**70)),
        ("1.5", "1.5"),
        ("[1e300, 1e-7, 1e16, 0.1, -0.0]", "[1e+300,1e-07,1e+16,0.1,-0.0]"),
        ("'text'", '"text"'),
        ("'é\\n\"\\\\\\x00'", '"é\\n\\"\\\\\\u0000"'),
        ("'\\ud83d'", '"\\ud83d"'),
        ("[1, (2, 3)]", "[1,[2,3]]"),
        (
            "{'b': 1, 'a': {2: None, None: 3, True: 4, 1.5: 5}}",
            '{"b":1,"a":{"2":null,"null":3,"true":4,"1.5":5}}',
        ),
        ("dataclasses.make_dataclass('D', ['x', 'y'])(1, [2])", '{"x":1,"y":[2]}'),
        ("enum.IntEnum('E', 'one two').two", "2"),
        ("row", '{"a":1}'),
    ],
)
def test_results_are_written_as_compact_json(shell, expression, line):
    ended = returned(shell, expression)
    assert (ended.code, ended.out) == (0, line + "\n"), ended.err


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("datetime.date(2026, 1, 2)", "could not write result as JSON: found datetime.date"),
        (
            "{'a': [1, {'when': datetime.date.today()}]}",
            "result['a'][1]['when'] as JSON: found datetime.date",
        ),
        ("dataclasses.make_dataclass('D', ['x'])({1, 2})", "result.x as JSON: found set"),
        ("{'n': math.nan}", "result['n'] as JSON: found NaN, expected a finite number"),
        ("{(1, 2): 3}", "found a key of type tuple, expected str"),
        ("[b'bytes']", "result[0] as JSON: found bytes"),
        ("fn", "found function"),
        ("row.setdefault('self', row)", "found more than 500 levels, or a cycle"),
    ],
)
def test_what_json_cannot_express_fails_by_its_path(shell, expression, words):
    ended = returned(shell, expression)
    assert ended.code == 1
    assert words in ended.err
    assert "stopped: the row on line 1" in ended.err
    recorded = returned(shell, expression, "--on-error", "record")
    assert words in json.loads(recorded.out)["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@example(562949953421312.25)  # in the middle between the two shortest texts that are read as it
@given(JSON)
def test_json_text_is_that_of_the_standard_library(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "out"
    ledger = _core.Ledger.unkept(ordered=True, keyed=False)
    ledger.write_to(path, resume=False, lines=True, failures=False)
    assert ledger.claim(None, 1) is None
    ledger.settle(0, value)
    ledger.close()
    assert path.read_text() == json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def test_the_standard_output_is_results_alone(shell):
    shell.write("fn.py", "print('importing')\ndef fn(row):\n    print('working')\n    return row\n")
    ended = shell.map("fn.py:fn", "-", "-o", "-", stdin="1\n2\n")
    assert ended.out == "1\n2\n"
    assert "working" in ended.err
    assert "importing" in ended.err


@pytest.mark.parametrize("name", ["out.csv", "out.tsv"])
def test_csv_has_the_columns_of_the_first_result(shell, name):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    rows = [{"a": 1, "b": "x,\ty"}, {"b": None, "a": True}, {"a": 1.5, "b": [1, {"c": "é"}]}]
    shell.write_rows("rows.jsonl", rows)
    assert shell.map("fn.py:fn", "rows.jsonl", "-o", name).code == 0
    comma = "," if name == "out.csv" else "\t"
    assert shell.read(name) == (
        f"a{comma}b\n"
        f'1{comma}"x,\ty"\n'
        f"true{comma}\n" + ('1.5,"[1,{""c"":""é""}]"\n' if comma == "," else '1.5\t"[1,{""c"":""é""}]"\n')
    )


def test_csv_of_plain_results_has_a_column_value(shell):
    shell.write("fn.py", "def fn(row):\n    return row * 2\n")
    shell.write("rows.txt", "a\nb\n")
    assert shell.map("fn.py:fn", "rows.txt", "-o", "-", "--output-format", "csv").out == "value\naa\nbb\n"


def test_other_columns_than_the_first_result_fail_the_row(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write_rows("rows.jsonl", [{"a": 1}, {"b": 2}, {"a": 3}])
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "out.csv")
    assert ended.code == 1
    assert "row on line 2" in ended.err
    assert "found no column `a` and column `b`, expected a as in the first result" in ended.err
    assert shell.read("out.csv") == "a\n1\n"
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "out.csv", "--resume", "--on-error", "skip", "--json")
    assert (ended.code, ended.summary["failed"]) == (1, 1)
    assert shell.read("out.csv") == "a\n1\n3\n"
    ended = shell.map("fn.py:fn", "rows.jsonl", "-o", "out.csv", "--resume", "--on-error", "record")
    assert shell.read("out.csv").splitlines()[0::3] == ["a,error", "3,"]
    assert "TypeError: could not write the result as CSV" in shell.read("out.csv")


def test_csv_failures_before_the_first_result_wait_for_its_columns(shell):
    shell.write("fn.py", "def fn(row):\n    return {'x': 1 / row, 'y': row}\n")
    shell.write_rows("rows.jsonl", [0, 0, 2])
    assert shell.map("fn.py:fn", "rows.jsonl", "-o", "out.csv", "--on-error", "record").code == 1
    error = "ZeroDivisionError: division by zero"
    assert shell.read("out.csv") == f"x,y,error\n,,{error}\n,,{error}\n0.5,2,\n"
    shell.write_rows("rows.jsonl", [0])
    assert shell.map(
        "fn.py:fn", "rows.jsonl", "-o", "-", "--output-format", "csv", "--on-error", "record"
    ).out == (f"error\n{error}\n")


def test_a_compressed_output_is_refused(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write("rows.txt", "a\n")
    ended = shell.map("fn.py:fn", "rows.txt", "-o", "out.jsonl.gz")
    assert ended.code == 2
    assert "compressed output cannot be resumed" in ended.err


def test_a_reader_who_has_seen_enough_is_no_error(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write("rows.txt", "a line\n" * 200_000)
    program = " ".join([*PROGRAM, "map", "fn.py:fn", "rows.txt", "-o", "-"])
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{program} | head -n 2"],
        cwd=shell.folder,
        capture_output=True,
        text=True,
    )
    assert ended.stdout == '"a line"\n"a line"\n'
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr


def test_a_full_disk_is_a_message(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write("rows.txt", "a line\n" * 1000)
    ended = shell.map("fn.py:fn", "rows.txt", "-o", "/dev/full")
    assert ended.code == 1
    assert "could not write the results: no space left on device" in ended.err
    assert "Traceback" not in ended.err


def test_the_output_can_be_a_pipe_of_the_file_system(shell):
    shell.write("fn.py", "def fn(row):\n    return row\n")
    shell.write("rows.txt", "a\nb\n")
    subprocess.run(["mkfifo", "pipe"], cwd=shell.folder, check=True)
    process = shell.start("fn.py:fn", "rows.txt", "-o", "pipe")
    assert shell.read("pipe") == '"a"\n"b"\n'
    assert process.wait(20) == 0
    assert not shell.path("pipe.journal").exists()
    assert (
        "could not resume: `pipe` is not a regular file"
        in shell.map("fn.py:fn", "rows.txt", "-o", "pipe", "--resume").err
    )


def test_the_installed_command_is_the_same_program(shell):
    script = shell.folder / "entry.py"
    script.write_text("from manyhands.cli.__main__ import main\nmain()\n")
    ended = subprocess.run([sys.executable, script, "--version"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stdout.startswith("manyhands, version ")
