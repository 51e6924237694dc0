"""Loads the interpreter's tests of asyncio's locks and queues so that they see ours in their place.

Ours have the names of `threading`, and other ones for coroutines; here the latter are given the names that
asyncio has for them. Nothing else is adapted: what a test sees of a lock or a queue is ours.
"""

import asyncio
import gc
import importlib
import re
import sys
import types

from manyhands import sync


class Observed:
    """What the tests look at in private, told from the outside."""

    @property
    def _waiters(self):
        return [seen for seen in gc.get_referents(self) if asyncio.isfuture(seen)]

    _getters = _putters = _waiters

    @property
    def _value(self):
        return int(re.search(r"value=(\d+)", repr(self))[1])


class Lock(Observed, sync.Lock):
    def acquire(self):
        return self.aacquire()


class Semaphore(Observed, sync.Semaphore):
    def acquire(self):
        return self.aacquire()


class BoundedSemaphore(Observed, sync.BoundedSemaphore):
    def acquire(self):
        return self.aacquire()


class Event(Observed, sync.Event):
    def wait(self):
        return self.await_()


class Condition(Observed, sync.Condition):
    """On a lock that anybody may release, as asyncio's is by default."""

    def __new__(cls, lock=None):
        return super().__new__(cls, lock or Lock())

    def __init__(self, lock=None):
        self._lock = lock

    def acquire(self):
        return self.aacquire()

    def wait(self):
        return self.await_()

    def wait_for(self, predicate):
        return self.await_for(predicate)


class Barrier(sync.Barrier):
    def wait(self):
        return self.await_()

    async def reset(self):
        super().reset()

    async def abort(self):
        super().abort()


class AsyncioNames(Observed):
    def get(self):
        return self.aget()

    def put(self, item):
        return self.aput(item)

    def join(self):
        return self.ajoin()

    def _get_loop(self):
        """Which 3.10's tests call so that the queue belongs to a loop. Ours belongs to none."""


class Queue(AsyncioNames, sync.Queue):
    pass


class LifoQueue(AsyncioNames, sync.LifoQueue):
    pass


class PriorityQueue(AsyncioNames, sync.PriorityQueue):
    pass


OURS = {
    kind.__name__: kind
    for kind in (
        Barrier,
        BoundedSemaphore,
        Condition,
        Event,
        LifoQueue,
        Lock,
        PriorityQueue,
        Queue,
        Semaphore,
    )
} | {
    "BrokenBarrierError": sync.BrokenBarrierError,
    "QueueEmpty": sync.Empty,
    "QueueFull": sync.Full,
    "QueueShutDown": sync.ShutDown,
}


def load(name):
    """Import the tests of this name with a module in the place of `asyncio` that has our classes."""
    package = "test.test_asyncio"
    # Its tools, and the base class of the tests, go on with the true one.
    importlib.import_module(f"{package}.utils")
    ours = types.ModuleType("asyncio")
    ours.__dict__.update(vars(asyncio) | OURS)
    sys.modules["asyncio"] = ours
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        sys.modules["asyncio"] = asyncio
