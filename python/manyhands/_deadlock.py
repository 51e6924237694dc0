"""What there is to say of a deadlock: where its locks were made, and where those who wait for them are."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
import warnings
from concurrent.futures import Future
from types import FrameType
from typing import Any

from manyhands.errors import DeadlockError, LockOrderWarning, LockWait

__all__ = ["deadlock", "here", "stack", "starved", "warn_of_order"]


def here() -> str:
    """Return the file and the line of the code that runs."""
    frame = _caller()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"


def stack() -> str:
    """Return the stack of the code that runs."""
    return _formatted(_caller())


def deadlock(cycle: list[tuple[int | asyncio.Task[Any] | None, str | None]]) -> DeadlockError:
    """Return the error about those who wait for each other.

    Args:
        cycle: Who waits, a thread's identity or a task, and where the lock was made that he waits for and the
            next one has; the last one's, the first. The first one is the caller.
    """
    names = [_name(who) for who, _ in cycle]
    holders = [*names[1:], names[0]]
    return DeadlockError(
        tuple(
            LockWait(name, _made(site), holder, _stack_of(who))
            for name, holder, (who, site) in zip(names, holders, cycle, strict=True)
        )
    )


def starved(waits: list[tuple[int, Future[Any]]]) -> DeadlockError:
    """Return the error about tasks that wait for results of their own executor, and occupy all its workers.

    Args:
        waits: A thread's identity, and what it waits for. One of them is the caller.
    """
    waits.sort(key=lambda wait: wait[0] != threading.get_ident())
    cycle = (LockWait(_name(who), f"the result of {future!r}", None, _stack_of(who)) for who, future in waits)
    error = DeadlockError(tuple(cycle))
    error.hint = (
        "have inner tasks run by an executor of their own, or by more workers than there are outer tasks"
    )
    return error


def warn_of_order(held: str | None, taken: str | None, now: str, before: list[str]) -> None:
    """Warn that two locks are taken in both orders."""
    seen = "".join(f"\nearlier, the other way round:\n{stack}" for stack in before)
    text = (
        f"two locks are taken in both orders, a deadlock to come: {_made(taken)} while {_made(held)} is held"
        f"\nnow:\n{now}{seen}"
    )
    warnings.warn(LockOrderWarning(text), stacklevel=2)


def _made(site: str | None) -> str:
    return f"the lock made at {site}" if site else "a lock made before the detection"


def _name(who: int | asyncio.Task[Any] | None) -> str:
    if isinstance(who, int):
        known = (thread.name for thread in threading.enumerate() if thread.ident == who)
        return f"thread {next(known, who)}"
    return f"task {who.get_name()}" if who is not None else "somebody"


def _stack_of(who: int | asyncio.Task[Any] | None) -> str:
    if isinstance(who, int):
        return _formatted(_caller() if who == threading.get_ident() else sys._current_frames().get(who))
    if who is None:
        return ""
    if who.get_loop().is_running() and who is _current_task():
        return _formatted(_caller())
    frames = who.get_stack()
    return "".join(line for frame in frames for line in traceback.format_stack(frame, limit=1))


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _caller() -> FrameType | None:
    """Return the innermost frame that is not of this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return frame


def _formatted(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)) if frame else ""
