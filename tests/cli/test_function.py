"""Finding the user's function, and noticing that it has changed."""

import functools
import os

import pytest

from manyhands._core import is_coroutine_function
from manyhands.cli.function import fingerprint, load


def problem(shell, name):
    shell.write("rows.txt", "a\n")
    ended = shell.map(name, "rows.txt", "-o", "-")
    assert ended.code == 2, ended
    assert ended.out == ""
    return ended.err


def mapped(shell, name):
    shell.write("rows.txt", "a\n")
    ended = shell.map(name, "rows.txt", "-o", "-")
    assert ended.code == 0, ended.err
    return ended.out


def test_a_module_of_the_folder_or_a_file_anywhere(shell):
    shell.write("plain.py", "def fn(row):\n    return row * 2\n")
    shell.path("deep").mkdir()
    shell.write("deep/inner.py", "import beside\ndef fn(row):\n    return beside.twice(row)\n")
    shell.write("deep/beside.py", "def twice(row):\n    return [row, row]\n")
    shell.path("package").mkdir()
    shell.write("package/__init__.py", "")
    shell.write(
        "package/part.py", "class Tool:\n    @staticmethod\n    def fn(row):\n        return 'nested'\n"
    )
    assert mapped(shell, "plain:fn") == '"aa"\n'
    assert mapped(shell, "plain.py:fn") == '"aa"\n'
    assert mapped(shell, "deep/inner.py:fn") == '["a","a"]\n'
    assert mapped(shell, "package.part:Tool.fn") == '"nested"\n'
    assert mapped(shell, "json:dumps") == '"\\"a\\""\n'


def test_dataclasses_of_a_file_work(shell):
    shell.write(
        "fn.py",
        """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Point:
            x: int
        def fn(row):
            return Point(1)
        """,
    )
    assert mapped(shell, "fn.py:fn") == '{"x":1}\n'


@pytest.mark.parametrize("name", ["cleaning.clean", "clean", ":clean", "cleaning:"])
def test_a_name_without_its_two_parts_is_explained(shell, name):
    err = problem(shell, name)
    assert "expected MODULE:FUNCTION or FILE.py:FUNCTION" in err


def test_a_dotted_name_gets_a_colon_in_the_hint(shell):
    assert "hint: perhaps `cleaning:clean`" in problem(shell, "cleaning.clean")
    shell.write("fn.py", "")
    assert "hint: name the function in it: `fn.py:FUNCTION`" in problem(shell, "fn.py")


def test_a_missing_module_is_told_from_a_module_that_misses_one(shell):
    err = problem(shell, "nowhere:fn")
    assert "could not import `nowhere`: found no module `nowhere`" in err
    assert "Traceback" not in err
    shell.write("fn.py", "import nowhere\n")
    err = problem(shell, "fn:fn")
    assert "could not import `fn`: it raised ModuleNotFoundError" in err
    assert 'fn.py", line 1, in <module>' in err
    assert "No module named 'nowhere'" in err


def test_a_missing_file_suggests_its_neighbours(shell):
    shell.write("cleaning.py", "")
    err = problem(shell, "cleanin.py:fn")
    assert "could not import `cleanin.py`: found no such file" in err
    assert "perhaps `cleaning.py`" in err


def test_an_import_that_fails_shows_the_users_lines_only(shell):
    shell.write("fn.py", "import other\n")
    shell.write("other.py", "def make():\n    return 1 / 0\nmake()\n")
    err = problem(shell, "fn.py:fn")
    assert "could not import `fn.py`: it raised ZeroDivisionError" in err
    frames = [line.strip() for line in err.splitlines() if line.strip().startswith("File ")]
    assert [frame.split(", ", 1)[1] for frame in frames] == [
        "line 1, in <module>",
        "line 3, in <module>",
        "line 2, in make",
    ]


def test_a_syntax_error_shows_its_place(shell):
    shell.write("fn.py", "def fn(row:\n")
    err = problem(shell, "fn.py:fn")
    assert "it raised SyntaxError" in err
    assert "fn.py" in err
    assert "line 1" in err


def test_a_module_that_exits_does_not_take_the_program_along(shell):
    shell.write("fn.py", "import sys\nsys.exit(0)\n")
    assert "could not import `fn.py`: it raised SystemExit" in problem(shell, "fn.py:fn")


def test_a_missing_function_suggests_close_names(shell):
    shell.write("fn.py", "def clean_row(row):\n    return row\ndef other(row):\n    return row\n")
    err = problem(shell, "fn.py:cleanrow")
    assert "could not find `cleanrow` in `fn.py`" in err
    assert "hint: perhaps `clean_row`" in err
    assert "hint: it has `clean_row`, `other`" in problem(shell, "fn.py:zzz")


def test_what_cannot_be_called_is_named(shell):
    shell.write("fn.py", "limit = 3\n")
    assert "could not call `fn.py:limit`: found int, expected a function" in problem(shell, "fn.py:limit")


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_generator_function_is_explained(shell, word):
    shell.write("fn.py", f"{word} fn(row):\n    yield row\n")
    err = problem(shell, "fn.py:fn")
    assert "found a generator function, expected one result for each row" in err
    assert "replace `yield` by `return`" in err


def test_async_functions_choose_their_executor(shell):
    shell.write(
        "fn.py",
        """
        import asyncio
        async def fn(row):
            await asyncio.sleep(0)
            return asyncio.get_running_loop() is not None
        class Caller:
            async def __call__(self, row):
                return "called"
        caller = Caller()
        """,
    )
    assert mapped(shell, "fn.py:fn") == "true\n"
    assert mapped(shell, "fn.py:caller") == '"called"\n'


@pytest.mark.parametrize(
    ("word", "on", "fits"), [("def", "async", "thread"), ("async def", "thread", "async")]
)
def test_a_function_on_the_wrong_executor_is_refused(shell, word, on, fits):
    shell.write("fn.py", f"{word} fn(row):\n    return row\n")
    shell.write("rows.txt", "a\n")
    ended = shell.map("fn.py:fn", "rows.txt", "-o", "-", "--on", on)
    assert ended.code == 2
    assert f"with --on {on}: found" in ended.err
    assert f"use --on {fits}" in ended.err


def one(row):
    return row


def two(row):
    return row  # not the same


def outer():
    def inner(row):
        return row

    return inner


@functools.wraps(one)
def wrapped(row):
    return one(row)


def test_a_fingerprint_is_stable_and_differs():
    functions = [one, two, outer(), len, int, functools.partial(one, 1), functools.partial(one, 2)]
    prints = [fingerprint(function) for function in functions]
    assert prints == [fingerprint(function) for function in functions]
    assert len(set(prints)) == len(prints)


def test_a_fingerprint_sees_bytecode_where_there_is_no_source():
    def made(source):
        names = {}
        exec(source, names)
        return fingerprint(names["fn"])

    base = "def fn(row):\n    return [x + 1 for x in row]\n"
    assert made(base) == made(base)
    assert made(base) != made(base.replace("+ 1", "+ 2"))
    assert made(base) != made(base.replace("+ 1", "- 1"))
    assert made("def fn(row): return len(row)") != made("def fn(row): return abs(row)")


def test_the_kind_of_a_function_is_seen_through_partials():
    async def fn(row):
        return row

    assert is_coroutine_function(functools.partial(functools.partial(fn, 1), 2))
    assert not is_coroutine_function(one)


def test_loading_gives_the_function_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loaded_once.py").write_text("def fn(row):\n    return row\n")
    target = load("loaded_once.py:fn")
    assert target.function("x") == "x"
    assert (target.name, target.is_async) == ("loaded_once.py:fn", False)


def test_a_file_saved_a_moment_ago_is_not_taken_from_the_cache(shell):
    path = shell.path("fn.py")
    for version in range(3):
        shell.write("fn.py", f"def fn(row):\n    return {version}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert mapped(shell, "fn.py:fn") == f"{version}\n"
