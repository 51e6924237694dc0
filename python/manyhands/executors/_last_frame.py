"""Where a task was when it was ended: the last Python frame of a worker process, a thread or a coroutine.

A worker that crashes, or is ended at a time limit, has ``faulthandler`` write its frames into memory that it
shares with the parent; that works wherever it hangs, in C code, too. Nothing is written until then. Threads
and coroutines are looked at from outside, before they are stopped.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

__all__ = ["of_coroutine", "of_thread", "of_worker"]

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_STANDARD = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120
_ASYNCIO = f"{_STANDARD}asyncio{os.sep}"
_LOOPS = {
    (f"{_OURS}executors{os.sep}_worker.py", "_serve"),
    (f"{_OURS}executors{os.sep}_coroutines.py", "serve"),
    (f"{_OURS}executors{os.sep}base.py", "live"),
    (f"{_ASYNCIO}events.py", "_run"),
    (f"{_STANDARD}threading.py", "run"),
}
"""What calls tasks."""
_CRASH = "Fatal Python error: "
_HEADING = "(most recent call first):\n"
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)\n')
_MOST_AWAITS = 1000
"""Generators that wait for each other in a circle must not keep us."""


def of_worker(written: bytes) -> str | None:
    """Return what a worker wrote, as "file:line, in function"; None if it was in no task's frame."""
    text = written.decode("utf-8", "replace")
    if text.startswith(_CRASH) and faulthandler.is_enabled():
        sys.stderr.write(text)
    _, _, trace = text.rpartition(_HEADING)
    frames = [_Frame(filename, line, function) for filename, line, function in _FRAME.findall(trace)]
    return None if _is_idle_loop(frames) else _innermost(frames)


def of_thread(ident: int) -> str | None:
    """Return where a thread of this process is; None if it is in no task's frame."""
    return _innermost(_outwards(sys._current_frames().get(ident)))


def of_coroutine(coroutine: object) -> str | None:
    """Return where a coroutine waits, or is; None if it is in no task's frame."""
    frames: list[_Frame] = []
    for _ in range(_MOST_AWAITS):
        if coroutine is None:
            break
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frames += itertools.islice(_outwards(frame), 1)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return _innermost(frame for frame in reversed(frames) if not frame.filename.startswith(_ASYNCIO))


class _Frame(NamedTuple):
    filename: str
    line: int | str
    function: str


def _outwards(frame: FrameType | None) -> Iterator[_Frame]:
    while frame is not None:
        yield _Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back


def _innermost(frames: Iterable[_Frame]) -> str | None:
    """The first of the frames, from the inside out, that is neither ours nor outside the task."""
    # A task without frames of its own is a function in C.
    within = itertools.takewhile(lambda frame: (frame.filename, frame.function) not in _LOOPS, frames)
    for filename, line, function in within:
        if not filename.startswith(_OURS):
            return f"{filename}:{line}, in {function}"
    return None


def _is_idle_loop(frames: list[_Frame]) -> bool:
    """Whether it is a loop of ours that runs no coroutine at that moment."""
    places = {(frame.filename, frame.function) for frame in frames}
    is_loop = (f"{_OURS}executors{os.sep}_coroutines.py", "serve") in places
    return is_loop and (f"{_ASYNCIO}events.py", "_run") not in places
