"""Outcomes: every item arrives, whatever became of it, with what it cost; one bad item ends nothing.

python examples/outcomes.py
"""

from __future__ import annotations

import time

import manyhands as mh

TABLE = ["12", "7", "", "3000", "3x", "21"]


def parse(cell: str) -> int:
    """Read a number; long ones take longer."""
    time.sleep(0.05 * len(cell))
    return int(cell)


def main() -> None:
    """Show each outcome, then the summary."""
    outcomes = mh.map(parse, TABLE, workers=3, on_error="return")
    for outcome in outcomes:
        if outcome.ok:
            print(f"row {outcome.index}: {outcome.value}")
        else:
            print(f"row {outcome.index}: {outcome.input!r} failed: {type(outcome.exception).__name__}")

    summary = outcomes.summary()
    print(f"{summary.succeeded} of {summary.total} rows, failures by kind: {summary.failures}")
    print("the costliest row read", repr(summary.costliest[0].input))
    print("or only what succeeded:", list(mh.map(parse, TABLE, on_error="skip")))


if __name__ == "__main__":
    main()
