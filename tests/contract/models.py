"""The executors under test, each told how to run a plain function: the same test speaks to all of them."""

import asyncio
import concurrent.futures
import threading
from dataclasses import dataclass

import manyhands as mh


class Gate:
    """Holds tasks of any model until it is opened, and says how many have come to it."""

    def __init__(self):
        self.arrivals = threading.Semaphore(0)
        self._opened = concurrent.futures.Future()

    def pass_through(self, value=None):
        self.arrivals.release()
        self._opened.result()
        return value

    async def pass_through_on_loop(self, value=None):
        self.arrivals.release()
        # Not awaited itself: a task that is cancelled must not cancel the gate.
        await asyncio.wait([asyncio.wrap_future(self._opened)])
        return value

    def open(self):
        if not self._opened.done():
            self._opened.set_result(None)

    def wait_for(self, arrivals):
        for _ in range(arrivals):
            assert self.arrivals.acquire(timeout=30), "a task did not start"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.open()


@dataclass(frozen=True)
class Model:
    """How to make one kind of executor, and tasks for it."""

    name: str

    @property
    def is_ours(self):
        return self.name != "standard"

    @property
    def is_async(self):
        return self.name == "async"

    def make(self, workers=4, **options):
        """Return an executor that runs `workers` tasks at once."""
        if self.name == "standard":
            return concurrent.futures.ThreadPoolExecutor(workers, **options)
        if self.is_async:
            return mh.AsyncExecutor(concurrency=workers, **options)
        return mh.ThreadExecutor(workers, **options)

    def task(self, function):
        """Return what to submit to have `function`, which does not block, called."""
        if not self.is_async:
            return function

        async def call(*args, **kwargs):
            return function(*args, **kwargs)

        call.__name__ = function.__name__
        return call

    def wait_at(self, gate):
        """Return what to submit to have a task that waits until the gate opens, and returns its argument."""
        return gate.pass_through_on_loop if self.is_async else gate.pass_through


MODELS = {name: Model(name) for name in ("thread", "async", "standard")}
