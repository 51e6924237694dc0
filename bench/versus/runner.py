"""Measures what two sides cost for the same work, in turns, and judges the result against a bar.

Every figure is a cost: less is better. A round measures the peer and us, the next one us and the peer, so
that whatever else the machine does meets both alike; the ratio is taken within a round, and its median over
the rounds.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Measure = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Times:
    """We shall cost at most one part in `factor` of what the peer costs."""

    factor: float

    def __str__(self) -> str:
        return f"≥ {self.factor:g}x"

    def is_reached(self, ours: float, ratio: float | None) -> bool:
        return ratio is not None and ratio >= self.factor


@dataclass(frozen=True)
class AtMost:
    """We shall cost at most this, whatever the peer costs."""

    limit: float
    text: str

    def __str__(self) -> str:
        return self.text

    def is_reached(self, ours: float, ratio: float | None) -> bool:
        return ours <= self.limit


Bar = Times | AtMost


@dataclass(frozen=True)
class Metric:
    """One cost of a subject: its key in what a measurement returns, its unit, and the bar, if any."""

    key: str
    label: str
    unit: str
    bar: Bar | None = None


@dataclass(frozen=True)
class Subject:
    """Something both sides can do, and how it is measured.

    Attributes:
        name: For the command line and for JSON.
        title: For readers.
        how: What exactly is measured, in a sentence or two.
        size: How many tasks, items or trips one measurement takes.
        peer: Measures the peer; None where it has nothing like it.
        ours: Measures us.
        metrics: What is measured.
        peer_name: Whom we are compared with.
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
    peer: Measure | None = None
    peer_name: str = "ThreadPoolExecutor"
    own_process: bool = False
    long_size: int | None = None
    rounds: int = 99

    def measure(self, side: str, size: int) -> dict[str, float]:
        """Measure one side once, in this process."""
        measure = self.ours if side == "ours" else self.peer
        assert measure is not None
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
    """One metric of one subject, measured and judged."""

    subject: str
    title: str
    metric: str
    unit: str
    size: int
    rounds: int
    peer_name: str
    ours: Figures
    peer: Figures | None
    ratio: Figures | None
    bar: str | None
    reached: bool | None


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
    sides = ["peer", "ours"] if subject.peer else ["ours"]
    size, rounds = plan.size(subject), min(plan.rounds, subject.rounds)
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        plan.narrate(f"{subject.name}: round {number + 1} of {rounds}")
        for side in sides if number % 2 == 0 else reversed(sides):
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
    ours = Figures.of(costs["ours"])
    ratio = _ratio(costs["peer"], costs["ours"]) if "peer" in costs else None
    bar = metric.bar
    return Row(
        subject=subject.name,
        title=subject.title,
        metric=metric.label,
        unit=metric.unit,
        size=size,
        rounds=len(costs["ours"]),
        peer_name=subject.peer_name,
        ours=ours,
        peer=Figures.of(costs["peer"]) if "peer" in costs else None,
        ratio=ratio,
        bar=None if bar is None else str(bar),
        reached=None if bar is None else bar.is_reached(ours.median, ratio.median if ratio else None),
    )


def _ratio(peer: Sequence[float], ours: Sequence[float]) -> Figures | None:
    """How many times as much the peer costs; None where a cost is zero."""
    if not all(ours):
        return None
    return Figures.of([theirs / own for theirs, own in zip(peer, ours, strict=True)])
