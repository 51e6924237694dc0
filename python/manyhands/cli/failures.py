"""Rows that have failed for good: as lines of the output, in the journal, and in a file of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from manyhands.cli.problem import system_problem
from manyhands.cli.report import message, user_traceback
from manyhands.cli.rows import Row

# A row beyond this is not kept with its failure; the input has it anyway.
_LONGEST_DETAILS = 16 << 20


@dataclass(frozen=True)
class Failure:
    """A row that has failed for good.

    Attributes:
        line: Where in the input it begins.
        input: The row.
        error: Type, message and number of attempts.
        traceback: From the user's code on.
    """

    line: int
    input: Row
    error: dict[str, Any]
    traceback: str

    @classmethod
    def of(cls, error: BaseException, line: int, row: Row, attempts: int) -> Failure:
        """The failure of `row` with `error`."""
        about = {"type": type(error).__qualname__, "message": message(error), "attempts": attempts}
        return cls(line, row, about, user_traceback(error))

    @classmethod
    def from_payload(cls, payload: bytes, line: int) -> Failure:
        """The failure that a journal has kept, of a row that now begins on `line`."""
        details = json.loads(payload.splitlines()[1])
        return cls(line, details["input"], details["error"], details["traceback"])

    @property
    def text(self) -> str:
        """Type and message, for messages."""
        message = self.error["message"]
        return f"{self.error['type']}: {message}" if message else str(self.error["type"])

    @property
    def shown_traceback(self) -> str | None:
        """The traceback, if it leads anywhere."""
        return self.traceback if "Traceback (most recent call last)" in self.traceback else None

    def details(self) -> str:
        """The line about it in the file for failures."""
        about = {"line": self.line, "input": self.input, "error": self.error, "traceback": self.traceback}
        try:
            return json.dumps(about, ensure_ascii=False) + "\n"
        except (TypeError, ValueError, RecursionError):
            # The function has put something into its row that was not there when it was read.
            return json.dumps({**about, "input": repr(self.input)}, ensure_ascii=False) + "\n"

    def payload(self) -> bytes:
        """What the journal keeps: first the line that may stand in the output, then the details."""
        recorded = json.dumps({"error": self.error}, ensure_ascii=False, separators=(",", ":"))
        details = self.details()
        if len(details) > _LONGEST_DETAILS:
            details = replace(self, input=None).details()
        return f"{recorded}\n{details}".encode(errors="backslashreplace")


def open_failures(path: str) -> IO[str]:
    """Begin the file at `path` for failures, one line for each.

    Raises:
        Problem: It cannot be written.
    """
    try:
        # Half a character becomes the escape that JSON has for it, too.
        return Path(path).open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        raise system_problem("write", path, error) from None
