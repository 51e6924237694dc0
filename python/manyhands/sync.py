"""Locks, queues and their like, each for threads and asyncio tasks alike, in one process.

One object serves everybody: ``with lock:`` in a thread, ``async with lock:`` in a coroutine, from any number
of threads and event loops at the same time. What has a name of the standard library's has its methods and
errors, so that changing the import is enough.

A coroutine must not block its thread, so what waits has a twin to be awaited, with an ``a`` in front:
``acquire`` and ``aacquire``. ``wait`` would become a keyword, so its twin is ``await_``. Time limits are
asyncio's own there: ``async with asyncio.timeout(1): ...``.

Who gives up waiting, by a timeout, Ctrl-C or cancellation, never takes along what was meant for the next.

With `detect_deadlocks`, or ``MANYHANDS_DEADLOCK=1`` in the environment, or ``python -X dev``, those who wait
for each other's locks are told so instead of waiting for ever.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable
from queue import Empty, Full
from threading import BrokenBarrierError, local
from typing import Any, TypeVar, overload

from manyhands import _core
from manyhands._core import (
    AtomicFlag,
    AtomicInt,
    Barrier,
    BoundedSemaphore,
    Channel,
    Condition,
    Event,
    KeyedLock,
    Latch,
    LifoQueue,
    Lock,
    PriorityQueue,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    aselect,
    select,
)
from manyhands._watching import watch, watch_if_wanted
from manyhands.errors import ChannelClosed

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """The queue was shut down: nobody puts any more, and there is nothing left to take."""


__all__ = [
    "AtomicFlag",
    "AtomicInt",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Channel",
    "ChannelClosed",
    "Condition",
    "CountDownEvent",
    "Empty",
    "Event",
    "Full",
    "KeyedLock",
    "Latch",
    "LifoQueue",
    "Local",
    "Lock",
    "Once",
    "PriorityQueue",
    "Queue",
    "RLock",
    "RWLock",
    "RateLimiter",
    "Semaphore",
    "ShutDown",
    "aselect",
    "detect_deadlocks",
    "select",
]


_T = TypeVar("_T")

CountDownEvent = Latch
"""Another name of `Latch`, for those who know it from .NET."""

Local = local
"""An object whose attributes each thread has for itself: the standard library's own ``threading.local``.

It is made in C and finds the attributes of the running thread faster than a class of ours, or a subclass,
could; they go when their thread ends, or the object does. A subclass with an ``__init__`` has it called with
the same arguments in every thread that uses the object, at the first use.

Threads of an executor live on, and run tasks of all sorts: what is set in one is found in a later one. And
the tasks of an event loop share its thread, and so these attributes. What belongs to a task rather than a
thread belongs into a ``contextvars.ContextVar``: each asyncio task has its own, and tasks of our executors
find those of whoever submitted them.

Thread safety: yes.

Example:
    >>> import threading
    >>> from manyhands.sync import Local
    >>> mine = Local()
    >>> mine.name = "main"
    >>> other = threading.Thread(target=lambda: setattr(mine, "name", "other"))
    >>> other.start(); other.join()
    >>> mine.name
    'main'
"""


class Once(_core.Once[_T]):
    """Call a function once, however many threads and asyncio tasks want what it returns.

    The first one that comes calls it, the others wait and get the same value, at once from then on. If it
    raises, whoever called it gets the exception, and the next one calls it again: a failure is not kept. So
    does the next one if a coroutine is cancelled or thrown away while it calls; who gives up waiting leaves
    nothing behind. What is called does not have to be the same function each time: one of them succeeds.

    Thread safety: every method may be called from any thread, and from any event loop.

    Example:
        >>> import threading
        >>> from manyhands.sync import Once
        >>> client, made = Once(), []
        >>> def connect(host):
        ...     made.append(host)
        ...     return f"connection to {host}"
        >>> threads = [threading.Thread(target=client.call, args=(connect, "db")) for _ in range(3)]
        >>> for thread in threads:
        ...     thread.start()
        >>> client.call(connect, "db"), made
        ('connection to db', ['db'])

    Source: ``sync.Once`` of Go, ``Once::call_once`` of Rust, which differ where the function fails.
    """

    __slots__ = ()

    @overload
    async def acall(self, function: Callable[..., Awaitable[_T]], /, *args: Any, **kwargs: Any) -> _T: ...
    @overload
    async def acall(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T: ...
    async def acall(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As `call`, in a coroutine: what the function returns is awaited if that is possible.

        Args:
            function: Usually an ``async def``.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            RuntimeError: The function that is being called waits for its own result here.
        """
        if await self._begin():
            try:
                value = function(*args, **kwargs)
                if inspect.isawaitable(value):
                    value = await value
            except BaseException:
                self._fail()
                raise
            self._finish(value)
        return self._value


def detect_deadlocks(on: bool = True) -> None:
    """Have deadlocks raised where they arise, and those warned of that were only lucky.

    Whoever would wait for ever gets a `DeadlockError` instead, threads and tasks alike, with the stacks of
    all who are stuck with him. That is whoever waits without a timeout for

    - a `Lock`, an `RLock`, or a side of an `RWLock`, whose holder waits for him, directly or through others;
      or has ended with the lock in hand;
    - a `Lock` or an `RLock` of `manyhands.shared`, whose holder does the same, in whatever process: of those
      who wait for each other the last one is told, within a second, if all of them look for deadlocks;
    - the lock of a `Condition`, whose holder waits for a lock that somebody has who waits for the condition;
    - a lock that somebody has who waits for a condition, while all threads of the process sleep, so that
      nobody is left to notify it;
    - a `BoundedSemaphore`, all of whose permits are in ``with`` blocks of threads that wait for him;
    - the result of a task that waits for him, of a task of his own event loop while he blocks that (also by
      ``asyncio.run_coroutine_threadsafe``), or of any task of his own executor on threads, whose workers all
      do the same.

    Whoever takes two locks in an order that contradicts an earlier one, of whatever thread, gets a
    `LockOrderWarning`, once for each pair; locks that the same line made are taken for one there. So does
    whoever waits for a condition with a lock in hand that another one had who notified it, or the other way
    round. Those who wait with a timeout count for nobody as stuck: they go on by themselves.

    Not seen: who could set an event, release a `Semaphore`, fill a queue or come to a barrier, for that might
    be anybody; permits that tasks have; what was taken before it was switched on; and a cycle half of whose
    locks are shared by processes and half are not.

    Off, this costs nothing; on, taking a free lock takes some times as long, and a thread that waits looks
    around ten times a second: it is for tests, and for looking into a program that hangs. A lock that one
    thread takes so that another one releases it may be taken for a deadlock: that is what an `Event` or a
    `Semaphore` is for.

    Args:
        on: Whether to watch; switching it off forgets what was seen.

    Example:
        >>> from manyhands.sync import Lock, detect_deadlocks
        >>> detect_deadlocks()
        >>> lock = Lock()
        >>> with lock:
        ...     lock.acquire()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        manyhands.errors.DeadlockError: could not wait for the lock made at ...: it would be for ever
        ...
        >>> detect_deadlocks(False)

    Source: the lock validator of the Linux kernel for the orders, importlib's module locks for the cycles.
    """
    watch(on)


watch_if_wanted()
