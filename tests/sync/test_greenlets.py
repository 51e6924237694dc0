"""Greenlets: one that waits lets the others go on, and nothing is lost with one that gives up."""

import asyncio
import gc
import random
import threading
import weakref

import pytest
from section import Section
from sleeping import Background, asleep

gevent = pytest.importorskip("gevent")

from manyhands import DeadlockError  # noqa: E402
from manyhands.sync import (  # noqa: E402
    Barrier,
    BoundedSemaphore,
    BrokenBarrierError,
    Channel,
    Condition,
    Empty,
    Event,
    Full,
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
    detect_deadlocks,
    select,
)
from watching import seeds  # noqa: E402

LOCKS = [
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    lambda: RWLock().write,
    lambda: KeyedLock()("key"),
]
each_lock = pytest.mark.parametrize("make", LOCKS)
# Those that another greenlet than the one that took them may give back.
each_free_lock = pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore])


def in_hub(function, *args):
    """What the function does as a greenlet, in a thread with a hub of its own, where it may start others."""

    def run():
        try:
            return gevent.spawn(function, *args).get(timeout=20)
        finally:
            gevent.get_hub().destroy()

    return Background(run).result()


def turns(count=5):
    """Let other greenlets run."""
    for _ in range(count):
        gevent.sleep(0)


class Waiting:
    """Ways to wait for something that is not there yet, each with what brings it."""

    def lock(self):
        lock = Lock()
        lock.acquire()
        return lock.acquire, lock.release

    def semaphore(self):
        semaphore = Semaphore(0)
        return semaphore.acquire, semaphore.release

    def event(self):
        event = Event()
        return event.wait, event.set

    def latch(self):
        latch = Latch(1)
        return latch.wait, latch.count_down

    def reader(self):
        lock = RWLock()
        lock.write.acquire()
        return lock.read.acquire, lock.write.release

    def writer(self):
        lock = RWLock()
        lock.write.acquire()
        return lock.write.acquire, lock.write.release

    def getter(self):
        queue = Queue()
        return queue.get, lambda: queue.put(1)

    def putter(self):
        queue = Queue(1)
        queue.put(1)
        return lambda: queue.put(2), queue.get

    def joiner(self):
        queue = Queue()
        queue.put(1)
        return queue.join, queue.task_done

    def receiver(self):
        channel = Channel()
        return channel.receive, lambda: channel.send(1)

    def sender(self):
        channel = Channel()
        return lambda: channel.send(1), channel.receive

    def chooser(self):
        channel, other = Channel(), Channel()
        return lambda: select(channel, other), lambda: channel.send(1)

    def keyed(self):
        locks = KeyedLock()
        locks("key").acquire()
        return locks("key").acquire, locks("key").release

    def barrier(self):
        barrier = Barrier(2)
        return barrier.wait, lambda: threading.Thread(target=barrier.wait).start()

    def condition(self):
        condition, is_set = Condition(), []

        def wait():
            with condition:
                return condition.wait_for(lambda: is_set)

        def bring():
            with condition:
                is_set.append(True)
                condition.notify_all()

        return wait, bring


WAYS = [name for name in vars(Waiting) if not name.startswith("_")]
each_way = pytest.mark.parametrize("way", WAYS)


@each_way
def test_the_other_greenlets_go_on_while_one_waits_for_another_greenlet(way):
    wait, bring = getattr(Waiting(), way)()

    def main():
        waiter = gevent.spawn(wait)
        turns()
        assert not waiter.ready(), "it waits"
        bring()
        waiter.get(timeout=20)

    in_hub(main)


@each_way
def test_the_other_greenlets_go_on_while_one_waits_for_a_thread(way):
    wait, bring = getattr(Waiting(), way)()

    def main():
        waiter, counted = gevent.spawn(wait), 0
        while counted < 5:
            gevent.sleep(0)
            counted += 1
        assert not waiter.ready(), "it waits"
        threading.Thread(target=bring).start()
        waiter.get(timeout=20)

    in_hub(main)


@each_way
def test_the_threads_own_stack_waits_through_its_hub(way):
    wait, bring = getattr(Waiting(), way)()

    def run():
        try:
            gevent.spawn(bring)
            return wait()
        finally:
            gevent.get_hub().destroy()

    Background(run).result()


def test_greenlets_threads_and_tasks_keep_a_rate_together():
    limiter, passed = RateLimiter(500), []

    def work(name):
        for _ in range(4):
            with limiter:
                passed.append(name)

    def main():
        other = threading.Thread(target=work, args=("thread",))
        other.start()
        gevent.joinall([gevent.spawn(work, name) for name in "ab"], timeout=20)
        other.join(20)

    in_hub(main)
    assert sorted(passed) == sorted(["thread", "a", "b"] * 4)


# What lets all through at once is meant for nobody in particular.
@pytest.mark.parametrize(
    "way", ["lock", "semaphore", "writer", "getter", "putter", "receiver", "chooser", "keyed"]
)
def test_a_killed_greenlet_leaves_what_was_meant_for_it_to_the_next(way):
    wait, bring = getattr(Waiting(), way)()

    def main():
        first, second = gevent.spawn(wait), gevent.spawn(wait)
        turns()
        bring()
        first.kill(block=False)
        second.get(timeout=20)
        first.join(timeout=20)
        assert isinstance(first.value, gevent.GreenletExit)

    in_hub(main)


def test_a_notification_for_a_killed_greenlet_goes_to_the_next_and_the_lock_is_in_hand():
    condition, seen = Condition(), []

    def wait():
        with condition:
            try:
                condition.wait()
            finally:
                seen.append(condition._is_owned())

    def main():
        first, second = gevent.spawn(wait), gevent.spawn(wait)
        turns()
        with condition:
            condition.notify()
            first.kill(block=False)
            turns()
            assert not first.ready(), "it waits for the lock"
        gevent.joinall([first, second], timeout=20)
        assert isinstance(first.value, gevent.GreenletExit)
        assert second.successful()

    in_hub(main)
    assert seen == [True, True]
    assert not condition.locked()


@pytest.mark.parametrize("timeout", [0.001, 0])
def test_a_timeout_ends_the_wait_of_a_greenlet(timeout):
    lock, event, queue, full, condition, rwlock = Lock(), Event(), Queue(), Queue(1), Condition(), RWLock()
    lock.acquire()
    rwlock.write.acquire()
    full.put(1)

    def main():
        assert not lock.acquire(timeout=timeout)
        assert not event.wait(timeout)
        assert not rwlock.read.acquire(timeout=timeout)
        with pytest.raises(Empty):
            queue.get(timeout=timeout)
        with pytest.raises(Full):
            full.put(2, timeout=timeout)
        with condition:
            assert not condition.wait(timeout)
        with pytest.raises(BrokenBarrierError):
            Barrier(2).wait(timeout)
        lock.release()
        queue.put(1)
        assert lock.acquire(timeout=20), "nobody is left in the line"
        assert queue.get(timeout=20) == 1

    in_hub(main)


def test_gevents_own_timeout_ends_the_wait():
    lock = Lock()
    lock.acquire()

    def main():
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
            lock.acquire()
        lock.release()
        assert lock.acquire(blocking=False)

    in_hub(main)


@each_lock
def test_greenlets_threads_and_tasks_exclude_each_other(make):
    section = Section(make())

    def greenlets():
        resting = [gevent.spawn(section.work, 20, lambda: gevent.sleep(0)) for _ in range(3)]
        gevent.joinall(resting, raise_error=True)

    others = [Background(section.work, 20, lambda: None) for _ in range(2)]
    others += [Background(in_hub, greenlets) for _ in range(2)]
    others += [Background(asyncio.run, section.tasks(20))]
    for other in others:
        other.result()
    assert (section.most, section.total) == (1, 20 * (2 + 2 * 3 + 3))


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_every_item_comes_out_once_among_greenlets_threads_and_tasks(kind):
    queue, taken = kind(3), []

    def produce(first):
        for number in range(first, first + 30):
            queue.put(number)

    def consume():
        for _ in range(30):
            taken.append(queue.get(timeout=20))

    async def aproduce(first):
        for number in range(first, first + 30):
            await queue.aput(number)

    async def aconsume():
        for _ in range(30):
            taken.append(await queue.aget())

    async def tasks():
        await asyncio.gather(aproduce(100), aconsume())

    def greenlets():
        both = [gevent.spawn(produce, 200), gevent.spawn(consume), gevent.spawn(produce, 300)]
        gevent.joinall([*both, gevent.spawn(consume)], raise_error=True)

    others = [Background(produce, 0), Background(consume)]
    others += [Background(asyncio.run, tasks()), Background(in_hub, greenlets)]
    for other in others:
        other.result()
    expected = [first + number for first in (0, 100, 200, 300) for number in range(30)]
    assert sorted(taken) == expected


@seeds(5)
def test_greenlets_that_are_killed_at_random_lose_nothing(seed):
    chance = random.Random(seed)
    lock, queue, held = Lock(), Queue(), []

    def visit():
        with lock:
            held.append(1)
            gevent.sleep(0)
            held.pop()

    def main():
        visitors = [gevent.spawn(visit) for _ in range(20)]
        getters = [gevent.spawn(queue.get) for _ in range(20)]
        for number in range(20):
            queue.put(number)
            if chance.random() < 0.5:
                chance.choice(visitors).kill(block=False)
                chance.choice(getters).kill(block=False)
            if chance.random() < 0.5:
                gevent.sleep(0)
        gevent.joinall(visitors, timeout=20)
        while queue.qsize() and not all(getter.ready() for getter in getters):
            gevent.sleep(0)
        got = [getter.value for getter in getters if isinstance(getter.value, int)]
        gevent.killall(getters)
        rest = [queue.get_nowait() for _ in range(queue.qsize())]
        # Who was killed after he had taken his item had it.
        assert sorted(got + rest) == sorted(set(got + rest))
        assert lock.acquire(timeout=20)

    in_hub(main)


def test_a_greenlet_owns_its_rlock_against_the_others_of_its_thread():
    lock, order = RLock(), []

    def hold(name):
        with lock, lock:
            order.append(name)
            gevent.sleep(0)
            order.append(name)

    def main():
        gevent.joinall([gevent.spawn(hold, name) for name in "ab"], raise_error=True)
        with lock:
            with pytest.raises(RuntimeError):
                gevent.spawn(lock.release).get(timeout=20)
            assert lock._is_owned()
            assert not gevent.spawn(lock._is_owned).get(timeout=20)
            assert not gevent.spawn(lock.acquire, False).get(timeout=20)

    in_hub(main)
    assert order == ["a", "a", "b", "b"]


def test_an_rlock_of_a_greenlet_that_is_gone_belongs_to_no_other():
    lock = RLock()

    def main():
        gevent.spawn(lock.acquire).get(timeout=20)
        gc.collect()
        for _ in range(100):
            assert not gevent.spawn(lock.acquire, False).get(timeout=20)

    in_hub(main)


def test_a_greenlet_that_writes_keeps_the_others_of_its_thread_from_reading():
    lock = RWLock()

    def main():
        with lock.write:
            reader = gevent.spawn(lock.read.acquire)
            turns()
            assert not reader.ready()
        assert reader.get(timeout=20)

    in_hub(main)


def test_a_lock_that_its_thread_took_before_there_was_a_hub_is_still_the_threads():
    lock = RLock()

    def run():
        with lock:
            gevent.get_hub()
            with lock:
                return gevent.spawn(lock.acquire, False).get(timeout=20)

    assert Background(run).result() is False


def test_two_greenlets_that_wait_for_each_other_are_told():
    detect_deadlocks()
    try:
        one, other = Lock(), Lock()

        def take(first, second):
            with first:
                gevent.sleep(0)
                with second:
                    pass

        def main():
            both = [gevent.spawn(take, one, other), gevent.spawn(take, other, one)]
            gevent.joinall(both, timeout=20)
            [error] = [greenlet.exception for greenlet in both if not greenlet.successful()]
            return error, {f"greenlet {greenlet.name}" for greenlet in both}

        error, names = in_hub(main)
    finally:
        detect_deadlocks(False)
    assert isinstance(error, DeadlockError)
    assert {wait.who for wait in error.cycle} == names
    assert all("with second" in wait.stack for wait in error.cycle)


def test_a_plain_thread_sleeps_as_ever():
    event = Event()
    waiter = asleep(event.wait)
    event.set()
    assert waiter.result()


def test_a_greenlet_that_waited_is_freed():
    event = Event()

    def main():
        waiter = gevent.spawn(event.wait)
        turns()
        event.set()
        waiter.get(timeout=20)
        return weakref.ref(waiter)

    seen = in_hub(main)
    gc.collect()
    assert seen() is None


def test_a_greenlet_whose_hub_is_gone_keeps_nothing_from_others():
    lock = Lock()
    lock.acquire()

    def run():
        greenlet = gevent.spawn(lock.acquire)
        turns()
        gevent.get_hub().destroy()
        return greenlet

    thread = Background(run)
    greenlet = thread.result()
    lock.release()
    assert lock.acquire(timeout=20)
    del thread, greenlet
    gc.collect()
    assert lock.locked()
