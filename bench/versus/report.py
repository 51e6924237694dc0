"""Results for the terminal, for machines, and as a page of the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runner import Figures, Row, Subject

NOTES = Path(__file__).parent / "notes.md"

SCALES = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
}


def quantity(value: float, unit: str) -> str:
    """Three digits and the unit that fits."""
    for factor, name in SCALES.get(unit, ()):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}" if value / factor < 1000 else f"{value / factor:.0f} {name}"
    return f"{value:.3g} {unit}".strip()


def ratio(figures: Figures | None) -> str:
    """The median, and between which quartiles the rounds lie."""
    if figures is None:
        return ""
    low, high = figures.quartiles
    return f"{figures.median:.3g}x ({low:.3g}…{high:.3g})"


def verdict(row: Row) -> str:
    """Whether the bar was reached."""
    return "" if row.reached is None else "reached" if row.reached else "missed"


HEADINGS = ("", "peer", "manyhands", "ratio (quartiles)", "bar", "")


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table."""
    name = f"{row.title}, {row.metric}" if row.metric else row.title
    peer = "" if row.peer is None else quantity(row.peer.median, row.unit)
    return (name, peer, quantity(row.ours.median, row.unit), ratio(row.ratio), row.bar or "", verdict(row))


def table(rows: Sequence[Row]) -> str:
    """The results as aligned columns."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    aligned = (
        "  ".join(
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def summary(rows: Sequence[Row]) -> str:
    """How many bars were reached, and which were not."""
    judged = [row for row in rows if row.reached is not None]
    missed = [cells(row)[0] for row in judged if not row.reached]
    text = f"{len(judged) - len(missed)} of {len(judged)} bars reached"
    return text if not missed else f"{text}; missed: {'; '.join(missed)}"


def as_json(rows: Sequence[Row], facts: dict[str, str]) -> dict[str, Any]:
    """The results as plain data."""
    return {"facts": facts, "rows": [dataclasses.asdict(row) for row in rows]}


def from_json(data: dict[str, Any]) -> tuple[list[Row], dict[str, str]]:
    """Results that were kept by `as_json`."""
    rows = []
    for kept in data["rows"]:
        figures = {
            name: kept[name]
            and Figures(kept[name]["median"], kept[name]["least"], tuple(kept[name]["quartiles"]))
            for name in ("ours", "peer", "ratio")
        }
        rows.append(Row(**{**kept, **figures}))
    return rows, data["facts"]


PAGE = """\
# Benchmarks

How long the same work takes with manyhands and with the standard library of the same Python. {summary}.

Every figure is a cost: less is better. The ratio says how many times as much the peer costs: above 1 we are
faster or smaller. `make bench` writes this page; the rows that we lose stay in it.

{table}

## Conditions

{facts}

Peer and manyhands are measured in turns, in one run, and the order changes with every round. A figure is
the median over the rounds, a ratio the median of the rounds' own ratios, with its quartiles. Nothing is
pinned, and the collector of cycles stays on: this is what a program gets. Read ratios rather than times:
where the load is near the number of processors or above it, other programs made the times longer, on both
sides.

## What is measured

{method}

{notes}
## Reproduce

```
make bench                                     # all of it, and writes this page
make bench ARGS="--only submit,map --rounds 15"  # a part of it, writes nothing
.venv/bin/python -m bench.versus --help
```
"""


def page(rows: Sequence[Row], facts: dict[str, str], subjects: Sequence[Subject]) -> str:
    """The page for the documentation."""
    measured = {row.subject: row for row in rows}
    method = [
        f"- **{subject.title}** ({_extent(measured[subject.name])}): {subject.how}"
        for subject in subjects
        if subject.name in measured
    ]
    return PAGE.format(
        summary=summary(rows)[0].upper() + summary(rows)[1:],
        table=_markdown(rows),
        facts="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        method="\n".join(method),
        notes=NOTES.read_text() if NOTES.exists() else "",
    )


def _extent(row: Row) -> str:
    peer = f"peer: {row.peer_name}; " if row.peer else ""
    return f"{peer}{row.rounds} round{'s' * (row.rounds > 1)} of {row.size:,}"


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| | peer | manyhands | ratio (quartiles) | bar | |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        *values, judged = cells(row)
        lines.append("| " + " | ".join([*values, f"**{judged}**" if judged == "missed" else judged]) + " |")
    return "\n".join(lines)
