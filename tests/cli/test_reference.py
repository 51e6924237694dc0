"""The reference page of the command: every option is on it, and its examples do what it shows."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from manyhands.cli.map import map_command

from .conftest import ENVIRONMENT

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def options():
    shown = [parameter for parameter in map_command.params if isinstance(parameter, click.Option)]
    return [name for option in shown for name in (*option.opts, *option.secondary_opts)]


@pytest.mark.parametrize("option", options())
def test_every_option_is_in_the_table(option):
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{option}`" in row or f"`{option} " in row for row in rows)


def test_the_table_has_no_other_options():
    rows = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `-")]
    named = {name for row in rows for name in re.findall(r"(?<![\w-])--?[a-z][\w-]*", row)}
    assert named <= {*options(), "--help"}


def test_the_examples_do_what_the_page_shows(tmp_path):
    # So that `manyhands` is the one under test, whether it is installed as a command or not.
    command = tmp_path / "bin" / "manyhands"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m manyhands.cli "$@"\n')
    command.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{command.parent}{os.pathsep}{ENVIRONMENT['PATH']}"}
    code = 0
    for language, text in FENCE.findall(PAGE.read_text()):
        if language == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
            continue
        assert language == "console"
        for step in text.split("$ ")[1:]:
            line, _, shown = step.partition("\n")
            ended = subprocess.run(
                ["bash", "-c", f"(exit {code}); {line}"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=50,
            )
            code = ended.returncode
            assert doctest.OutputChecker().check_output(shown, ended.stdout, doctest.ELLIPSIS), (
                line,
                ended.stdout,
            )
