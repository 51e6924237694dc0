"""Every exception and warning of manyhands, rooted in the standard library's own.

Old ``except`` clauses keep working: a timed-out task is a ``TimeoutError``, a cancelled one raises
``concurrent.futures.CancelledError``. Every error of ours is also a `ManyhandsError`, and pickles with its
fields.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import os
import reprlib
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import datetime

__all__ = [
    "BlockingCallWarning",
    "BrokenInitializer",
    "BrokerError",
    "CallRefused",
    "Cancelled",
    "ChannelClosed",
    "ContentRefused",
    "DeadlockError",
    "ExecutorClosed",
    "Ignore",
    "LockOrderWarning",
    "LockWait",
    "ManyhandsError",
    "MaxRetriesExceeded",
    "Reject",
    "RemoteTraceback",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskFailureWarning",
    "TaskInterrupted",
    "TaskRevoked",
    "TaskTimeout",
    "UnknownTask",
    "UnsendableError",
    "WorkerDied",
    "WrongExecutor",
]

Cancelled = concurrent.futures.CancelledError
"""The task was cancelled. The standard library's own ``concurrent.futures.CancelledError``."""


class ManyhandsError(Exception):
    """The root of every error that manyhands itself raises.

    Attributes:
        hint: What the reader can do about it, or None.
    """

    hint: str | None = None

    def __str__(self) -> str:
        """The message, followed by the hint on a line of its own."""
        message = super().__str__()
        return f"{message}\nhint: {self.hint}" if self.hint else message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and every field."""
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[ManyhandsError], args: tuple[Any, ...], fields: dict[str, Any]) -> ManyhandsError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class _EndedTask(ManyhandsError):
    """What errors say of a task that was ended: which item it worked on, and where it was."""

    index: int | None = None
    item: str | None = None
    frame: str | None = None

    def __str__(self) -> str:
        """The message with all that is known, followed by the hint on a line of its own."""
        known = []
        if self.index is not None:
            known.append(f"item {self.index}" if self.item is None else f"item {self.index}: {self.item}")
        if self.frame is not None:
            # The whole path is in the field.
            known.append(f"last seen in {self.frame.rpartition(os.sep)[2]}")
        known.extend(self._more_known())
        # What was stored as a result may have any arguments.
        message = str(self.args[0]) if self.args else ""
        if known:
            message = f"{message} ({'; '.join(known)})"
        return f"{message}\nhint: {self.hint}" if self.hint else message

    def _more_known(self) -> list[str]:
        return []

    def _name_item(self, index: int, *item: object) -> None:
        # What comes out of a map within a map is about an item of the inner one.
        if self.index is None:
            self.index, self.item = index, _short(*item) if item else None


def _short(item: object) -> str:
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = _LONGEST_ITEM
    text = " ".join(shortened.repr(item).split())
    return text if len(text) <= _LONGEST_ITEM else f"{text[: _LONGEST_ITEM - 1]}…"


_LONGEST_ITEM = 80

if sys.version_info >= (3, 11):
    _Timeout = TimeoutError
else:
    import asyncio

    class _Timeout(TimeoutError, concurrent.futures.TimeoutError, asyncio.TimeoutError):
        """The three timeouts of an old Python, which became one in 3.11."""


class TaskTimeout(_EndedTask, _Timeout):
    """The task ran into its own time limit and was stopped.

    This is the outcome of the *task*. Giving up waiting for one (``future.result(timeout=1)``) raises
    ``concurrent.futures.TimeoutError`` and leaves the task running.

    Attributes:
        task: The name of the function that ran.
        limit: The limit that was passed, in seconds.
        attempts: How often it was tried.
        index: The position of the item of a map that it worked on, from 0; None outside maps.
        item: The item, in at most 80 characters; None outside maps, and where the map has not kept it.
        frame: Where it was, as "file:line, in function"; None if that is not known.
        exitcode: The exit code of the worker process that was ended for it; negative for the signal that did
            that. None if no process was, or it had not ended yet.
        peak_memory: The most memory that this process held, in bytes; None as above.

    Example:
        >>> import time, manyhands as mh
        >>> with mh.ThreadExecutor() as pool:
        ...     try:
        ...         pool.with_policy(timeout=0.05).submit(time.sleep, 0.2).result()
        ...     except TimeoutError as error:
        ...         print(error)
        `sleep` ran longer than its limit of 0.05 s and was stopped
    """

    task: str
    limit: float
    attempts: int
    exitcode: int | None = None
    peak_memory: int | None = None

    def __init__(self, task: str, limit: float, attempts: int = 1) -> None:
        tried = "" if attempts == 1 else f" (attempt {attempts})"
        super().__init__(f"`{task}` ran longer than its limit of {limit:g} s{tried} and was stopped")
        self.task, self.limit, self.attempts = task, limit, attempts

    def _more_known(self) -> list[str]:
        if self.peak_memory is None:
            return []
        return [f"its worker {_ended(self.exitcode)} and had held up to {self.peak_memory / 2**20:.0f} MiB"]


class TaskInterrupted(BaseException):
    """Raised inside a running function, at its next bytecode, when its task was stopped.

    A ``BaseException``, as ``KeyboardInterrupt`` is, so that ``except Exception`` in the function does not
    swallow it. Use ``finally`` to clean up. Nobody outside the function sees it: its future has its outcome
    already.
    """


class ExecutorClosed(ManyhandsError, RuntimeError):
    """The executor takes no more tasks: it was shut down, or the interpreter is about to exit."""


class BrokenInitializer(ManyhandsError, concurrent.futures.thread.BrokenThreadPool):
    """The executor's initializer raised, so its workers cannot run tasks."""


class WorkerDied(_EndedTask, concurrent.futures.BrokenExecutor):
    """The process that ran the task ended: it crashed, was killed, or called ``os._exit``.

    The executor goes on: this task failed, others did not. If the process has written garbage over the memory
    in which it answers, all tasks fail that it may have begun and whose answers are lost, and their messages
    say so: none is run twice, unless its policy repeats it. On a cluster, the cluster's own exception is the
    cause, and what only the machine there knows is None.

    Attributes:
        task: The name of the function that ran.
        pid: The process that ended; None on a cluster.
        exitcode: Its exit code; negative for the signal that ended it; None on a cluster.
        peak_memory: The most memory that it held, in bytes; None on a cluster.
        index: The position of the item of a map that it worked on, from 0; None outside maps.
        item: The item, in at most 80 characters; None outside maps, and where the map has not kept it.
        frame: Where the process was, as "file:line, in function"; None if that is not known, as after
            SIGKILL. Of several coroutines in the process, all are told of the one that ran.
    """

    task: str
    pid: int | None
    exitcode: int | None
    peak_memory: int | None

    def __init__(
        self,
        task: str,
        pid: int | None = None,
        exitcode: int | None = None,
        peak_memory: int | None = None,
        *,
        worker: str | None = None,
    ) -> None:
        what = worker or (f"worker process {pid}" if pid is not None else "the worker")
        peak = "" if peak_memory is None else f"; it had held up to {peak_memory / 2**20:.0f} MiB"
        super().__init__(f"{what} {_ended(exitcode)} while it ran `{task}`{peak}")
        self.task, self.pid, self.exitcode, self.peak_memory = task, pid, exitcode, peak_memory
        if exitcode == -signal.SIGKILL:
            self.hint = "SIGKILL often is the kernel's, for want of memory: see `dmesg`, use fewer workers"
        elif exitcode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE):
            self.hint = "a crash is a native library's: run the function alone with `python -X faulthandler`"

    @classmethod
    def _in_doubt(cls, task: str, pid: int, exitcode: int, peak_memory: int) -> WorkerDied:
        # Its answers lay where its tasks can write.
        error = cls(task, pid, exitcode, peak_memory)
        left = f"worker process {pid} {_ended(exitcode)} and left garbage where its pool looks for answers"
        error.args = (f"{left}: `{task}` may have run to its end, or not have begun",)
        error.hint = "a task of that process has written over memory that is not its own, as native code can"
        return error


def _ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "died"
    return f"was ended {f'with exit code {exitcode}' if exitcode >= 0 else f'by {_signal_name(-exitcode)}'}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class RemoteTraceback(Exception):
    """The cause of an exception that came from a worker process: the traceback there, as text."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        """The text, set off from the caller's own traceback."""
        return f'\n"""\n{self.traceback}"""'


class UnsendableError(ManyhandsError):
    """Stands for an exception of a worker process that could not be pickled.

    Attributes:
        kind: The exception's class, by its full name.
        message: Its text.
        reason: Why it could not be pickled, and where in it.
    """

    def __init__(self, kind: str, message: str, reason: str | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.reason = kind, message, reason
        if reason is not None:
            self.hint = f"this stands for an exception that could not be sent from its process: {reason}"


class WrongExecutor(ManyhandsError, TypeError):
    """The function does not fit the executor: ``async def`` on threads, a plain function on an event loop."""


class TaskFailureWarning(RuntimeWarning):
    """A task failed and nobody ever looked: neither ``result()`` nor ``exception()`` was called."""


class LockWait(NamedTuple):
    """One of those who wait for each other.

    Attributes:
        who: The thread or the task, by its name.
        lock: What it waits for: a lock, by the place where it was made; the result of a task.
        holder: Who has that: the next one, or a task that only he can run. None for a result that no worker
            is left to bring, and for a condition that nobody is left to notify.
        stack: Where it waits.

    Example:
        >>> from manyhands.errors import DeadlockError, LockWait
        >>> me = LockWait("thread A", "the lock made at shop.py:3", "thread A", "  File ...")
        >>> DeadlockError((me,)).cycle[0].lock
        'the lock made at shop.py:3'
    """

    who: str
    lock: str
    holder: str | None
    stack: str


class DeadlockError(ManyhandsError, RuntimeError):
    """Some wait for each other, and would for ever: raised in the one who came last, who does not wait.

    Attributes:
        cycle: A `LockWait` each, beginning with whoever this is raised in.
    """

    hint = "take locks in one order everywhere, or wait with a timeout"
    cycle: tuple[LockWait, ...]

    def __init__(self, cycle: tuple[LockWait, ...]) -> None:
        told = "".join(
            f"\n{wait.who} waits for {wait.lock}, which {_whose(wait.holder)}, at:\n{wait.stack.rstrip()}"
            for wait in cycle
        )
        super().__init__(f"could not wait for {cycle[0].lock}: it would be for ever{told}")
        self.cycle = cycle


def _whose(holder: str | None) -> str:
    return f"{holder} has" if holder else "nobody is left to bring"


class ChannelClosed(ManyhandsError, EOFError):
    """A channel is closed: nothing can be sent any more, or there is nothing left to receive.

    Attributes:
        channel: The `Channel`; None where the error came from another process.
    """

    channel: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message alone, for a channel stays in its process."""
        return (_rebuild, (type(self), self.args, {**self.__dict__, "channel": None}))


class ContentRefused(ManyhandsError, ValueError):
    """A message or a result was not read: its kind is not accepted, it is too large, or it is garbage."""


class BrokerError(ManyhandsError, ConnectionError):
    """A broker or a result store could not be reached, or refused what was asked of it.

    The message names the server, never its password.

    Attributes:
        is_transient: Whether the same may succeed later, without anybody changing anything here.
        confirmed: Of a batch that was to be published, how many tasks the broker has for certain, from the
            first on; None where nothing was published.
    """

    is_transient: bool = False
    confirmed: int | None = None


class CallRefused(ManyhandsError):
    """The workers of a queue do not call a function of that name; their application says which they do."""


class Retry(ManyhandsError):
    """Raised in a task of a queue: it is to be tried again. ``self.retry()`` makes and raises it.

    Attributes:
        exc: Why; None if nothing was raised.
        countdown: After how many seconds; None where `eta` says when.
        eta: When; None where `countdown` says it.
        changes: What is to be otherwise in the next attempt: "args" and "kwargs".
    """

    exc: BaseException | None
    countdown: float | None
    eta: datetime.datetime | None
    changes: dict[str, Any]

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        countdown: float | None = None,
        eta: datetime.datetime | None = None,
        **changes: Any,
    ) -> None:
        when = f"at {eta.isoformat()}" if eta is not None else f"in {countdown or 0:g} s"
        super().__init__(message or f"to be tried again {when}{'' if exc is None else f', for {exc!r}'}")
        self.exc, self.countdown, self.eta, self.changes = exc, countdown, eta, changes


class Reject(ManyhandsError):
    """Raised in a task of a queue: the worker is to refuse the message.

    Attributes:
        reason: Why, for the dead letters.
        requeue: Whether it goes back to its queue, and not to the dead letters.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(f"rejected: {reason}" if reason is not None else "rejected")
        self.reason, self.requeue = reason, requeue


class Ignore(ManyhandsError):
    """Raised in a task of a queue: it is done, and no result of it is stored."""


class SoftTimeLimitExceeded(ManyhandsError):
    """Raised in a task of a queue when its soft time limit is over: it can clean up before the hard one."""

    def __init__(self, *args: object) -> None:
        # Raised from outside, as in a thread, it is made without arguments.
        super().__init__(*(args or ("the task has run for its soft limit",)))


class MaxRetriesExceeded(ManyhandsError):
    """A task of a queue was to be tried again, and has been tried as often as it may."""


class TaskRevoked(ManyhandsError):
    """What `AsyncResult.get` raises for a task that was revoked, terminated, or came too late."""


class UnknownTask(ManyhandsError, LookupError):
    """A task of a queue by that name is not known here."""


class LockOrderWarning(RuntimeWarning):
    """Two locks are taken in both orders: a deadlock that has not happened yet. Told once for each pair."""


class BlockingCallWarning(RuntimeWarning):
    """A callback kept an event loop from running its other tasks for too long; see `detect_blocking`."""
