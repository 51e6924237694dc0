"""Measures what we and others cost for the same work, in turns, and judges the result against bars.

Every figure is a cost: less is better. A round measures each side once, and every round begins with another
one, so that whatever else the machine does meets all alike; a ratio is taken within a round, and its median
over the rounds.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

OURS = "manyhands"
Measure = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Times:
    """We shall cost at most one part in `factor` of what `peer` costs, or of what each costs."""

    factor: float
    peer: str | None = None

    def __str__(self) -> str:
        return f"≥ {self.factor:g}x" + (f" {self.peer}" if self.peer else "")

    def is_reached(self, ours: float, ratios: Mapping[str, Figures]) -> bool:
        against = [ratio.median for name, ratio in ratios.items() if self.peer in (None, name)]
        return bool(against) and min(against) >= self.factor


@dataclass(frozen=True)
class AtMost:
    """We shall cost at most this, whatever others cost."""

    limit: float
    text: str

    def __str__(self) -> str:
        return self.text

    def is_reached(self, ours: float, ratios: Mapping[str, Figures]) -> bool:
        return ours <= self.limit


Bar = Times | AtMost


@dataclass(frozen=True)
class Metric:
    """One cost of a subject: its key in what a measurement returns, its unit, and the bars, if any."""

    key: str
    label: str
    unit: str
    bars: Sequence[Bar] = ()


@dataclass(frozen=True)
class Subject:
    """Something that we and others can do, and how it is measured.

    Attributes:
        name: For the command line and for JSON.
        title: For readers.
        how: What exactly is measured, in a sentence or two.
        size: How many tasks, items or trips one measurement takes.
        ours: Measures us.
        metrics: What is measured.
        peers: Measure the others, by name; none where nobody has anything like it.
        section: Under which heading of the page it belongs.
        own_process: Whether each measurement needs a fresh interpreter.
        long_size: The size with ``--long``.
        rounds: The most rounds that make sense.
    """

    name: str
    title: str
    how: str
    size: int
    ours: Measure
    metrics: Sequence[Metric]
    peers: Mapping[str, Measure] = field(default_factory=dict)
    section: str = "threads"
    own_process: bool = False
    long_size: int | None = None
    rounds: int = 99

    def measure(self, side: str, size: int) -> dict[str, float]:
        """Measure one side once, in this process."""
        measure = self.ours if side == OURS else self.peers[side]
        gc.collect()
        return measure(size)


@dataclass(frozen=True)
class Figures:
    """What one metric cost over the rounds."""

    median: float
    least: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figures:
        if len(values) == 1:
            return cls(values[0], values[0], (values[0], values[0]))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, min(values), (low, high))


@dataclass(frozen=True)
class Row:
    """One metric of one subject, measured and judged.

    Attributes:
        peers: What each peer cost, by name.
        ratios: How many times as much that is, for peers and costs where there is an answer.
        bars: The text of each bar, and whether it was reached.
    """

    subject: str
    section: str
    title: str
    metric: str
    unit: str
    size: int
    rounds: int
    ours: Figures
    peers: Mapping[str, Figures]
    ratios: Mapping[str, Figures]
    bars: Mapping[str, bool]


@dataclass
class Plan:
    """How thoroughly to measure: rounds, part of each subject's size, whether the long ones run whole."""

    rounds: int = 7
    scale: float = 1.0
    long: bool = False
    narrate: Callable[[str], None] = field(default=lambda _: None)

    def size(self, subject: Subject) -> int:
        whole = subject.long_size if self.long and subject.long_size else subject.size
        return max(1, round(whole * self.scale))


def run(subject: Subject, plan: Plan) -> list[Row]:
    """Measure a subject, and judge its metrics."""
    sides = [*subject.peers, OURS]
    size, rounds = plan.size(subject), min(plan.rounds, subject.rounds)
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        plan.narrate(f"{subject.name}: round {number + 1} of {rounds}")
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            measured[side].append(_measure(subject, side, size))
    return [_judge(subject, metric, size, measured) for metric in subject.metrics]


def _measure(subject: Subject, side: str, size: int) -> dict[str, float]:
    if not subject.own_process:
        return subject.measure(side, size)
    command = [sys.executable, "-m", "bench.versus", "--measure", subject.name, side, str(size)]
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    figures: dict[str, float] = json.loads(completed.stdout)
    return figures


def _judge(subject: Subject, metric: Metric, size: int, measured: dict[str, list[dict[str, float]]]) -> Row:
    costs = {side: [figures[metric.key] for figures in rounds] for side, rounds in measured.items()}
    own = costs.pop(OURS)
    ours = Figures.of(own)
    ratios = {name: _ratio(theirs, own) for name, theirs in costs.items() if all(own)}
    return Row(
        subject=subject.name,
        section=subject.section,
        title=subject.title,
        metric=metric.label,
        unit=metric.unit,
        size=size,
        rounds=len(own),
        ours=ours,
        peers={name: Figures.of(theirs) for name, theirs in costs.items()},
        ratios=ratios,
        bars={str(bar): bar.is_reached(ours.median, ratios) for bar in metric.bars},
    )


def _ratio(theirs: Sequence[float], own: Sequence[float]) -> Figures:
    return Figures.of([cost / unit for cost, unit in zip(theirs, own, strict=True)])
