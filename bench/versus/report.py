"""Results for the terminal, for machines, and as a page of the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runner import Figures, Row, Subject

INTRODUCTION = Path(__file__).parent / "processes.md"

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


def name(row: Row) -> str:
    """What was measured."""
    return f"{row.title}, {row.metric}" if row.metric else row.title


def bars(row: Row) -> str:
    """What was asked for."""
    return ", ".join(row.bars)


def verdict(row: Row) -> str:
    """Whether the bars were reached."""
    return "" if not row.bars else "reached" if all(row.bars.values()) else "missed"


HEADINGS = ("", "peer", "its cost", "manyhands", "ratio (quartiles)", "bar", "")


def lines(row: Row) -> list[tuple[str, ...]]:
    """One row of results as lines of a table, one for each peer."""
    ours = quantity(row.ours.median, row.unit)
    if not row.peers:
        return [(name(row), "", "", ours, "", bars(row), verdict(row))]
    against = [
        (peer, quantity(cost.median, row.unit), ours, ratio(row.ratios.get(peer)))
        for peer, cost in row.peers.items()
    ]
    first, *others = against
    return [(name(row), *first, bars(row), verdict(row)), *(("", *other, "", "") for other in others)]


def table(rows: Sequence[Row]) -> str:
    """The results as aligned columns."""
    shown = [HEADINGS, *(line for row in rows for line in lines(row))]
    widths = [max(len(line[column]) for line in shown) for column in range(len(HEADINGS))]
    aligned = (
        "  ".join(
            cell.ljust(width) if column in (0, 1, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in shown
    )
    return "\n".join(line.rstrip() for line in aligned)


def summary(rows: Sequence[Row]) -> str:
    """How many bars were reached, and which were not."""
    judged = [(f"{name(row)} ({bar})", reached) for row in rows for bar, reached in row.bars.items()]
    missed = [bar for bar, reached in judged if not reached]
    text = f"{len(judged) - len(missed)} of {len(judged)} bars reached"
    return text if not missed else f"{text}; missed: {'; '.join(missed)}"


def as_json(rows: Sequence[Row], facts: dict[str, str]) -> dict[str, Any]:
    """The results as plain data."""
    return {"facts": facts, "rows": [dataclasses.asdict(row) for row in rows]}


def from_json(data: dict[str, Any]) -> tuple[list[Row], dict[str, str]]:
    """Results that were kept by `as_json`."""
    rows = []
    for kept in data["rows"]:
        several = {
            key: {peer: figures(one) for peer, one in kept[key].items()} for key in ("peers", "ratios")
        }
        rows.append(Row(**{**kept, **several, "ours": figures(kept["ours"])}))
    return rows, data["facts"]


def figures(kept: dict[str, Any]) -> Figures:
    """Figures that were kept as plain data."""
    return Figures(kept["median"], kept["least"], tuple(kept["quartiles"]))


PAGE = """\
# Benchmarks

How long the same work takes with manyhands and with others, in turns on one machine. {summary}.

Every figure is a cost: less is better. A ratio says how many times as much the peer costs: above 1 we are
faster or smaller. `make bench` writes this page; the rows that we lose stay in it.

## Threads and event loops

Against the standard library of the same Python, unless another peer is named below.

{threads}

## Processes

{introduction}

{processes}

## Locks and queues within a process

{sync}

## State that processes share

{shared}

## Task queue

Against Celery and huey, over the same server on the same machine.

{queue}

## Conditions

{facts}

All sides of a row are measured in turns, in one run, and the order changes with every round. A figure is
the median over the rounds, a ratio the median of the rounds' own ratios, with its quartiles. Nothing is
pinned, and the collector of cycles stays on: this is what a program gets. Read ratios rather than times:
where the load is near the number of processors or above it, other programs made the times longer, on all
sides.

## What is measured

{method}

## Reproduce

```
make bench                                     # all of it, and writes this page
make bench ARGS="--only submit,map --rounds 15"  # a part of it, writes nothing
.venv-peers/bin/python -m bench.versus --help
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
        threads=_one_peer([row for row in rows if row.section == "threads"]),
        introduction=INTRODUCTION.read_text().strip(),
        processes=_many_peers([row for row in rows if row.section == "processes"]),
        sync=_one_peer([row for row in rows if row.section == "sync"]),
        shared=_one_peer([row for row in rows if row.section == "shared"]),
        queue=_many_peers([row for row in rows if row.section == "queue"]),
        facts="\n".join(f"- {fact}: {value}" for fact, value in facts.items()),
        method="\n".join(method),
    )


def _extent(row: Row) -> str:
    peer = f"peer: {next(iter(row.peers))}; " if len(row.peers) == 1 else ""
    return f"{peer}{row.rounds} round{'s' * (row.rounds > 1)} of {row.size:,}"


def _one_peer(rows: Sequence[Row]) -> str:
    table = ["| | peer | manyhands | ratio (quartiles) | bar | |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        ((title, _, *values, judged),) = lines(row)
        table.append(_cells(title, *values, _judged(judged)))
    return "\n".join(table)


def _many_peers(rows: Sequence[Row]) -> str:
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers))
    table = [_cells("", "manyhands", *peers, "bar", ""), _cells("---", *["--:"] * (len(peers) + 2), "---")]
    for row in rows:
        beside = (
            f"{quantity(row.peers[peer].median, row.unit)}<br>{ratio(row.ratios.get(peer))}"
            if peer in row.peers
            else ""
            for peer in peers
        )
        ours = f"**{quantity(row.ours.median, row.unit)}**"
        table.append(_cells(name(row), ours, *beside, bars(row), _judged(verdict(row))))
    return "\n".join(table)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _judged(judged: str) -> str:
    return f"**{judged}**" if judged == "missed" else judged
