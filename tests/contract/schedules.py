"""Random legal schedules: threads and tasks that take everything there is, by all ways, and never deadlock.

A schedule is what one of them does from holding nothing to holding nothing again, while the others do theirs.
Legal is: what one waits for comes later in one order than all that one has; what is out of order is only
tried for; along a chain one goes hand over hand, one way; one waits for a condition with nothing else in
hand, and for a result with what the task does not want. So whatever the detection says, it is a false alarm.

    python tests/contract/schedules.py 1000000 [SEED]
"""

import asyncio
import contextlib
import random
import sys
import threading
import time
import warnings

import manyhands as mh
from manyhands import sync

THREADS, LOOPS, TASKS = 4, 2, 4


class World:
    """What they take, each made by a line of its own, in the order in which they may wait for it."""

    def __init__(self):
        first = sync.Lock()
        again = sync.RLock()
        book = sync.RWLock()
        middle = sync.Lock()
        tables = sync.BoundedSemaphore(2)
        other_book = sync.RWLock()
        changed = sync.Condition()
        last = sync.Lock()
        self.order = [first, again, book, middle, tables, other_book, changed, last]
        self.chain = [sync.Lock() for _ in range(4)]
        self.news = sync.Condition(sync.Lock())
        self.count = 0

    def is_free(self):
        books = [
            side for lock in self.order if isinstance(lock, sync.RWLock) for side in (lock.read, lock.write)
        ]
        locks = [lock for lock in self.order if not isinstance(lock, sync.RWLock)]
        return not any(lock.locked() for lock in [*locks, *books, *self.chain])


def in_order(world, numbers, start=0):
    """Some of those that come after `start`, in order; of those with two sides, one."""
    for lock in world.order[start:]:
        if numbers.random() < 0.4:
            if isinstance(lock, sync.RWLock):
                yield lock.write if numbers.random() < 0.3 else lock.read
            else:
                yield lock


def let_go(held, numbers):
    numbers.shuffle(held)
    for lock in held:
        if isinstance(lock, sync.BoundedSemaphore):
            lock.__exit__(None, None, None)
        else:
            lock.release()


def take(lock, numbers):
    """Take it by some way; whether it was got."""
    how = numbers.random()
    if isinstance(lock, sync.BoundedSemaphore):
        return lock.__enter__()
    if how < 0.2:
        return lock.acquire(blocking=False)
    if how < 0.4:
        return lock.acquire(timeout=numbers.choice((0.0001, 60)))
    return lock.acquire()


def one_after_the_other(world, numbers, _pool):
    held = []
    for lock in in_order(world, numbers):
        if take(lock, numbers):
            held.append(lock)
            if isinstance(lock, sync.RLock) and lock.acquire():
                held.append(lock)
    again = next((lock for lock in held if isinstance(lock, sync.RLock)), None)
    if again is not None and again.acquire():
        held.append(again)
    let_go(held, numbers)


def any_that_are_free(world, numbers, _pool):
    locks = [*world.chain, *(lock for lock in world.order if isinstance(lock, sync.Lock))]
    held = [lock for lock in numbers.sample(locks, 3) if lock.acquire(blocking=False)]
    let_go(held, numbers)


def hand_over_hand(world, _numbers, _pool):
    here = None
    for there in world.chain:
        there.acquire()
        if here is not None:
            here.release()
        here = there
    here.release()


def news_with_locks_in_hand(world, numbers, _pool):
    held = [lock for lock in in_order(world, numbers, 3) if take(lock, numbers)]
    with world.news:
        world.count += 1
        world.news.notify(2)
    let_go(held, numbers)


def wait_for_news(world, _numbers, _pool):
    with world.news:
        seen = world.count
        world.news.wait_for(lambda: world.count > seen, timeout=0.002)


def wait_for_a_task(world, numbers, pool):
    start = numbers.choice([place for place, lock in enumerate(world.order) if isinstance(lock, sync.Lock)])

    def task(seed):
        theirs = random.Random(seed)
        let_go([lock for lock in in_order(world, theirs, start + 1) if take(lock, theirs)], theirs)

    with world.order[start]:
        pool.submit(task, numbers.random()).result()


WAYS = [one_after_the_other] * 6 + [any_that_are_free, hand_over_hand, news_with_locks_in_hand] * 3
WAYS += [wait_for_a_task, wait_for_news]


async def as_a_task(world, numbers):
    held = []
    for lock in in_order(world, numbers):
        if isinstance(lock, sync.Lock) and numbers.random() < 0.2:
            if lock.acquire(blocking=False):
                held.append(lock)
        elif isinstance(lock, sync.Condition):
            async with lock:
                await asyncio.sleep(0)
        elif await lock.aacquire():
            held.append(lock)
    numbers.shuffle(held)
    for lock in held:
        lock.release()


def work_in_thread(world, seed, count, pool):
    numbers = random.Random(seed)
    for _ in range(count):
        numbers.choice(WAYS)(world, numbers, pool)


def work_in_loop(world, seed, count):
    async def work(number):
        numbers = random.Random(f"{seed} {number}")
        for _ in range(count):
            await as_a_task(world, numbers)

    async def main():
        await asyncio.gather(*(work(number) for number in range(TASKS)))

    asyncio.run(main())


def run(count, seed):
    """Have `count` schedules run under detection; raise the first alarm."""
    world = World()
    share = count // (THREADS + LOOPS * TASKS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error", mh.LockOrderWarning)
        helpers = stack.enter_context(mh.ThreadExecutor(THREADS, name="helpers"))
        pool = stack.enter_context(mh.ThreadExecutor(THREADS + LOOPS, name="schedules"))
        futures = [
            pool.submit(work_in_thread, world, f"{seed} {number}", share, helpers)
            for number in range(THREADS)
        ]
        futures += [
            pool.submit(work_in_loop, world, f"{seed} loop {number}", share) for number in range(LOOPS)
        ]
        for future in mh.as_completed(futures):
            future.result()
    assert world.is_free()


def main(count, seed):
    """Run them in parts, each in a new world and with nothing seen."""
    began, threads = time.monotonic(), threading.active_count()
    part = 50_000
    for done in range(0, count, part):
        sync.detect_deadlocks()
        run(min(part, count - done), f"{seed} {done}")
        sync.detect_deadlocks(False)
        print(f"{done + part} schedules, no alarm, {time.monotonic() - began:.0f} s", flush=True)
    assert threading.active_count() == threads


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else str(time.time_ns()))
