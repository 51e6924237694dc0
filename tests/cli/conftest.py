"""The real program, run as a process of its own in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "manyhands.cli"]
# As a user has it, whatever the test run has set.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


class Shell:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, text: str) -> str:
        self.path(name).write_text(dedent(text), encoding="utf-8")
        return name

    def read(self, name: str) -> str:
        return self.path(name).read_text(encoding="utf-8")

    def rows(self, name: str) -> list[Any]:
        return [json.loads(line) for line in self.read(name).split("\n")[:-1]]

    def write_rows(self, name: str, rows: list[Any]) -> str:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> Ended:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        ended = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.folder,
            env=ENVIRONMENT,
            input=data or b"",
            capture_output=True,
            timeout=50,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def map(self, *arguments: str, stdin: str | bytes | None = None) -> Ended:
        return self.run("map", *arguments, stdin=stdin)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, "map", *arguments],
            cwd=self.folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end_all(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait for `condition`; False if `process` ended before it came true."""
    deadline = time.monotonic() + 40
    while not condition():
        if process.poll() is not None:
            return condition()
        assert time.monotonic() < deadline, "nothing happened for 40 s"
        time.sleep(0.0005)
    return True


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end_all()


# A function that leaves a line for every call, so that a test can count the calls over several processes.
COUNTED = """
    import os
    LOG = os.open("calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work(row):
        os.write(LOG, f"{row['id']}\\n".encode())
        return {"id": row["id"], "square": row["id"] ** 2, "text": "é" * (row["id"] % 7)}
"""


@pytest.fixture
def counted(shell: Shell) -> Callable[[], list[int]]:
    """Writes `work.py` with COUNTED; gives the ids that were called since the last look."""
    shell.write("work.py", COUNTED)
    seen = 0

    def calls() -> list[int]:
        nonlocal seen
        log = shell.path("calls.log")
        lines = log.read_text().splitlines() if log.exists() else []
        new, seen = lines[seen:], len(lines)
        return [int(line) for line in new]

    return calls
