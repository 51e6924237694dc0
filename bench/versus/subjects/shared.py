"""State that processes share: numbers, locks and queues, against `multiprocessing`'s."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import manyhands as mh

from ..runner import Metric, Subject, Times

PROCESSES = 2
SPAWN = multiprocessing.get_context("spawn")
PEER = "multiprocessing"


def at_once(work: Callable[[Any, int], object], thing: Any, size: int) -> float:
    """The seconds that processes take, which begin together, until the last has done its part."""
    barrier, times = SPAWN.Barrier(PROCESSES), SPAWN.SimpleQueue()
    arguments = (work, thing, size, barrier, times)
    processes = [SPAWN.Process(target=_timed, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    seconds = max(times.get() for _ in processes)
    for process in processes:
        process.join()
    return seconds


def _timed(work: Callable[[Any, int], object], thing: Any, size: int, barrier: Any, times: Any) -> None:
    barrier.wait()
    began = time.perf_counter()
    work(thing, size)
    times.put(time.perf_counter() - began)


def add(value: Any, size: int) -> None:
    for _ in range(size):
        value.add(1)


def add_under_lock(value: Any, size: int) -> None:
    for _ in range(size):
        with value.get_lock():
            value.value += 1


def used(shared: Any, size: int) -> dict[str, float]:
    """What it costs to read and to write short strings in a dict of a thousand."""
    words = [f"word {number % 1000}" for number in range(size)]
    for word in words[:1000]:
        shared[word] = "as long as the others"
    began = time.perf_counter()
    for word in words:
        shared[word]
    read = time.perf_counter() - began
    began = time.perf_counter()
    for word in words:
        shared[word] = word
    return {"get": read / size, "set": (time.perf_counter() - began) / size}


def used_by_manager(size: int) -> dict[str, float]:
    with SPAWN.Manager() as manager:
        return used(manager.dict(), max(1, size // 50))


def hold(lock: Any, size: int) -> None:
    for _ in range(size):
        with lock:
            pass


def passed(queue: Any, item: object, size: int) -> dict[str, float]:
    """What it takes until another process has got as many items as this one puts, as fast as it can."""
    ours, theirs = SPAWN.Pipe()
    taker = SPAWN.Process(target=_take, args=(queue, theirs, size))
    taker.start()
    ours.recv()
    began = time.perf_counter()
    for _ in range(size):
        queue.put(item)
    seconds = ours.recv() - began
    taker.join()
    return {"each": seconds / size}


def _take(queue: Any, connection: Any, size: int) -> None:
    connection.send("ready")
    for _ in range(size):
        queue.get()
    connection.send(time.perf_counter())


def added(make: Callable[[], Any], work: Callable[[Any, int], object], size: int) -> dict[str, float]:
    value = make()
    seconds = at_once(work, value, size)
    assert value.value == PROCESSES * size
    return {"each": seconds / (PROCESSES * size)}


def held(make: Callable[[], Any], size: int) -> dict[str, float]:
    """Alone, and beside another process that wants it too."""
    lock = make()
    began = time.perf_counter()
    hold(lock, size)
    alone = time.perf_counter() - began
    return {"alone": alone / size, "contended": at_once(hold, lock, size) / (PROCESSES * size)}


SUBJECTS = (
    Subject(
        name="shared-value",
        title="a number that two processes add to",
        how="Two processes add 1 to one number, as fast as they can: `value.add(1)` against "
        "`with value.get_lock(): value.value += 1`, which is what a `multiprocessing.Value` needs.",
        size=500_000,
        ours=partial(added, partial(mh.shared.Value, 0), add),
        peers={PEER: partial(added, partial(SPAWN.Value, "q", 0), add_under_lock)},
        metrics=[Metric("each", "addition", "s", [Times(20)])],
        section="shared",
    ),
    Subject(
        name="shared-counter",
        title="a count that two processes add to",
        how="The same with a `Counter`, from which nobody learns the sum by adding.",
        size=500_000,
        ours=partial(added, mh.shared.Counter, add),
        peers={PEER: partial(added, partial(SPAWN.Value, "q", 0), add_under_lock)},
        metrics=[Metric("each", "addition", "s")],
        section="shared",
    ),
    Subject(
        name="shared-dict",
        title="a dict of processes",
        how="`d[word]`, and `d[word] = word`, over a thousand short words, in one process; the peer is "
        "`multiprocessing.Manager().dict()`, which is asked less often.",
        size=100_000,
        ours=lambda size: used(mh.shared.Dict(), size),
        peers={PEER: used_by_manager},
        metrics=[Metric("get", "get", "s", [Times(100)]), Metric("set", "set", "s", [Times(100)])],
        section="shared",
    ),
    Subject(
        name="shared-queue",
        title="a queue of processes",
        how="One process puts a number, another takes it, both as fast as they can; at most a thousand lie "
        "between them.",
        size=50_000,
        ours=lambda size: passed(mh.shared.Queue(1000), 7, size),
        peers={PEER: lambda size: passed(SPAWN.Queue(1000), 7, size)},
        metrics=[Metric("each", "put and get", "s", [Times(5)])],
        section="shared",
    ),
    Subject(
        name="shared-queue-large",
        title="a queue of processes, for bytes by the mebibyte",
        how="The same with `bytes` of 1 MiB, of which at most four lie between them.",
        size=300,
        ours=lambda size: passed(mh.shared.Queue(4), bytes(1 << 20), size),
        peers={PEER: lambda size: passed(SPAWN.Queue(4), bytes(1 << 20), size)},
        metrics=[Metric("each", "put and get", "s", [Times(5)])],
        section="shared",
    ),
    Subject(
        name="shared-lock",
        title="a lock of processes",
        how="`with lock: pass`, in one process that nobody disturbs, and in two at once.",
        size=50_000,
        ours=partial(held, mh.shared.Lock),
        peers={PEER: partial(held, SPAWN.Lock)},
        metrics=[Metric("alone", "alone", "s"), Metric("contended", "two at once", "s")],
        section="shared",
    ),
)
