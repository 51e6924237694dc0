"""`scripts/interpreters` is asked about a machine made of small executables that answer as a Python would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "interpreters"


@pytest.fixture
def machine(tmp_path):
    """A home with a folder of PATH and two versions of pyenv in it; what stands in /usr stays visible."""
    machine = Machine(tmp_path)
    machine.add("pyenv/versions/3.14.1/bin/python3", "3.14", micro=1)
    return machine


class Machine:
    def __init__(self, home):
        self.home = home

    def add(self, path, version, *, free_threaded=False, micro=0, missing="-", final=True):
        fields = [*version.split("."), int(free_threaded), int(missing == "-"), int(final), micro, missing]
        return self.add_script(path, f"echo '{chr(9).join(map(str, fields))}\t'$0")

    def add_script(self, path, script):
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return str(file)

    def ask(self, *arguments, **variables):
        path = f"{self.home}/bin:/usr/bin:/bin"
        environment = {"HOME": str(self.home), "PYENV_ROOT": f"{self.home}/pyenv", "PATH": path, **variables}
        command = [SCRIPT, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def find(self):
        """What was found beside the real interpreters of this machine."""
        lines = (line.split("\t") for line in self.ask().stdout.splitlines())
        return {tag: path for tag, path in lines if path.startswith(str(self.home))}


def test_the_interpreters_of_pyenv_are_found(machine):
    assert machine.find() == {"3.14": f"{machine.home}/pyenv/versions/3.14.1/bin/python3"}


def test_a_shim_that_fails_is_skipped(machine):
    machine.add_script("bin/python3.15", "echo 'not installed' >&2; exit 127")
    assert list(machine.find()) == ["3.14"]


def test_of_one_version_the_newest_release_that_has_venv_is_taken(machine):
    expected = machine.add("bin/python3.14", "3.14", micro=2)
    machine.add("pyenv/versions/3.14.3/bin/python3", "3.14", micro=3, missing="ensurepip,venv")
    machine.add("pyenv/versions/3.14-dev/bin/python3", "3.14", micro=4, final=False)
    assert machine.find() == {"3.14": expected}


def test_without_its_venv_module_a_python_is_skipped_and_the_package_named(machine):
    path = machine.add("bin/python3.15", "3.15", missing="ensurepip")
    assert list(machine.find()) == ["3.14"]
    assert f"skipped CPython 3.15 ({path}): it lacks ensurepip" in machine.ask().stderr
    assert "python3.15-venv" in machine.ask().stderr


def test_a_free_threaded_build_is_a_version_of_its_own(machine):
    machine.add("bin/python3.14t", "3.14", free_threaded=True)
    assert list(machine.find()) == ["3.14", "3.14t"]
    assert machine.ask("--newest").stdout == f"{machine.home}/pyenv/versions/3.14.1/bin/python3\n"


@pytest.mark.parametrize(
    ("version", "free_threaded", "why"),
    [("3.13", True, "free-threading is supported from 3.14t"), ("3.99", False, "newer than pyo3 supports")],
)
def test_a_python_that_cannot_be_built_for_is_skipped_with_a_reason(machine, version, free_threaded, why):
    machine.add("bin/python3.99", version, free_threaded=free_threaded)
    assert list(machine.find()) == ["3.14"]
    assert why in machine.ask().stderr


def test_a_python_older_than_we_support_is_not_mentioned(machine):
    machine.add("bin/python3.9", "3.9")
    assert list(machine.find()) == ["3.14"]
    assert "3.9 " not in machine.ask().stderr


def test_a_wish_is_granted_or_refused_in_one_line(machine):
    wished = machine.add("elsewhere/python", "3.12")
    assert machine.ask("--default", PYTHON=wished).stdout == f"{wished}\n"
    refused = machine.ask("--default", PYTHON=machine.add_script("elsewhere/broken", "exit 1"))
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"could not use PYTHON={machine.home}/elsewhere/broken: expected a CPython 3.10"
    )
    assert len(refused.stderr.splitlines()) == 1


def test_the_interpreter_of_this_test_is_found():
    real = subprocess.run([SCRIPT], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in real.stdout
