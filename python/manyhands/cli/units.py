"""Values of options that carry a unit or stand for a place: `10s`, `100/s`, `5%`, `process`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import click

from manyhands.executors.by_name import _CONNECTORS, MODELS

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


def duration(text: str) -> float:
    """Seconds from `10`, `10s`, `500ms`, `2m`, `1.5h`.

    Raises:
        click.BadParameter: It is no such text, or not above zero.
    """
    found = re.fullmatch(rf"{_NUMBER}\s*(ms|s|min|m|h|d|)", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0.0 < seconds < math.inf:
        raise click.BadParameter(f"found {text!r}, expected a time above zero like 10s, 500ms, 2m or 1h")
    return seconds


def rate(text: str) -> float:
    """Calls per second from `100/s`, `600/m`, `5000/h`, or a plain number.

    Raises:
        click.BadParameter: It is no such text, or not above zero.
    """
    found = re.fullmatch(rf"{_NUMBER}\s*(?:/\s*(s|min|m|h|d))?", text.strip())
    per_second = float(found[1]) / _SECONDS[found[2] or "s"] if found else 0.0
    if not 0.0 < per_second < math.inf:
        raise click.BadParameter(f"found {text!r}, expected a rate above zero like 100/s, 600/m or 5000/h")
    return per_second


def model(text: str) -> str:
    """The name of an executor of this machine, or an address.

    Raises:
        click.BadParameter: It is neither.
    """
    scheme, is_address, _ = text.partition("://")
    if text not in MODELS and not (is_address and scheme.partition("+")[0] in _CONNECTORS):
        found = f"an address of {scheme!r}" if is_address else repr(text)
        expected = ", ".join((*MODELS, *(f"{name}://…" for name in _CONNECTORS)))
        raise click.BadParameter(f"found {found}, expected one of {expected}")
    return text


@dataclass(frozen=True)
class FailureBudget:
    """How many rows may fail before a run is given up.

    Attributes:
        text: As the user wrote it.
        count: This many rows, or None.
        share: This part of the rows that are finished, if `count` is None.
    """

    text: str
    count: int | None
    share: float = 0.0

    # A share says nothing about the first few rows.
    SHARE_COUNTS_FROM = 100

    def is_exceeded(self, failed: int, finished: int) -> bool:
        """Whether `failed` of `finished` rows are too many."""
        if self.count is not None:
            return failed > self.count
        return finished >= self.SHARE_COUNTS_FROM and failed > self.share * finished


def failure_budget(text: str) -> FailureBudget:
    """A budget from `20` or `5%`.

    Raises:
        click.BadParameter: It is no such text.
    """
    share = re.fullmatch(rf"{_NUMBER}\s*%", text.strip())
    if share and float(share[1]) <= 100:
        return FailureBudget(text, None, float(share[1]) / 100)
    if not re.fullmatch(r"\d+", text.strip()):
        raise click.BadParameter(f"found {text!r}, expected a number of rows like 20 or a share like 5%")
    return FailureBudget(text, int(text))
