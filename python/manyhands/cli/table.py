"""Results as CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass
class Table:
    """Makes lines of CSV of results, whose columns are those of the first one that succeeded.

    Failed rows get a line of their own if `with_errors`, in a column `error`. Those before the first success
    wait for it, because only then the columns are known.

    Attributes:
        form: `csv` or `tsv`.
        with_errors: Whether failed rows are written.
    """

    form: str
    with_errors: bool
    _columns: list[str] | None = None
    _header: list[str] | None = None

    def __post_init__(self) -> None:
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, delimiter=_DELIMITERS[self.form], lineterminator="\n")
        self._errors: list[str] = []

    def complaint(self, value: Any) -> str | None:
        """Why the result `value` does not fit the first one, or None."""
        columns = _columns(value)
        if self._columns is None or columns == self._columns or set(columns) == set(self._columns):
            return None
        missing = [f"no column `{column}`" for column in self._columns if column not in columns]
        extra = [f"column `{column}`" for column in columns if column not in self._columns]
        expected = ", ".join(self._columns)
        return f"found {' and '.join(missing + extra)}, expected {expected} as in the first result"

    def add(self, value: Any) -> None:
        """Write the result `value`, about which there is no complaint."""
        if self._columns is None:
            self._begin(_columns(value))
        assert self._columns is not None
        assert self._header is not None
        cells = value if isinstance(value, dict) else {"value": value}
        row = [_cell(cells[column]) for column in self._columns]
        self._writer.writerow(row + [""] * (len(self._header) - len(row)))

    def add_error(self, error: dict[str, Any]) -> None:
        """Write the failure `error` of a row."""
        text = f"{error['type']}: {error['message']}"
        if self._header is None:
            self._errors.append(text)
        else:
            self._writer.writerow([text if column == "error" else "" for column in self._header])

    def _begin(self, columns: list[str]) -> None:
        self._columns = columns
        self._header = [*columns, "error"] if self.with_errors and "error" not in columns else columns
        if self._header:
            self._writer.writerow(self._header)
        for text in self._errors:
            self._writer.writerow([text if column == "error" else "" for column in self._header])
        self._errors = []

    def end(self) -> None:
        """Write what still waits for a first success that never came."""
        if self._header is None and self._errors:
            self._begin([])

    def taken(self) -> bytes:
        """The lines since the last call."""
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        # Half a character has no UTF-8; it is rather shown as what it is than losing the row.
        return text.encode(errors="backslashreplace")


def _columns(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else ["value"]


def _cell(value: Any) -> Any:
    """Text as it is, everything else as JSON has it, nothing for None."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
