"""Finds what blocks event loops: a thread looks at their threads from time to time, and they pay nothing."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from asyncio.events import Handle
from collections import deque
from types import FrameType
from typing import NamedTuple, final

from manyhands.errors import BlockingCallWarning

__all__ = ["BlockingCall", "BlockingDetector", "detect_blocking"]

_KEPT = 1000
_LOOKS = 4
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class BlockingCall(NamedTuple):
    """One callback, or one step of a task, that an event loop had to wait for.

    Attributes:
        file: Where it was when that was noticed: the innermost frame that is no library's.
        line: The line there.
        function: The function there.
        seconds: How long it had run by then.
        task: The name of the task; None for a callback.
        stack: The stack of the loop's thread from the callback on, the innermost line last.

    Example:
        >>> from manyhands.blocking import BlockingCall
        >>> BlockingCall("shop.py", 3, "buy", 0.2, "Task-1", "  File ...").line
        3
    """

    file: str
    line: int
    function: str
    seconds: float
    task: str | None
    stack: str


@final
class BlockingDetector:
    """What `detect_blocking` returns: stops looking at the end of a ``with`` block, or by ``stop``.

    Thread safety: every method may be called from any thread.

    Attributes:
        found: A `BlockingCall` for each callback that took too long; the last 1000.

    Example:
        >>> import manyhands as mh
        >>> detector = mh.detect_blocking(threshold=0.5)
        >>> detector.stop()
        >>> len(detector.found)
        0
    """

    def __init__(self, threshold: float) -> None:
        if not threshold > 0:
            raise ValueError(f"could not use `threshold`: found {threshold!r}, expected seconds above 0")
        self.threshold = threshold
        self.found: deque[BlockingCall] = deque(maxlen=_KEPT)
        self._running: dict[int, _Running] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manyhands-blocking", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> BlockingDetector:
        """Return itself; it looks already."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Look no more."""
        self.stop()

    def _watch(self) -> None:
        while not self._stopped.wait(self.threshold / _LOOKS):
            self._look()

    def _look(self) -> None:
        now, before = time.monotonic(), self._running
        self._running = {}
        for ident, innermost in sys._current_frames().items():
            callback = _callback(innermost)
            if callback is None:
                continue
            running = before.get(ident)
            if running is None or running.callback is not callback:
                running = _Running(callback, now)
            elif not running.is_told and now - running.since >= self.threshold:
                running.is_told = True
                self._tell(running, innermost, now)
            self._running[ident] = running

    def _tell(self, running: _Running, innermost: FrameType, now: float) -> None:
        guilty = _guilty(innermost, running.callback)
        file, line, name = guilty.f_code.co_filename, guilty.f_lineno, guilty.f_code.co_name
        task, stack = _task(running.callback), _stack(innermost, running.callback)
        self.found.append(BlockingCall(file, line, name, now - running.since, task, stack))
        whom = f"task {task}" if task else "a callback"
        text = f"an event loop was blocked for over {self.threshold:g} s by {whom}, at:\n{stack.rstrip()}"
        registry = guilty.f_globals.setdefault("__warningregistry__", {})
        module = guilty.f_globals.get("__name__")
        try:
            warnings.warn_explicit(BlockingCallWarning(text), None, file, line, module, registry)
        except BlockingCallWarning as error:
            # Warnings are errors; this thread has nobody to raise one to, and goes on.
            thread = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))


class _Running:
    """A callback that a loop runs; its frame is kept, so that no other one is taken for it."""

    __slots__ = ("callback", "is_told", "since")

    def __init__(self, callback: FrameType, since: float) -> None:
        self.callback, self.since, self.is_told = callback, since, False


def _callback(frame: FrameType | None) -> FrameType | None:
    """Return the frame of asyncio that runs a callback; None in a thread without, or whose loop idles."""
    while frame is not None and frame.f_code is not Handle._run.__code__:
        frame = frame.f_back
    return frame


def _within(frame: FrameType | None, callback: FrameType) -> list[FrameType]:
    """Return the frames of the callback, the innermost first."""
    frames = []
    while frame is not None and frame is not callback:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _guilty(innermost: FrameType, callback: FrameType) -> FrameType:
    own = (f for f in _within(innermost, callback) if not f.f_code.co_filename.startswith(_LIBRARIES))
    return next(own, innermost)


def _stack(innermost: FrameType, callback: FrameType) -> str:
    frames = reversed(_within(innermost, callback))
    return "".join(line for frame in frames for line in traceback.format_stack(frame, limit=1))


def _task(callback: FrameType) -> str | None:
    step = getattr(callback.f_locals.get("self"), "_callback", None)
    task = getattr(step, "__self__", None)
    return task.get_name() if isinstance(task, asyncio.Task) else None


def detect_blocking(threshold: float = 0.1) -> BlockingDetector:
    """Warn of whatever keeps an event loop from running its other tasks, with the line where it is.

    A thread looks at the stacks of all threads four times per `threshold`. Where asyncio has run the same
    callback, or the same step of a task, for longer than that, it gives a `BlockingCallWarning`, once for
    each such callback: the warning's own file and line are the innermost ones that belong to no library. The
    loops themselves run as always: they are not patched, and their debug mode is not needed. A loop that
    waits for something to happen is never warned of, however long.

    It looks at all loops of the process whose callbacks asyncio runs: its own, those of `AsyncExecutor`, any
    that derives from ``asyncio.BaseEventLoop``. Not at uvloop's, which runs them itself. What blocks for
    less than `threshold` may pass unseen, and a native call that keeps the interpreter to itself is noticed
    at its end.

    Args:
        threshold: How long a callback may take, in seconds (float > 0).

    Returns:
        A detector that looks from now on, until its ``stop()`` or the end of its ``with`` block. Its
        ``found`` lists what was found.

    Raises:
        ValueError: `threshold` is not above 0.

    Example:
        >>> import asyncio, time, warnings, manyhands as mh
        >>> async def careless():
        ...     time.sleep(0.2)  # should be: await asyncio.sleep(0.2)
        >>> with warnings.catch_warnings(), mh.detect_blocking(0.02) as detector:
        ...     warnings.simplefilter("ignore", mh.BlockingCallWarning)
        ...     asyncio.run(careless())
        >>> [call.function for call in detector.found]
        ['careless']
    """
    return BlockingDetector(threshold)
