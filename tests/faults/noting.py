"""A journal of what has really been run; on its own, for every worker that is started imports it."""

import contextlib
import os
from pathlib import Path
from typing import ClassVar


class Journal:
    """Lines that many processes append, each by one write: what has really been run."""

    _descriptors: ClassVar[dict[str, int]] = {}
    """Of each process its own: opening takes longer than everything else that a small task does."""

    def __init__(self, path):
        self.path = str(path)

    def note(self, text):
        if self.path not in self._descriptors:
            self._descriptors[self.path] = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(self._descriptors[self.path], f"{text}\n".encode())

    def lines(self):
        path = Path(self.path)
        return path.read_text().split() if path.exists() else []

    def last(self, count):
        """The last lines, or some of them: however long the journal is, looking is as quick."""
        with contextlib.suppress(FileNotFoundError), Path(self.path).open("rb") as journal:
            end = journal.seek(0, os.SEEK_END)
            journal.seek(max(0, end - 20 * count))
            _, *lines = journal.read().decode().split("\n")
            return lines[:-1][-count:]
        return []


def note(journal, number):
    """A task: note the number and the process, and return the number."""
    journal.note(f"{number}:{os.getpid()}")
    return number
