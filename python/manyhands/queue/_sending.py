"""What a call becomes before it is a message: times, texts for logs, bytes."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

__all__: list[str] = []

_LONGEST_REPR = 1024
_SHORT_BODY = 512
"""Arguments that take no more bytes than this are shown whole."""

_reprs = reprlib.Repr()
_reprs.maxlevel = 3
_reprs.maxstring = _reprs.maxother = _reprs.maxlong = 256
_reprs.maxlist = _reprs.maxtuple = _reprs.maxdict = _reprs.maxset = 20


def _shown(value: Any, size: int) -> str:
    """The arguments as text for logs, of bounded length."""
    try:
        return (repr(value) if size <= _SHORT_BODY else _reprs.repr(value))[:_LONGEST_REPR]
    except Exception as failure:  # somebody's __repr__
        return f"<arguments whose repr() raised {type(failure).__name__}>"


_origin = ""


def origin() -> str:
    """Who sends from here, as Celery writes it."""
    global _origin
    if not _origin:
        _origin = f"gen{os.getpid()}@{os.uname().nodename}"
    return _origin


def _forget_origin() -> None:
    global _origin
    _origin = ""


os.register_at_fork(after_in_child=_forget_origin)


def moment(when: datetime | str, zone: tzinfo) -> datetime:
    """A time that a user gave; one without an offset is in the queue's zone."""
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return when.replace(tzinfo=zone) if when.tzinfo is None else when


def not_before(countdown: float | None, eta: datetime | str | None, zone: tzinfo) -> str | None:
    """The header `eta`."""
    if countdown is not None and eta is not None:
        raise TypeError("could not send the task: found countdown and eta, expected one or the other")
    if countdown is not None:
        return _later(countdown, "countdown").isoformat()
    return None if eta is None else moment(eta, zone).isoformat()


def not_after(expires: float | datetime | str | None, zone: tzinfo) -> tuple[str | None, int | None]:
    """The header `expires`, and the milliseconds after which a broker may drop the message."""
    if expires is None:
        return None, None
    if isinstance(expires, int | float):
        return _later(expires, "expires").isoformat(), max(0, int(expires * 1000))
    when = moment(expires, zone)
    left = (when - datetime.now(timezone.utc)).total_seconds()
    return when.isoformat(), max(0, int(left * 1000))


def _later(seconds: float, name: str) -> datetime:
    if not math.isfinite(seconds):
        raise ValueError(f"could not use `{name}`: found {seconds}, expected seconds")
    try:
        return datetime.now(timezone.utc) + timedelta(seconds=seconds)
    except OverflowError:
        raise OverflowError(f"could not use `{name}`: {seconds} s is too long") from None


def headers_text(headers: Mapping[str, Any] | None) -> str | None:
    """The user's headers as the core takes them."""
    return json.dumps(headers) if headers else None
