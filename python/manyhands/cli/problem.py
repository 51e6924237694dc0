"""What goes wrong in a way the user can mend: one line that says what, and one that says what to do."""

from __future__ import annotations

import os
from typing import IO, Any

import click


class Problem(click.ClickException):
    """Ends a command with a message, further text if there is any, and a hint.

    Attributes:
        message: `could not <verb> <thing>: found …, expected …`, lower case, without a full stop.
        hint: What the reader can do now.
        detail: Lines that belong to the message, such as a traceback.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the problem to `file`, by default to the standard error."""
        say(f"error: {self.message}", file)
        if self.detail:
            say(self.detail.rstrip("\n"), file)
        if self.hint:
            say(f"hint: {self.hint}", file)


def say(text: str, file: IO[Any] | None = None) -> None:
    """Write `text` for a human reader: to the standard error, so that the standard output stays data."""
    click.echo(text, file=file, err=file is None)


def system_problem(verb: str, path: str | os.PathLike[str] | None, error: OSError) -> Problem:
    """Turn what the operating system said about `path` into a problem."""
    name = error.filename if path is None else path
    thing = f" `{os.fspath(name)}`" if name else ""
    said = error.strerror or str(error)
    return Problem(f"could not {verb}{thing}: {said[:1].lower()}{said[1:]}")
