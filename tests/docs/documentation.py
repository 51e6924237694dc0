"""Reads the Markdown pages of the project and does what they say.

A page's blocks are followed from top to bottom in one folder, as a reader would:

- ``python``: executed, all blocks of a page in one namespace. One that begins with a comment that is a file's
  name (``# pages.py``) is saved under that name as well. With ``>>>`` it is a doctest.
- ``text`` right after such a block: what it printed; ``...`` stands for anything.
- ``console``: each line with ``$`` is given to a shell, the lines below it are what it printed. A command
  that fails must be followed by ``$ echo $?``.
- ``sh``: executed if it only calls ``manyhands``; other commands (how to install) are not ours to run here.
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "crates" / "README.md", *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 30


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    source = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], source.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(source)]


def is_generated(page: Path) -> bool:
    """Whether the page only repeats docstrings, whose examples are tested where they stand."""
    return page.read_text(encoding="utf-8").startswith("<!-- Written by scripts/reference")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def expect(wanted: str, got: str, where: str) -> None:
    """Fail unless the output is what the page shows."""
    if not doctest.OutputChecker().check_output(wanted, got, FLAGS):
        raise AssertionError(f"{where} shows\n{wanted}\nbut what came is\n{got}")


class Reader:
    """Follows one page in `folder`."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""

    def follow(self) -> None:
        """Do everything that the page shows."""
        previous = ""
        for block in blocks(self.page):
            if block.language == "python":
                self.run_python(block)
            elif block.language == "text" and previous == "python":
                expect(block.text, self.printed, self.place(block))
            elif block.language == "console":
                self.run_console(block)
            elif block.language == "sh" and calls_only_manyhands(block.text):
                self.run_commands([(command, "...") for command in commands(block.text)], block)
            previous = block.language

    def place(self, block: Block) -> str:
        return f"{self.page.relative_to(ROOT)}:{block.line}"

    def run_python(self, block: Block) -> None:
        name = re.match(r"# ([\w./]+\.py)\n", block.text)
        if name:
            (self.folder / name[1]).write_text(block.text, encoding="utf-8")
        output = io.StringIO()
        if ">>>" in block.text:
            test = doctest.DocTestParser().get_doctest(block.text, self.names, self.place(block), None, 0)
            failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(
                test, out=output.write, clear_globs=False
            )
            self.names = test.globs
            assert not failed, output.getvalue()
        else:
            # The empty lines put the block where it stands in the page, for the sake of tracebacks.
            code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
            with contextlib.redirect_stdout(output):
                exec(code, self.names)
        self.printed = output.getvalue()

    def run_console(self, block: Block) -> None:
        parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{self.place(block)}: a console block begins with `$ `"
        steps = []
        for part in parts[1:]:
            command, _, output = part.replace("\\\n", "").partition("\n")
            steps.append((command, output))
        self.run_commands(steps, block)

    def run_commands(self, steps: list[tuple[str, str]], block: Block) -> None:
        code = 0
        for command, wanted in steps:
            asks_for_code = command == "echo $?"
            done = self.shell(f"(exit {code}); {command}")
            assert code == 0 or asks_for_code, f"{self.place(block)}: exit code {code} before `{command}`"
            expect(wanted, done.stdout, f"{self.place(block)}, `{command}`,")
            code = done.returncode
        assert code == 0, f"{self.place(block)}: the last command ended with exit code {code}"

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


def commands(text: str) -> list[str]:
    """The commands of a shell block, without comments."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def calls_only_manyhands(text: str) -> bool:
    return all(command.split()[0] == "manyhands" for command in commands(text))
