"""Rows of every format, and everything that can be wrong with an input."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cli import rows as rows_module
from manyhands.cli.problem import Problem
from manyhands.cli.rows import count_rows, read_rows

ECHO = "def echo(row):\n    return row\n"


@pytest.fixture(autouse=True)
def echo(shell):
    shell.write("fn.py", ECHO)


def echoed(shell, name, *options, stdin=None):
    ended = shell.map("fn.py:echo", name, "-o", "-", *options, stdin=stdin)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.split("\n")[:-1]]


def problem(shell, name, *options):
    ended = shell.map("fn.py:echo", name, "-o", "out.jsonl", *options)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    return ended.err


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.JSONL"])
def test_json_lines_become_dicts(shell, name):
    shell.write(name, '{"a": 1, "b": [null, true, 1.5, "é"]}\n\n  {"a": 2}\r\n3\n')
    assert echoed(shell, name) == [{"a": 1, "b": [None, True, 1.5, "é"]}, {"a": 2}, 3]


def test_csv_rows_become_dicts_of_text(shell):
    shell.write("rows.csv", 'name,note\nAda,"a, b"\nBob,"two\nlines"\n\nEve,\n')
    assert echoed(shell, "rows.csv") == [
        {"name": "Ada", "note": "a, b"},
        {"name": "Bob", "note": "two\nlines"},
        {"name": "Eve", "note": ""},
    ]


def test_tsv_is_cut_at_tabs(shell):
    shell.write("rows.tsv", "a\tb\n1,5\t2\n")
    assert echoed(shell, "rows.tsv") == [{"a": "1,5", "b": "2"}]


def test_plain_lines_become_text_also_empty_ones(shell):
    shell.path("rows.txt").write_bytes(b"one\r\n\ntwo\xe2\x80\xa8still two\nlast")
    assert echoed(shell, "rows.txt") == ["one", "", "two\u2028still two", "last"]


def test_the_standard_input_is_json_lines_unless_said_otherwise(shell):
    assert echoed(shell, "-", stdin='{"a": 1}\n') == [{"a": 1}]
    assert echoed(shell, "-", "--format", "lines", stdin="a\nb\n") == ["a", "b"]
    assert echoed(shell, "-", "--format", "csv", stdin="x\n1\n") == [{"x": "1"}]


def test_a_format_beats_the_extension(shell):
    shell.write("rows.txt", '{"a": 1}\n')
    assert echoed(shell, "rows.txt", "--format", "jsonl") == [{"a": 1}]


def test_an_unknown_extension_asks_for_a_format(shell):
    shell.write("rows.dat", "x\n")
    err = problem(shell, "rows.dat")
    assert "could not tell the format of `rows.dat`" in err
    assert "--format jsonl|csv|tsv|lines" in err


def test_gzip_is_read_through(shell):
    with gzip.open(shell.path("rows.csv.gz"), "wt") as file:
        file.write("a\n1\n2\n")
    assert echoed(shell, "rows.csv.gz") == [{"a": "1"}, {"a": "2"}]


def test_a_cut_gzip_file_is_named(shell):
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    shell.path("rows.jsonl.gz").write_bytes(whole[:-10])
    assert "compressed data is damaged or cut short" in problem(shell, "rows.jsonl.gz")
    shell.path("rows.jsonl.gz").write_bytes(b'{"a": 1}\n')
    assert "compressed data is damaged" in problem(shell, "rows.jsonl.gz", "--force")


@pytest.mark.parametrize("form", ["jsonl", "csv", "lines"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(shell, form):
    text = {"jsonl": '{"a": "1"}\n', "csv": "a\n1\n", "lines": "x\n"}[form]
    shell.path("rows").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert echoed(shell, "rows", "--format", form) in ([{"a": "1"}], ["x"])


def test_an_empty_input_is_a_complete_run(shell):
    shell.write("rows.jsonl", "")
    ended = shell.map("fn.py:echo", "rows.jsonl", "-o", "out.jsonl", "--json")
    assert (ended.code, ended.summary["rows"], shell.read("out.jsonl")) == (0, 0, "")


def test_a_limit_ends_the_input(shell):
    shell.write("rows.txt", "a\nb\nc\n")
    assert echoed(shell, "rows.txt", "--limit", "2") == ["a", "b"]
    assert echoed(shell, "rows.txt", "--limit", "0") == []


def test_a_missing_input_leaves_no_output(shell):
    assert "could not read `rows.jsonl`: no such file" in problem(shell, "rows.jsonl")
    assert not shell.path("out.jsonl").exists()
    assert not shell.path("out.jsonl.journal").exists()
    shell.path("rows.csv").mkdir()
    assert "could not read `rows.csv`: is a directory" in problem(shell, "rows.csv")


def test_a_malformed_line_is_named_and_what_is_before_it_is_kept(shell):
    shell.write("rows.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3,}\n{"a": 4}\n')
    err = problem(shell, "rows.jsonl")
    assert "line 3 of `rows.jsonl`" in err
    assert "which is not JSON" in err
    assert "hint: mend or remove the line; then the same command with --resume continues" in err
    assert shell.rows("out.jsonl") == [{"a": 1}, {"a": 2}]
    shell.write("rows.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4}\n')
    ended = shell.map("fn.py:echo", "rows.jsonl", "-o", "out.jsonl", "--resume", "--json")
    assert (ended.summary["resumed"], ended.summary["succeeded"]) == (2, 2)
    assert shell.rows("out.jsonl") == [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]


def test_two_values_on_a_line_are_malformed(shell):
    shell.write("rows.jsonl", '{"a": 1} {"a": 2}\n')
    assert "more after the value at column 9" in problem(shell, "rows.jsonl")


@pytest.mark.parametrize("text", ['[{"a": 1},\n {"a": 2}]\n', '{\n  "a": 1\n}\n'])
def test_a_json_document_gets_a_hint_at_json_lines(shell, text):
    shell.write("rows.jsonl", text)
    assert "jq -c" in problem(shell, "rows.jsonl")


def test_rows_nested_beyond_measure_are_named(shell):
    shell.write("rows.jsonl", "[" * 800 + "]" * 800 + "\n" + "[" * 100_000 + "\n")
    assert "line 1 of `rows.jsonl`" in problem(shell, "rows.jsonl")
    shell.write("rows.jsonl", "[" * 100_000 + "\n")
    assert "too many levels" in problem(shell, "rows.jsonl", "--force")


def test_a_wrong_encoding_is_named_by_line_and_position(shell):
    shell.path("rows.txt").write_bytes(b"one\ntwo\ncaf\xe9\nfour\n")
    err = problem(shell, "rows.txt")
    assert "line 3 of `rows.txt`: found byte 0xe9 at position 4, expected UTF-8" in err
    assert "iconv" in err
    assert shell.rows("out.jsonl") == ["one", "two"]


def test_utf_16_is_recognised(shell):
    shell.path("rows.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    assert "found UTF-16, expected UTF-8" in problem(shell, "rows.csv")


def test_a_ragged_row_is_named_with_what_it_lacks(shell):
    shell.write("rows.csv", "a,b,c\n1,2,3\n4,5\n")
    err = problem(shell, "rows.csv")
    assert "line 3 of `rows.csv`: found 2 fields, expected 3 as in the header (no value for c)" in err
    shell.write("rows.csv", "a,b\n1,2,3\n")
    assert "line 2 of `rows.csv`: found 3 fields, expected 2" in problem(shell, "rows.csv", "--force")


def test_line_numbers_count_lines_inside_quotes(shell):
    shell.write("rows.csv", 'a,b\n"1\n1\n1",2\n3\n')
    assert "line 5 of `rows.csv`" in problem(shell, "rows.csv")


def test_a_column_named_twice_is_refused(shell):
    shell.write("rows.csv", "a,b,a\n1,2,3\n")
    assert "line 1 of `rows.csv`: found column 'a' twice" in problem(shell, "rows.csv")


def test_an_open_quote_is_named(shell):
    shell.write("rows.csv", 'a,b\n1,"2\n3,4\n')
    err = problem(shell, "rows.csv")
    assert "line 2 of `rows.csv`" in err
    assert "a quote that is opened and not closed" in err


def test_columns_become_keyword_arguments(shell):
    shell.write("fn.py", "def add(a, b=10, *, c=0):\n    return int(a) + int(b) + int(c)\n")
    shell.write("rows.csv", "a,c\n1,2\n3,4\n")
    assert shell.map("fn.py:add", "rows.csv", "-o", "-", "--args").out == "13\n17\n"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"b": 1}, "found no column `a`"),
        ({"a": 1, "z": 2}, "found column `z`, which `fn.py:add` does not take"),
        ([1], "found list, expected an object with columns"),
    ],
)
def test_columns_that_do_not_fit_the_parameters_are_named(shell, row, words):
    shell.write("fn.py", "def add(a, b=10):\n    return a\n")
    shell.write_rows("rows.jsonl", [{"a": 1}, row])
    ended = shell.map("fn.py:add", "rows.jsonl", "-o", "-", "--args")
    assert ended.code == 2
    assert f"the row on line 2 of `rows.jsonl` with --args: {words}" in ended.err
    assert ended.out == "1\n"


def test_further_columns_go_to_a_function_that_takes_all(shell):
    shell.write("fn.py", "def add(a, **rest):\n    return [a, rest]\n")
    shell.write_rows("rows.jsonl", [{"a": 1, "z": 2}])
    assert shell.map("fn.py:add", "rows.jsonl", "-o", "-", "--args").out == '[1,{"z":2}]\n'


class Trickle(io.BytesIO):
    """Gives its bytes in the portions it is told."""

    def __init__(self, data: bytes, portions: list[int]) -> None:
        super().__init__(data)
        self.portions = portions

    def read1(self, size: int = -1, /) -> bytes:
        return super().read1(self.portions.pop() if self.portions else 3)


def trickled(data: bytes, portions: list[int], form: str) -> list[object]:
    blocks = rows_module._blocks(Trickle(data, list(portions)), "`x`")
    return [row for _, row in rows_module._READERS[form](blocks, "`x`")]


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"))), st.lists(st.integers(1, 9))
)
def test_lines_are_the_same_however_they_arrive(lines, portions):
    data = "".join(f"{line}\n" for line in lines).encode().removeprefix(b"\xef\xbb\xbf")
    expected = data.decode().split("\n")[:-1]
    assert trickled(data, [3, *portions], "lines") == expected


@given(
    st.lists(st.lists(st.text('ab,"\n\té'), min_size=3, max_size=3), min_size=1), st.lists(st.integers(1, 9))
)
def test_csv_is_the_same_however_it_arrives(table, portions):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["x", "y", "z"], *table])
    expected = [dict(zip("xyz", row, strict=True)) for row in table]
    assert trickled(text.getvalue().encode(), [3, *portions], "csv") == expected


def test_a_line_without_end_is_given_up_before_it_fills_the_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rows_module, "LONGEST_LINE_BYTES", 1 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"[" + b"1," * (1 << 20))
    rows = read_rows(str(path), "jsonl")
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(Problem, match=r"line 2 of .*found over 1 MiB without an end"):
        next(rows)


@pytest.mark.parametrize(
    ("form", "text", "count"),
    [
        ("jsonl", "", 0),
        ("jsonl", "1\n2\n3", 3),
        ("lines", "a\n\nb\n", 3),
        ("csv", "", 0),
        ("csv", "a,b\n", 0),
        ("csv", "a,b\n1,2\n3,4", 2),
        ("csv", 'a,b\n1,"2\n3"\n', None),
    ],
)
def test_rows_are_counted_for_the_progress_bar_where_that_is_easy(tmp_path, form, text, count):
    path = tmp_path / "rows"
    path.write_text(text)
    assert count_rows(str(path), form) == count
    assert count_rows("-", form) is None
