"""What a map says of itself once it is over, or so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Cost", "MapSummary"]


@dataclass(frozen=True)
class Cost:
    """An item that cost much: its position, the item itself, and the seconds it ran, over all attempts."""

    index: int
    input: Any
    seconds: float


@dataclass(frozen=True)
class MapSummary:
    """What a map has done.

    Attributes:
        total: Items handed out, skipped ones included.
        succeeded: Items whose function returned.
        failed: Items whose function raised, after their retries.
        retried: Attempts beyond the first ones.
        failures: How many items failed, by the name of the exception.
        costliest: The ten items that ran longest, the longest first.
        seconds: From the first look at the input to the end, or to now.

    Example:
        >>> import manyhands as mh
        >>> values = mh.map(int, ["1", "x", "3"], on_error="skip")
        >>> list(values)
        [1, 3]
        >>> values.summary().failures
        {'ValueError': 1}
    """

    total: int
    succeeded: int
    failed: int
    retried: int
    failures: dict[str, int]
    costliest: list[Cost]
    seconds: float
