"""Opening the books of a run: its journal and its output, and every reason not to touch them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyhands import _core
from manyhands.cli.function import Target
from manyhands.cli.problem import Problem, say, system_problem


@dataclass(frozen=True)
class Place:
    """Where results go.

    Attributes:
        path: The output file, or None for the standard output.
        journal: The journal beside it; None if the output is not a file that could be resumed.
    """

    path: Path | None
    journal: Path | None

    @classmethod
    def of(cls, output: str) -> Place:
        """The place that `-o output` names.

        Raises:
            Problem: It is a directory, or its directory does not exist.
        """
        if output == "-":
            return cls(None, None)
        path = Path(output)
        if path.is_dir():
            raise Problem(f"could not write `{output}`: found a directory, expected a file")
        if not path.parent.is_dir():
            hint = f"mkdir -p {path.parent}"
            raise Problem(f"could not write `{output}`: found no directory `{path.parent}`", hint)
        if path.exists() and not path.is_file():
            return cls(path, None)
        return cls(path, Path(f"{output}.journal"))

    @property
    def name(self) -> str:
        """For messages."""
        return "the standard output" if self.path is None else f"`{self.path}`"

    def must_be_free(self) -> None:
        """Refuse a place where an earlier run has left something.

        Raises:
            Problem: It has.
        """
        has_journal = _has_content(self.journal)
        hint = "--resume continues the run it belongs to, --force begins anew"
        if _has_content(self.path):
            hint = hint if has_journal else "--force overwrites it"
            raise Problem(f"could not write {self.name}: it exists already", hint)
        if has_journal:
            raise _journal_found(self, hint)

    def must_not_be(self, other: str, what: str) -> None:
        """Refuse an output that is `other`, which is `what`.

        Raises:
            Problem: It is.
        """
        for mine in (self.path, self.journal):
            if mine is not None and mine.resolve() == Path(other).resolve():
                raise Problem(f"could not write `{mine}`: it is {what}", "give the output another name")


def _has_content(path: Path | None) -> bool:
    return path is not None and path.is_file() and path.stat().st_size > 0


def _journal_found(place: Place, hint: str) -> Problem:
    return Problem(
        f"could not begin {place.name}: found the journal of an earlier run, `{place.journal}`", hint
    )


@dataclass(frozen=True)
class Terms:
    """How an existing output is treated, and what a run must have in common with the one it resumes.

    Attributes:
        resume: Go on where the journal stops.
        force: Begin anew, whatever is there.
        accept_changed_function: Resume although the function has changed.
        retry_failures: Run rows again that failed in an earlier run.
        ordered: Results come out in input order.
        target: The function.
        seed: Of the rows' random streams.
    """

    resume: bool
    force: bool
    accept_changed_function: bool
    retry_failures: bool
    ordered: bool
    target: Target
    seed: int | None

    @property
    def opening(self) -> bytes:
        """What a journal says first."""
        about = {"function": self.target.name, "fingerprint": self.target.fingerprint, "seed": self.seed}
        return json.dumps(about).encode()


def open_books(place: Place, terms: Terms) -> _core.Ledger:
    """Open the journal that `place` has, or begin one; the output is not yet touched.

    Raises:
        Problem: Something is there that `terms` do not allow to continue or to overwrite.
    """
    if place.journal is None:
        if terms.resume:
            message = f"could not resume: {place.name} is not a regular file, so it has no journal"
            raise Problem(message, "write to a file with -o FILE")
        return _core.Ledger.unkept(ordered=terms.ordered, keyed=terms.seed is not None)
    try:
        ledger = _resumed(place.journal, terms) if terms.resume else None
        return ledger if ledger is not None else _begun(place, place.journal, terms)
    except _core.JournalError as error:
        raise Problem(*error.args) from None
    except FileExistsError:
        # Of two first runs that began at the same time, the other one.
        raise _journal_found(place, "--resume continues that run, --force begins anew") from None
    except OSError as error:
        raise system_problem("open", place.journal, error) from None


def _begun(place: Place, journal: Path, terms: Terms) -> _core.Ledger:
    if terms.resume and _has_content(place.path):
        raise Problem(
            f"could not resume {place.name}: found no journal `{journal}`",
            "--force without --resume runs all rows and overwrites it; or give the output another name",
        )
    if not terms.force and not terms.resume:
        place.must_be_free()
    return _core.Ledger.create(journal, terms.opening, ordered=terms.ordered, overwrite=terms.force)


def _resumed(journal: Path, terms: Terms) -> _core.Ledger | None:
    """The books of the earlier run, or None if there was none."""
    try:
        ledger = _core.Ledger.resume(journal, ordered=terms.ordered, retry_failures=terms.retry_failures)
    except FileNotFoundError:
        return None
    if ledger.torn_bytes:
        say(f"note: dropped an unfinished record at the end of `{journal}`, as a crash leaves it")
    try:
        _compare(ledger, journal, terms)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _compare(ledger: _core.Ledger, journal: Path, terms: Terms) -> None:
    before = _about(ledger, journal)
    if before.get("seed") != terms.seed:
        found, expected = _seed(terms.seed), _seed(before.get("seed"))
        raise Problem(
            f"could not resume: found {found}, expected {expected} as in `{journal}`",
            "rows with another seed would not fit those that are done; --force runs all rows again",
        )
    if before.get("fingerprint") == terms.target.fingerprint:
        return
    if not terms.accept_changed_function:
        raise Problem(
            f"could not resume: `{terms.target.name}` is not the function `{journal}` was begun with",
            f"--accept-changed-function keeps the {ledger.past_rows:,} rows that are finished and runs the "
            "others with the new one; --force instead of --resume runs all rows again",
        )
    ledger.reopen(terms.opening)


def _seed(seed: Any) -> str:
    return "no seed" if seed is None else f"--seed {seed}"


def _about(ledger: _core.Ledger, journal: Path) -> dict[str, Any]:
    try:
        about = json.loads(ledger.opening or b"")
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise Problem(f"could not resume from `{journal}`: found an opening that does not name a function")
    return about
