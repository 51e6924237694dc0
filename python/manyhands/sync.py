"""Locks and their like, each for threads and asyncio tasks alike, in one process.

One object serves everybody: ``with lock:`` in a thread, ``async with lock:`` in a coroutine, from any number
of threads and event loops at the same time. What has a name of the standard library's has its methods and
errors, so that changing the import is enough.

A coroutine must not block its thread, so what waits has a twin to be awaited, with an ``a`` in front:
``acquire`` and ``aacquire``. ``wait`` would become a keyword, so its twin is ``await_``. Time limits are
asyncio's own there: ``async with asyncio.timeout(1): ...``.

Who gives up waiting, by a timeout, Ctrl-C or cancellation, never takes along what was meant for the next.
"""

from manyhands._core import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]
