"""What a run tells its user: tracebacks that begin in their code, and the summary at the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import traceback

_OUR_FOLDER = str(Path(__file__).resolve().parent.parent)


def message(error: BaseException) -> str:
    """The text of `error`, even if it cannot say it itself."""
    from traceback import TracebackException  # only runs with failures wait for it

    return str(TracebackException(type(error), error, None))


def user_traceback(error: BaseException) -> str:
    """The traceback of `error` without the frames of manyhands and of the import machinery."""
    from traceback import StackSummary, TracebackException

    report = TracebackException.from_exception(error)
    seen: set[int] = set()
    queue: list[TracebackException | None] = [report]
    while queue:
        part = queue.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.stack = StackSummary.from_list([frame for frame in part.stack if _is_users(frame)])
        queue += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return "".join(report.format())


def _is_users(frame: traceback.FrameSummary) -> bool:
    name = frame.filename
    # Some of what is installed with Python stands between the caller and the user's lines on every import.
    machinery = name.startswith("<frozen ") or name.endswith("importlib/__init__.py")
    return not machinery and not name.startswith(_OUR_FOLDER)


@dataclass
class Summary:
    """What a run did, in numbers.

    Attributes:
        status: `complete` (every row has succeeded), `failures` (every row is finished, some have failed),
            `stopped` (by a failure, or by a problem with the input) or `interrupted`.
        rows: Rows of the input that were looked at.
        succeeded: Rows that this run finished.
        failed: Rows that have failed for good, in this run or an earlier one.
        resumed: Rows that an earlier run had finished.
        failures: How many failed with which kind of error.
        retries: Further attempts, over all rows.
        seconds: Wall time.
        rows_per_second: Finished by this run.
        output: Where the results are, `-` for the standard output.
        journal: Where the run is recorded, if it is.
        exit_code: Of the command.
    """

    output: str
    journal: str | None
    status: str = "complete"
    rows: int = 0
    succeeded: int = 0
    failed: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    exit_code: int = 0

    def close(self, status: str, exit_code: int, seconds: float, failed_now: int) -> None:
        """Fill in how it ended."""
        self.status, self.exit_code, self.seconds = status, exit_code, round(seconds, 3)
        finished = self.succeeded + failed_now
        self.rows_per_second = round(finished / seconds, 1) if seconds > 0 else 0.0

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "failures": dict(self.failures.most_common())})

    def as_text(self) -> str:
        """One line for a human reader."""
        parts = [f"{self.succeeded:,} done"]
        if self.resumed:
            parts.append(f"{self.resumed:,} done before")
        if self.failed:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.failures.most_common(4))
            parts.append(f"{self.failed:,} failed ({kinds})")
        if self.retries:
            parts.append(f"{self.retries:,} retried" if self.retries == 1 else f"{self.retries:,} retries")
        where = "" if self.output == "-" else f" → {self.output}"
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.status == "stopped":
            rows += " read"
        return f"{rows}: {', '.join(parts)} in {self.seconds:.1f} s ({self.rows_per_second:,.0f}/s){where}"
