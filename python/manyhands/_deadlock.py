"""What there is to say of a deadlock: where its locks were made, and where those who wait for them are."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, TypeGuard

from manyhands.errors import DeadlockError, LockOrderWarning, LockWait

__all__ = [
    "all_asleep",
    "deadlock",
    "deadlock_of_processes",
    "here",
    "look_at_futures",
    "name_here",
    "note",
    "stack",
    "starved",
    "warn_of_order",
]

_Someone: TypeAlias = "int | str | asyncio.Task[Any] | None"
"""A thread's identity, a task, or a name."""


def all_asleep(waiting: list[Any]) -> bool:
    """Return whether all threads of the process are among those, or wait for the end of one that is.

    Args:
        waiting: The identities of threads that wait, as this one, which looks.
    """
    frames = sys._current_frames()
    asleep = {ident for ident in waiting if isinstance(ident, int)} | {threading.get_ident()}
    awake = frames.keys() - asleep
    while joining := {ident for ident in awake if _joined_by(frames[ident]) in asleep}:
        asleep |= joining
        awake -= joining
    # Threads of others, and handlers of signals, might do anything.
    has_others = len(list(Path("/proc/self/task").iterdir())) != len(frames)
    return not (awake or has_others or _handles_signals())


def _joined_by(frame: FrameType) -> int | None:
    """Return whose end a thread waits for without a limit, if that is what it does."""
    if frame.f_code is getattr(getattr(threading.Thread, "_wait_for_tstate_lock", None), "__code__", None):
        frame = frame.f_back or frame
    if frame.f_code is not threading.Thread.join.__code__ or frame.f_locals.get("timeout") is not None:
        return None
    thread = frame.f_locals.get("self")
    return thread.ident if isinstance(thread, threading.Thread) else None


def _handles_signals() -> bool:
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    return any(callable(handler) and handler is not signal.default_int_handler for handler in handlers)


def here() -> str:
    """Return the file and the line of the code that runs."""
    frame = _caller()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"


def stack() -> str:
    """Return the stack of the code that runs."""
    return _formatted(_caller())


def deadlock(
    cycle: list[tuple[_Someone, str, _Someone]],
) -> DeadlockError:
    """Return the error about those who wait for each other.

    Args:
        cycle: Who waits, for what, and who has that, by his name at least, which is empty if nobody is left
            to bring it. The first one is the caller.
    """
    waits = (LockWait(_name(who), what, _name(holder) or None, _stack_of(who)) for who, what, holder in cycle)
    error = DeadlockError(tuple(waits))
    if any("(which has ended)" in (wait.holder or "") for wait in error.cycle):
        error.hint = "take locks by `with`, which lets go of them however the block ends"
    return error


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


def note(lock: str) -> str:
    """Return what the running thread has to say of itself to other processes while it waits for that lock."""
    lines, room = [], _ROOM
    for frame, _ in traceback.walk_stack(_caller()):
        text = "".join(traceback.format_stack(frame, limit=1))
        room -= len(text.encode())
        if room < 0:
            break
        lines.append(text)
    return f"{name_here()} of process {os.getpid()}\n{lock}\n{''.join(reversed(lines))}"


_ROOM = 1500
"""Bytes of a stack in a note."""


def deadlock_of_processes(notes: list[str]) -> DeadlockError:
    """Return the error about those who wait for each other, each of whom left such a `note`."""
    # Another process may have written anything.
    names, locks, stacks = zip(*((*note.split("\n", 2), "", "", "")[:3] for note in notes), strict=True)
    waits = map(LockWait, names, locks, [*names[1:], names[0]], stacks)
    return DeadlockError(tuple(waits))


def warn_of_order(text: str) -> None:
    """Warn of a deadlock that has only not happened yet."""
    warnings.warn(LockOrderWarning(text), stacklevel=2)


def name_here() -> str:
    """Return the name of the running thread."""
    return _name(threading.get_ident())


def _name(who: _Someone) -> str:
    if isinstance(who, str):
        return who
    if isinstance(who, int):
        known = (thread.name for thread in threading.enumerate() if thread.ident == who)
        return f"thread {next(known, who)}"
    if who is None:
        return "somebody"
    return f"task {who.get_name()}" if _is_task(who) else f"greenlet {getattr(who, 'name', who)}"


def _stack_of(who: _Someone) -> str:
    if isinstance(who, int):
        return _formatted(_outside(sys._current_frames().get(who)))
    if who is None or isinstance(who, str):
        return ""
    if not _is_task(who):
        return _formatted(getattr(who, "gr_frame", None) or _caller())
    if who.get_loop().is_running() and who is _current_task():
        return _formatted(_caller())
    frames = who.get_stack()
    return "".join(line for frame in frames for line in traceback.format_stack(frame, limit=1))


def _is_task(who: Any) -> TypeGuard[asyncio.Task[Any]]:
    return hasattr(who, "get_loop")


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _caller() -> FrameType | None:
    """Return the innermost frame of the running thread that is not of this module."""
    return _outside(sys._getframe(1))


def _outside(innermost: FrameType | None) -> FrameType | None:
    """Return the frame that called this module, if any did: another thread may be about to look at itself."""
    frame, outside = innermost, innermost
    while frame is not None:
        if frame.f_globals.get("__name__") == __name__:
            outside = frame.f_back
        frame = frame.f_back
    return outside


def _formatted(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)) if frame else ""


def look_at_futures(on: bool) -> None:
    """Have the waits for results of the standard library's futures looked at, or not any more."""
    for name, wait in _WAITS.items():
        setattr(Future, name, _looked_at(wait) if on else wait)


_WAITS: dict[str, Callable[..., Any]] = {"result": Future.result, "exception": Future.exception}


def _looked_at(wait: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(wait)
    def looked_at(self: Future[Any], timeout: float | None = None) -> Any:
        if timeout is None and not self.done():
            _refuse_own_loop(self)
        return wait(self, timeout)

    return looked_at


def _refuse_own_loop(future: Future[Any]) -> None:
    """Raise if the running event loop, which the wait would block, is the one to bring the result."""
    loop = asyncio._get_running_loop()
    if loop is None or not _is_brought_by(future, loop):
        return
    me = _name(_current_task() or threading.get_ident())
    error = DeadlockError((LockWait(me, f"the result of {future!r}", me, stack()),))
    error.hint = "await it: `await asyncio.wrap_future(future)`, or wait for it in another thread"
    raise error


def _is_brought_by(future: Future[Any], loop: asyncio.AbstractEventLoop) -> bool:
    # What `run_coroutine_threadsafe` leaves behind: a callback of the loop, and then one of the future.
    ahead = [handle._callback for handle in [*getattr(loop, "_ready", ())]]
    if any(held is future for callback in ahead for held in _held_by(callback)):
        return True
    behind = getattr(future, "_done_callbacks", ())
    sources = (held for callback in behind for held in _held_by(callback))
    return any(asyncio.isfuture(source) and source.get_loop() is loop for source in sources)


def _held_by(callback: Any) -> list[Any]:
    """Return what a function of asyncio has of the place where it was defined."""
    if not str(getattr(callback, "__module__", None)).startswith("asyncio."):
        return []
    cells = getattr(callback, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if cell != types.CellType()]
