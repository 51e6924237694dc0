"""Locks and queues: what each costs that nobody else wants, and what it costs to pass things on."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from manyhands import sync

from ..runner import Bar, Measure, Metric, Subject, Times

AS_GOOD = Times(1 / 1.3)
FIVE_TIMES = Times(5)


def timed(statement: str, **names: Any) -> Measure:
    """Measure how long a statement takes, in a loop of its own."""
    code = f"def measured(rounds, {', '.join(names)}):\n  for _ in rounds:\n    {statement}\n"
    defined: dict[str, Callable[..., None]] = {}
    exec(code, defined)

    def measure(size: int) -> dict[str, float]:
        began = time.perf_counter()
        defined["measured"](range(size), *names.values())
        return {"each": (time.perf_counter() - began) / size}

    return measure


def passed_on(make: Callable[[], Any], producers: int) -> Measure:
    """Measure what an item costs that goes through a queue, from as many threads to as many."""

    def measure(size: int) -> dict[str, float]:
        through, share = make(), size // producers
        work = [
            *([lambda: [through.put(number) for number in range(share)]] * producers),
            *([lambda: [through.get() for _ in range(share)]] * producers),
        ]
        threads = [threading.Thread(target=one) for one in work]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"each": (time.perf_counter() - began) / (share * producers)}

    return measure


class UsualRWLock:
    """A lock for readers and writers as it is usually written: a count under a condition."""

    def __init__(self) -> None:
        self.condition, self.readers, self.writes = threading.Condition(), 0, False

    def read(self) -> None:
        with self.condition:
            while self.writes:
                self.condition.wait()
            self.readers += 1

    def unread(self) -> None:
        with self.condition:
            self.readers -= 1
            if not self.readers:
                self.condition.notify_all()


class Locked:
    """A number with a lock beside it."""

    def __init__(self) -> None:
        self.lock, self.number = threading.Lock(), 0


async def from_task_to_task(put: Callable[[int], Any], get: Callable[[], Any], size: int) -> None:
    async def produce() -> None:
        for number in range(size):
            await put(number)

    async def consume() -> None:
        for _ in range(size):
            await get()

    await asyncio.gather(produce(), consume())


def ours_in_asyncio(size: int) -> dict[str, float]:
    through: sync.Queue[int] = sync.Queue(100)
    return in_asyncio(through.aput, through.aget, size)


def theirs_in_asyncio(size: int) -> dict[str, float]:
    through: asyncio.Queue[int] = asyncio.Queue(100)
    return in_asyncio(through.put, through.get, size)


def in_asyncio(put: Callable[[int], Any], get: Callable[[], Any], size: int) -> dict[str, float]:
    began = time.perf_counter()
    asyncio.run(from_task_to_task(put, get, size))
    return {"each": (time.perf_counter() - began) / size}


def subject(
    name: str, title: str, how: str, size: int, ours: Measure, peer: str, theirs: Measure, bar: Bar
) -> Subject:
    metrics = [Metric("each", "", "s", [bar])]
    return Subject(f"sync-{name}", title, how, size, ours, metrics, {peer: theirs}, section="sync")


def uncontended(name: str, statement: str, ours: Any, theirs: Any, peer: str, bar: Bar) -> Subject:
    """A statement about `it`, in one thread."""
    how = f"`{statement.replace(chr(10), ' ')}` in a loop, in one thread."
    return subject(
        name,
        f"`{name}`, uncontended",
        how,
        200_000,
        timed(statement, it=ours),
        peer,
        timed(statement, it=theirs),
        bar,
    )


def watched(statement: str, it: Any) -> Measure:
    """The same with deadlocks looked for."""
    unwatched = timed(statement, it=it)

    def measure(size: int) -> dict[str, float]:
        sync.detect_deadlocks()
        try:
            return unwatched(size)
        finally:
            sync.detect_deadlocks(False)

    return measure


def under_detection(name: str, statement: str, it: Any) -> Subject:
    """A statement about `it` with deadlocks looked for, against the same without."""
    how = f"`{statement}` in a loop, in one thread, with `detect_deadlocks()` and without."
    title = f"`{name}`, with deadlocks looked for"
    without = timed(statement, it=it)
    return subject(
        f"{name}-watched", title, how, 100_000, watched(statement, it), "unwatched", without, Times(1 / 3)
    )


def threads(
    name: str,
    title: str,
    make: Callable[[], Any],
    peer: str,
    theirs: Callable[[], Any],
    number: int,
    bar: Bar,
) -> Subject:
    how = f"{number} threads put integers, {number} take them, as fast as they can."
    return subject(name, title, how, 100_000, passed_on(make, number), peer, passed_on(theirs, number), bar)


TAKE = "it.acquire(); it.release()"

SUBJECTS = (
    uncontended("Lock", TAKE, sync.Lock(), threading.Lock(), "threading.Lock", AS_GOOD),
    uncontended("Lock-with", "with it: pass", sync.Lock(), threading.Lock(), "threading.Lock", AS_GOOD),
    uncontended("RLock", TAKE, sync.RLock(), threading.RLock(), "threading.RLock", AS_GOOD),
    uncontended("RLock-with", "with it: pass", sync.RLock(), threading.RLock(), "threading.RLock", AS_GOOD),
    uncontended(
        "Semaphore", TAKE, sync.Semaphore(), threading.Semaphore(), "threading.Semaphore", FIVE_TIMES
    ),
    uncontended("Semaphore-as-Lock", TAKE, sync.Semaphore(), threading.Lock(), "threading.Lock", AS_GOOD),
    uncontended(
        "Event",
        "it.set(); it.wait(); it.clear()",
        sync.Event(),
        threading.Event(),
        "threading.Event",
        FIVE_TIMES,
    ),
    subject(
        "Event-as-Lock",
        "`Event`, two calls",
        "`it.set(); it.clear()` in a loop, in one thread, against a lock's `it.acquire(); it.release()`.",
        200_000,
        timed("it.set(); it.clear()", it=sync.Event()),
        "threading.Lock",
        timed(TAKE, it=threading.Lock()),
        AS_GOOD,
    ),
    uncontended(
        "Condition",
        "with it: it.notify()",
        sync.Condition(),
        threading.Condition(),
        "threading.Condition",
        FIVE_TIMES,
    ),
    uncontended(
        "Barrier", "it.wait()", sync.Barrier(1), threading.Barrier(1), "threading.Barrier", FIVE_TIMES
    ),
    threads("Queue-1", "`Queue`, 1 thread to 1", sync.Queue, "queue.Queue", queue.Queue, 1, FIVE_TIMES),
    threads("Queue-4", "`Queue`, 4 threads to 4", sync.Queue, "queue.Queue", queue.Queue, 4, FIVE_TIMES),
    threads(
        "Queue-simple-1",
        "`Queue`, 1 thread to 1",
        sync.Queue,
        "SimpleQueue",
        queue.SimpleQueue,
        1,
        Times(1 / 1.5),
    ),
    threads(
        "Queue-simple-4",
        "`Queue`, 4 threads to 4",
        sync.Queue,
        "SimpleQueue",
        queue.SimpleQueue,
        4,
        Times(1 / 1.5),
    ),
    subject(
        "RWLock",
        "`RWLock`, to read",
        "Taking and releasing the reading side, against a count of readers under a `threading.Condition`.",
        100_000,
        timed("it.acquire(); it.release()", it=sync.RWLock().read),
        "usual class",
        timed("it.read(); it.unread()", it=UsualRWLock()),
        Times(10),
    ),
    under_detection("Lock", TAKE, sync.Lock()),
    under_detection("RLock", TAKE, sync.RLock()),
    under_detection("RWLock", TAKE, sync.RWLock().read),
    subject(
        "AtomicInt",
        "`AtomicInt.add`",
        "`it.add(1)` against `with it.lock: it.number += 1`, in one thread.",
        200_000,
        timed("it.add(1)", it=sync.AtomicInt()),
        "threading.Lock",
        timed("with it.lock: it.number += 1", it=Locked()),
        FIVE_TIMES,
    ),
    subject(
        "Queue-asyncio",
        "`Queue`, task to task",
        "One asyncio task puts integers into a queue for 100 items, another one takes them.",
        50_000,
        ours_in_asyncio,
        "asyncio.Queue",
        theirs_in_asyncio,
        Times(2),
    ),
)
