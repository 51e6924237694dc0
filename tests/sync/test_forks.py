"""In the child of a fork: what was free works on, and what somebody held who is not there is no hang."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
from sleeping import Background, asleep, forks, in_a_fork

from manyhands.sync import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Latch,
    PriorityQueue,
    Queue,
    RLock,
    RWLock,
    Semaphore,
)

pytestmark = forks


@contextmanager
def held_elsewhere(hold):
    """Have another thread hold something in the block; `hold` does so until it is told otherwise."""
    held, over = threading.Event(), threading.Event()
    holder = Background(hold, held.set, over.wait)
    assert held.wait(20)
    try:
        yield
    finally:
        over.set()
        holder.result()


def by_a_thread(lock):
    def hold(say, wait):
        with lock:
            say()
            wait(20)

    return held_elsewhere(hold)


def by_a_task(lock):
    async def work(say, wait):
        async with lock:
            say()
            await asyncio.to_thread(wait, 20)

    return held_elsewhere(lambda say, wait: asyncio.run(work(say, wait)))


@pytest.mark.parametrize("held", [by_a_thread, by_a_task])
@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_a_semaphore_whose_last_permit_another_thread_has_refuses_to_be_waited_for(kind, held):
    semaphore = kind(2)
    with semaphore, held(semaphore):
        said = in_a_fork(semaphore.acquire)
        assert "left behind by a fork" in said
        assert in_a_fork(lambda: semaphore.acquire(blocking=False) and 1 / 0) == "ok"

        def release_and_take():
            semaphore.release()
            semaphore.acquire()
            assert Background(semaphore.acquire, True, 0.001).result() is False

        assert in_a_fork(release_and_take) == "ok"


def test_a_semaphore_that_counts_what_happens_is_waited_for_whoever_took_last():
    happened = Semaphore(0)
    happened.release()
    Background(happened.acquire).result()

    def use():
        waiter = asleep(happened.acquire)
        happened.release()
        assert waiter.result() is True

    assert in_a_fork(use) == "ok"


@pytest.mark.parametrize("held", [by_a_thread, by_a_task])
def test_an_rlock_that_another_thread_or_its_task_has_refuses_to_be_waited_for(held):
    lock = RLock()
    with held(lock):
        assert "left behind by a fork" in in_a_fork(lock.acquire)


@pytest.mark.parametrize("held", [by_a_thread, by_a_task])
def test_a_read_write_lock_that_another_thread_or_its_task_has_refuses_to_be_waited_for(held):
    lock = RWLock()
    with held(lock.write):
        assert "left behind by a fork" in in_a_fork(lock.write.acquire)
        assert "left behind by a fork" in in_a_fork(lock.read.acquire)
    with held(lock.read):
        assert "left behind by a fork" in in_a_fork(lock.write.acquire)
        assert in_a_fork(lock.read.acquire) == "ok"


def test_a_queue_that_another_thread_is_busy_in_refuses_to_be_waited_for():
    queue = PriorityQueue()

    class Slow:
        def __lt__(self, other):
            if compares:
                compares.pop()()
                over.wait(20)
            return True

    compares, over = [], threading.Event()

    def hold(say, wait):
        queue.put(Slow())
        compares.append(say)
        nonlocal over
        over.wait = wait
        queue.put(Slow())

    with held_elsewhere(hold):
        assert "left behind by a fork" in in_a_fork(lambda: queue.put(1))


def told(make, wait, tell):
    """A test case: what is made, how one waits for it, and what ends that."""
    return pytest.param(make, wait, tell, id=make.__name__)


def notified(condition):
    with condition:
        condition.wait()


def notify(condition):
    with condition:
        condition.notify_all()


@pytest.mark.parametrize(
    ("make", "wait", "tell"),
    [
        told(Event, Event.wait, Event.set),
        told(lambda: Latch(1), Latch.wait, Latch.count_down),
        told(lambda: Barrier(2), Barrier.wait, Barrier.wait),
        told(Queue, Queue.get, lambda queue: queue.put(1)),
        told(Condition, notified, notify),
    ],
)
def test_what_nobody_holds_works_on_without_those_who_waited_in_the_parent(make, wait, tell):
    thing = make()
    waiting = asleep(wait, thing)

    def use():
        waiter = asleep(wait, thing)
        tell(thing)
        waiter.result()

    assert in_a_fork(use) == "ok"
    tell(thing)
    waiting.result()
