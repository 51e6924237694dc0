"""What executors count: the records that `Executor.statistics()` returns."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Statistics", "TimesSummary"]


@dataclass(frozen=True)
class TimesSummary:
    """How a time was distributed over tasks. All but `count` in seconds; percentiles to two digits."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class Statistics:
    """What an executor has done so far.

    Attributes:
        submitted: Tasks taken.
        queued: Tasks in the queue now: ready, delayed, or held back by a limit.
        started: Attempts begun.
        succeeded: Tasks that returned.
        failed: Tasks that raised, after their retries.
        cancelled: Tasks cancelled.
        timed_out: Attempts stopped at their time limit.
        retried: Attempts that were followed by another.
        interrupted: Running functions that were stopped, by a limit or a forced cancellation.
        wait: Times from submission to start.
        run: Times of single attempts.
    """

    submitted: int
    queued: int
    started: int
    succeeded: int
    failed: int
    cancelled: int
    timed_out: int
    retried: int
    interrupted: int
    wait: TimesSummary
    run: TimesSummary
