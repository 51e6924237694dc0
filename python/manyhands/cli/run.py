"""A run over rows: every row is claimed, run unless it is done, and settled; nothing done is ever lost.

The order of work for one row is what makes a crash harmless. It is read; claimed in the ledger, which knows
whether an earlier run has finished it; run; and settled: its result goes to the journal first and then, in
its turn, to the output. The output is therefore a function of the input and the journal alone.

Rows run on the workers of `manyhands.map`; everything here happens in the thread that iterates over it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import manyhands as mh
from manyhands import _core
from manyhands.cli.books import Place, Terms, open_books
from manyhands.cli.failures import Failure, open_failures
from manyhands.cli.function import ArgumentsCheck
from manyhands.cli.problem import Problem, system_problem
from manyhands.cli.report import Summary
from manyhands.cli.rows import Row, count_rows, read_rows
from manyhands.cli.units import FailureBudget
from manyhands.randomness import _seed as item_seed

if TYPE_CHECKING:
    from manyhands.cli.table import Table

INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """What a run is to do.

    Attributes:
        terms: The function, and how it goes together with earlier runs.
        input: Path of the rows, `-` for the standard input.
        input_format: Of the rows.
        place: Where results go.
        output_format: Of the results.
        spread: Columns become keyword arguments.
        limit: Of the rows that are looked at.
        on_error: `stop`, `skip` or `record`.
        failures: Path of a file for failed rows.
        max_failures: When to give up.
        map_options: For `manyhands.map`.
    """

    terms: Terms
    input: str
    input_format: str
    place: Place
    output_format: str
    spread: bool = False
    limit: int | None = None
    on_error: str = "stop"
    failures: str | None = None
    max_failures: FailureBudget | None = None
    map_options: dict[str, Any] = field(default_factory=dict)

    def check_input(self) -> None:
        """Refuse an input that cannot be opened, before anything is made for its results.

        Raises:
            Problem: It cannot.
        """
        if self.input != "-":
            path = Path(self.input)
            try:
                # Opening a pipe and closing it again would end it for its writer.
                if not path.exists() or path.is_file() or path.is_dir():
                    path.open("rb").close()
            except OSError as error:
                raise system_problem("read", self.input, error) from None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """The rows of the input that are asked for, checked as far as possible without running them."""
        rows = islice(read_rows(self.input, self.input_format), self.limit)
        return self._checked(rows) if self.spread else rows

    def _checked(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        check = ArgumentsCheck(self.terms.target)
        for line, row in rows:
            complaint = check.complaint(row)
            if complaint is not None:
                what, hint = complaint
                raise Problem(
                    f"could not pass the row on line {line:,} of `{self.input}` with --args: {what}", hint
                )
            yield line, row

    def count_rows(self) -> int | None:
        """About how many rows there are, if that is easily told."""
        count = count_rows(self.input, self.input_format)
        return count if count is None or self.limit is None else min(count, self.limit)


@dataclass(frozen=True)
class _Counted:
    """Rows whose number is known beforehand, so that a progress bar can tell when they are done."""

    rows: Iterator[Row]
    count: int

    def __iter__(self) -> Iterator[Row]:
        return self.rows

    def __len__(self) -> int:
        return self.count


class Stopped(Problem):
    """The run has ended before its input: rows failed, or the system did."""

    exit_code = 1


class Run:
    """One run; `go` does it.

    Attributes:
        summary: Filled as it goes.
        problem: What ended it early, if anything did.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.summary = Summary(
            output="-" if job.place.path is None else str(job.place.path),
            journal=None if job.place.journal is None else str(job.place.journal),
        )
        self.problem: Problem | None = None
        self._table: Table | None = None
        if job.output_format != "jsonl":
            from manyhands.cli.table import Table

            self._table = Table(job.output_format, with_errors=job.on_error == "record")
        self._failures: IO[str] | None = None
        self._failed_now = 0
        self._cut: Exception | None = None

    def go(self) -> Summary:
        """Run the rows, close the books, and say how it went.

        Raises:
            Problem: The run could not begin.
        """
        job = self.job
        job.check_input()
        self._ledger = open_books(job.place, job.terms)
        try:
            self._open_output()
            if job.failures is not None:
                self._failures = open_failures(job.failures)
            began = time.monotonic()
            status, code = self._outcome()
        finally:
            self._close()
        if self.problem is not None and status != "interrupted":
            status, code = "stopped", self.problem.exit_code
        self.summary.close(status, code, time.monotonic() - began, self._failed_now)
        return self.summary

    def _close(self) -> None:
        """Bring what is done to the disk, however the run has ended."""
        if self._failures is not None:
            self._failures.close()
        try:
            self._ledger.close()
        except BrokenPipeError:
            pass
        except (OSError, _core.JournalError) as error:
            self.problem = self.problem or self._lost(error)

    def _lost(self, error: OSError | _core.JournalError) -> Stopped:
        """A journal or an output that can take no more."""
        if isinstance(error, _core.JournalError):
            return Stopped(*error.args)
        message = system_problem("write the results", None, error).message
        return Stopped(message, self._then_resume(None))

    def _open_output(self) -> None:
        job = self.job
        try:
            self._ledger.write_to(
                job.place.path,
                resume=job.terms.resume,
                lines=self._table is None,
                failures=job.on_error == "record",
            )
        except OSError as error:
            raise system_problem("write", job.place.path, error) from None

    def _outcome(self) -> tuple[str, int]:
        try:
            self._map()
            self._finish_table()
        except KeyboardInterrupt:
            return "interrupted", INTERRUPTED
        except BrokenPipeError:
            # Whoever reads our output has seen enough, as in `| head`.
            return "stopped", 0
        except Problem as problem:
            self.problem = problem
        except (OSError, _core.JournalError) as error:
            self.problem = self._lost(error)
        return ("failures", 1) if self.summary.failed else ("complete", 0)

    def _map(self) -> None:
        terms = self.job.terms
        function = terms.target.spread() if self.job.spread else terms.target.function
        # The ledger puts rows in order: so one that is finished is journaled at once, whatever it waits for.
        ordered = terms.ordered and self.job.place.journal is None
        options = self.job.map_options
        settle, failed, table = self._ledger.settle, self._failed, self._table
        try:
            outcomes = mh.map(function, self._source(), ordered=ordered, on_error="return", **options)
        except (ValueError, TypeError, ImportError, ConnectionError) as refused:
            message, _, hint = str(refused).partition("\nhint: ")
            raise Problem(message, hint or None) from refused
        with outcomes:
            for outcome in outcomes:
                error = outcome.exception
                if error is None:
                    try:
                        settle(outcome.index, outcome.value)
                    except (TypeError, ValueError) as refusal:
                        error = refusal
                if error is None:
                    self.summary.succeeded += 1
                else:
                    failed(outcome, error)
                if outcome.attempts > 1:
                    self.summary.retries += outcome.attempts - 1
                if table is not None:
                    self._write_table(table)
        if self._cut is not None:
            raise self._cut

    def _source(self) -> Iterable[Row]:
        count = self.job.count_rows() if self.job.map_options.get("progress") else None
        return (
            self._pending()
            if count is None
            else _Counted(self._pending(), max(0, count - self._ledger.past_rows))
        )

    def _pending(self) -> Iterator[Row]:
        """The rows that are to be run. Trouble ends them: what has been claimed is still finished."""
        claim, summary, table = self._ledger.claim, self.summary, self._table
        seed = None if self.job.terms.seed is None else str(self.job.terms.seed).encode()
        line = number = 0
        try:
            for line, row in self.job.rows():
                summary.rows += 1
                kept = claim(row, line)
                if kept is None:
                    if seed is not None:
                        # The task that runs the row takes a copy of this thread's context along.
                        item_seed.set(self._ledger.item_seed(number, seed))
                        number += 1
                    yield row
                    continue
                if kept:
                    self._failed_before(kept, line)
                else:
                    summary.resumed += 1
                if table is not None:
                    self._write_table(table)
        except Problem as problem:
            problem.hint = self._then_resume(problem.hint)
            self._cut = problem
        except (OSError, _core.JournalError) as trouble:
            self._cut = trouble
        except ValueError as error:
            message = f"could not take the row on line {line:,} of `{self.job.input}`: {error}"
            self._cut = Problem(message, self._then_resume("mend or remove the row"))

    def _failed(self, outcome: mh.Outcome[Any], error: BaseException) -> None:
        line = self._ledger.line(outcome.index)
        failure = Failure.of(error, line, outcome.input, outcome.attempts)
        if self.job.on_error == "stop":
            self._count(failure)
            raise self._stop(failure)
        self._ledger.fail(outcome.index, failure.payload())
        self._count(failure)

    def _failed_before(self, payload: bytes, line: int) -> None:
        failure = Failure.from_payload(payload, line)
        self.summary.failed += 1
        self.summary.failures[failure.error["type"]] += 1
        self._list(failure)

    def _failed_late(self, key: bytes, line: int, complaint: str) -> dict[str, Any]:
        """A result that is done, but does not fit the ones before it."""
        error = TypeError(f"could not write the result as {self.job.output_format.upper()}: {complaint}")
        failure = Failure.of(error, line, None, 1)
        stops = self.job.on_error == "stop"
        self._ledger.revise(key, None if stops else failure.payload())
        self.summary.succeeded -= 1
        self._count(failure)
        if stops:
            raise self._stop(failure)
        return failure.error

    def _count(self, failure: Failure) -> None:
        self.summary.failed += 1
        self.summary.failures[failure.error["type"]] += 1
        self._failed_now += 1
        self._list(failure)
        budget = self.job.max_failures
        finished = self.summary.succeeded + self._failed_now
        if budget is not None and budget.is_exceeded(self._failed_now, finished):
            raise Stopped(
                f"gave up: {self._failed_now:,} of {finished:,} rows failed, more than --max-failures "
                f"{budget.text}; the last, on line {failure.line:,}, with {failure.text}",
                self._resume_hint("", "; --retry-failures runs the failed rows again, too"),
                detail=failure.shown_traceback,
            )

    def _stop(self, failure: Failure) -> Stopped:
        tries = f" in {failure.error['attempts']} attempts" if failure.error["attempts"] > 1 else ""
        row = f"the row on line {failure.line:,} of `{self.job.input}`"
        return Stopped(
            f"stopped: {row} failed{tries} with {failure.text}",
            self._resume_hint("--on-error record or skip goes on after failures", "; {}"),
            detail=failure.shown_traceback,
        )

    def _resume_hint(self, otherwise: str, more: str) -> str | None:
        if self.job.place.journal is None:
            return otherwise or None
        return "what is done is kept: the same command with --resume continues" + more.format(otherwise)

    def _then_resume(self, hint: str | None) -> str | None:
        """`hint`, and what to do after it."""
        if self.job.place.journal is None:
            return hint
        resume = "the same command with --resume continues after what is done"
        return f"{hint}; then {resume}" if hint else resume

    def _list(self, failure: Failure) -> None:
        if self._failures is not None:
            self._failures.write(failure.details())

    def _write_table(self, table: Table) -> None:
        while rows := self._ledger.take():
            try:
                for key, line, has_failed, payload in rows:
                    self._write_row(table, key, line, has_failed, payload)
            finally:
                self._ledger.write(table.taken())

    def _write_row(self, table: Table, key: bytes, line: int, has_failed: bool, payload: bytes) -> None:
        value = json.loads(payload.partition(b"\n")[0])
        error = value["error"] if has_failed else None
        if error is None:
            complaint = table.complaint(value)
            if complaint is None:
                table.add(value)
                return
            error = self._failed_late(key, line, complaint)
        if table.with_errors:
            table.add_error(error)

    def _finish_table(self) -> None:
        if self._table is not None:
            self._write_table(self._table)
            self._table.end()
            self._ledger.write(self._table.taken())


def keep_stdout_for_results() -> None:
    """Send what the user's function prints to the standard error, away from the results."""
    sys.stdout.flush()
    sys.stdout = sys.stderr
