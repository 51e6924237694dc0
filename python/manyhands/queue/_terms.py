"""What a task may be told, and in what form it keeps that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__: list[str] = []

_TASK_OPTIONS: dict[str, Any] = {
    "bind": False,
    "retries": 3,
    "retry_on": (),
    "backoff": 1.0,
    "retry_delay": 180.0,
    "max_backoff": 600.0,
    "jitter": True,
    "timeout": None,
    "soft_timeout": None,
    "rate": None,
    "queue": None,
    "priority": None,
    "on": None,
    "ignore_result": False,
    "track_started": False,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "serializer": None,
    "compression": None,
}
"""What a task may be told, and what it is unless it or its queue is told otherwise."""

_ON = ("process", "thread", "async")


def _checked(options: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The options of a task, in the form that it keeps them."""
    unknown = sorted(set(options) - set(_TASK_OPTIONS))
    if unknown:
        raise TypeError(
            f"could not set up {whose}: found {_listed(unknown)}, expected {_listed(_TASK_OPTIONS)}"
        )
    terms = dict(options)
    if "retries" in terms and "retry_on" not in terms and terms["retries"] != 0:
        terms["retry_on"] = (Exception,)
    if isinstance(terms.get("retry_on"), type):
        terms["retry_on"] = (terms["retry_on"],)
    elif "retry_on" in terms:
        terms["retry_on"] = tuple(terms["retry_on"])
    if isinstance(terms.get("backoff"), str):
        if terms["backoff"] != "exponential":
            raise ValueError(
                f'could not use `backoff`: found {terms["backoff"]!r}, expected "exponential" or seconds'
            )
        terms["backoff"] = _TASK_OPTIONS["backoff"]
    if terms.get("on") not in (None, *_ON):
        raise ValueError(f"could not use `on`: found {terms['on']!r}, expected {_listed(_ON)}")
    return terms


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
