"""The tasks that are run: they do nothing, so that what is measured is the way there and back."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any


def nothing(*args: Any) -> None:
    """Return at once."""


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """The seconds that a ``with`` block took."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:  # noqa: PYI034
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = time.perf_counter() - self._began
