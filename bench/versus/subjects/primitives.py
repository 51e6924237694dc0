"""Channels, and what is made once, locked by key or kept to a rate, beside what one writes otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from manyhands import sync

from ..runner import Measure, Subject, Times
from .sync import AS_GOOD, in_asyncio, subject, timed

ROOM = 100


class UsualOnce:
    """What is made when it is first needed, as usually written: looked at, locked, looked at again."""

    def __init__(self) -> None:
        self.lock, self.is_done = threading.Lock(), False

    def call(self, function: Callable[[], Any]) -> Any:
        if not self.is_done:
            with self.lock:
                if not self.is_done:
                    self.value, self.is_done = function(), True
        return self.value


class UsualKeyedLock:
    """A lock for each key that is in use, as usually written: a dict of locks and of how many want them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def __call__(self, key: Hashable) -> Iterator[None]:
        with self.lock:
            lock, users = self.locks.get(key) or (threading.Lock(), 0)
            self.locks[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self.lock:
                lock, users = self.locks.pop(key)
                if users > 1:
                    self.locks[key] = lock, users - 1


class UsualRateLimiter:
    """A bucket of tokens as usually written: a number under a lock, filled up by the time that has passed."""

    def __init__(self, rate: float, burst: int) -> None:
        self.lock, self.rate, self.burst = threading.Lock(), rate, burst
        self.tokens, self.filled = float(burst), time.monotonic()

    def acquire(self) -> None:
        while True:
            with self.lock:
                now = time.monotonic()
                self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
                self.filled = now
                if self.tokens >= 1:
                    self.tokens -= 1
                    return
                pause = (1 - self.tokens) / self.rate
            time.sleep(pause)


def passed_on(make: Callable[[], Any], put: str, get: str, number: int) -> Measure:
    """Measure what an item costs that passes from so many threads to as many."""

    def measure(size: int) -> dict[str, float]:
        through, share = make(), size // number
        send, receive = getattr(through, put), getattr(through, get)

        def produce() -> None:
            for item in range(share):
                send(item)

        def consume() -> None:
            for _ in range(share):
                receive()

        threads = [threading.Thread(target=work) for work in [produce] * number + [consume] * number]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"each": (time.perf_counter() - began) / (share * number)}

    return measure


def channel(number: int) -> Subject:
    how = f"{number} threads send integers through a channel for {ROOM} items, {number} receive them."
    ours = passed_on(lambda: sync.Channel(ROOM), "send", "receive", number)
    theirs = passed_on(lambda: queue.Queue(ROOM), "put", "get", number)
    title = f"`Channel`, {number} thread{'s' * (number > 1)} to {number}"
    return subject(f"Channel-{number}", title, how, 50_000, ours, "queue.Queue", theirs, Times(2))


def ours_in_asyncio(size: int) -> dict[str, float]:
    through: sync.Channel[int] = sync.Channel(ROOM)
    return in_asyncio(through.asend, through.areceive, size)


def theirs_in_asyncio(size: int) -> dict[str, float]:
    through: asyncio.Queue[int] = asyncio.Queue(ROOM)
    return in_asyncio(through.put, through.get, size)


FAST = 1e9

SUBJECTS = (
    channel(1),
    channel(4),
    subject(
        "Channel-asyncio",
        "`Channel`, task to task",
        f"One asyncio task sends integers through a channel for {ROOM} items, another one receives them.",
        50_000,
        ours_in_asyncio,
        "asyncio.Queue",
        theirs_in_asyncio,
        Times(1.5),
    ),
    subject(
        "Once",
        "`Once`, when it is done",
        "`it.call(int)` in a loop, in one thread, against a class that looks, locks and looks again.",
        200_000,
        timed("it.call(int)", it=sync.Once()),
        "usual class",
        timed("it.call(int)", it=UsualOnce()),
        AS_GOOD,
    ),
    subject(
        "KeyedLock",
        "`KeyedLock`, uncontended",
        "`with it('user-7'): pass` in a loop, in one thread, against locks counted in a dict under another.",
        50_000,
        timed("with it('user-7'): pass", it=sync.KeyedLock()),
        "usual class",
        timed("with it('user-7'): pass", it=UsualKeyedLock()),
        Times(2),
    ),
    subject(
        "RateLimiter",
        "`RateLimiter`, within its rate",
        "`it.acquire()` in a loop, in one thread, never waiting, against a bucket of tokens under a lock.",
        100_000,
        timed("it.acquire()", it=sync.RateLimiter(FAST, burst=2**31)),
        "usual class",
        timed("it.acquire()", it=UsualRateLimiter(FAST, 2**31)),
        Times(2),
    ),
)
