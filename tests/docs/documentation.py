"""Reads the Markdown pages of the project and does what they say.

A page's blocks are followed from top to bottom in one folder, as a reader would:

- ``python``: executed, all blocks of a page in one namespace. One that begins with a comment that is a file's
  name (``# pages.py``) is saved under that name as well. With ``>>>`` it is a doctest, as is ``pycon``.
- ``text`` right after such a block: what it printed; ``...`` stands for anything.
- ``console``: each line with ``$`` is given to a shell, the lines below it are what it printed. A command
  that fails must be followed by ``$ echo $?``.
- ``sh``: executed if it only calls ``manyhands``; other commands (how to install) are not ours to run here.

``manyhands worker`` in either of them runs beside the page from where it is ready to the end of its section,
and must end in order there. Where a page names a server of this machine (``redis://localhost``), a private
one is meant.
"""

import contextlib
import doctest
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "crates" / "README.md", *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 30
READY = " is ready\n"
RUN = ("python", "pycon", "console", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line where that begins, and how many headings are above."""

    language: str
    text: str
    line: int
    section: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    source = page.read_text(encoding="utf-8")

    def headings(end: int) -> int:
        return len(re.findall(r"^#+ ", FENCE.sub("", source[:end]), re.MULTILINE))

    return [
        Block(m[1], m[2], source.count("\n", 0, m.start(2)) + 1, headings(m.start()))
        for m in FENCE.finditer(source)
    ]


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
    """Follows one page in `folder`; `servers` says what stands for the addresses that the page names."""

    def __init__(self, page: Path, folder: Path, servers: Mapping[str, str]) -> None:
        self.page, self.folder, self.servers = page, folder, servers
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""
        self.workers: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def follow(self) -> None:
        """Do everything that the page shows."""
        previous, section = "", 0
        try:
            for block in blocks(self.page):
                if block.section != section:
                    self.end_workers()
                self.do(block, previous)
                previous, section = block.language, block.section
            self.end_workers()
        finally:
            for _, process, _ in self.workers:
                process.kill()
                process.wait()
            self.forget_modules()

    def do(self, block: Block, previous: str) -> None:
        if block.language in ("python", "pycon"):
            self.run_python(block)
        elif block.language == "text" and previous == "python":
            expect(block.text, self.printed, self.place(block))
        elif block.language == "console":
            self.run_console(block)
        elif block.language == "sh" and calls_only_manyhands(block.text):
            self.run_commands([(command, "...") for command in commands(block.text)], block)

    def forget_modules(self) -> None:
        """Another page has others of these names."""
        for name, module in list(sys.modules.items()):
            if self.folder in Path(getattr(module, "__file__", None) or "/").parents:
                del sys.modules[name]

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
            if command.startswith("manyhands worker "):
                self.start_worker(command, block)
                continue
            done = self.shell(f"(exit {code}); {command}")
            assert code == 0 or asks_for_code, f"{self.place(block)}: exit code {code} before `{command}`"
            expect(wanted, done.stdout, f"{self.place(block)}, `{command}`,")
            code = done.returncode
        assert code == 0, f"{self.place(block)}: the last command ended with exit code {code}"

    def start_worker(self, command: str, block: Block) -> None:
        """Return when it is ready for tasks."""
        log = Path(tempfile.mkstemp(dir=self.folder, suffix=".log")[1])
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.at_private_servers(command)}"],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers.append((command, process, log))
        deadline = time.monotonic() + PATIENCE
        while READY not in log.read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < deadline, (
                f"{self.place(block)}: `{command}` does not become ready:\n{log.read_text(encoding='utf-8')}"
            )
            time.sleep(0.02)

    def end_workers(self) -> None:
        for _, process, _ in self.workers:
            process.send_signal(signal.SIGTERM)
        while self.workers:
            command, process, log = self.workers[-1]
            code = process.wait(PATIENCE)
            self.workers.pop()
            assert code == 0, f"`{command}` ended with exit code {code}:\n{log.read_text(encoding='utf-8')}"

    def at_private_servers(self, command: str) -> str:
        for shown, private in self.servers.items():
            command = command.replace(shown, private)
        return command

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self.at_private_servers(command)],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


def commands(text: str) -> list[str]:
    """The commands of a shell block, without comments."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def calls_only_manyhands(text: str) -> bool:
    return all(command.split()[0] == "manyhands" for command in commands(text))
