"""KeyedLock: one lock per key, for as long as somebody holds it or waits for it."""

import asyncio
import gc
import random
import threading
import weakref

import pytest
from sleeping import Background, Interruption, asleep, forks, in_a_fork, interruption_when_asleep

from manyhands import DeadlockError
from manyhands.sync import KeyedLock, detect_deadlocks
from watching import seeds


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


class Key:
    """A key whose comparison lets others run, or does something itself."""

    def __init__(self, name, number=0, compared=lambda: None):
        self.name, self.number, self.compared = name, number, compared

    def __hash__(self):
        return self.number

    def __eq__(self, other):
        self.compared()
        return isinstance(other, Key) and self.name == other.name


def test_a_key_excludes_itself_and_nobody_else():
    locks = KeyedLock()
    with locks("a"):
        assert locks("a").locked()
        assert not locks("a").acquire(blocking=False)
        assert not locks("a").acquire(timeout=0.001)
        with locks("b"), locks(("a", 1)):
            assert len(locks) == 3
    assert not locks("a").locked()
    assert len(locks) == 0
    assert bool(locks)


def test_equal_keys_mean_the_same_lock():
    locks = KeyedLock()
    with locks(1):
        assert locks(1.0).locked()
        assert locks(True).locked()
        assert not locks("1").locked()


@seeds(3)
def test_threads_and_tasks_that_want_the_same_key_exclude_each_other(seed):
    locks, inside, entered, begin = KeyedLock(), set(), [], threading.Barrier(4)

    def visit(key):
        assert key.name not in inside
        inside.add(key.name)
        entered.append(key.name)
        inside.remove(key.name)

    def keys(name):
        dice = random.Random(f"{seed} {name}")
        return [Key(dice.choice("abcd"), dice.choice((1, 1, 2))) for _ in range(60)]

    def hashed_alike(key):
        key.number = "abcd".index(key.name) // 2
        return key

    def thread(name):
        begin.wait(20)
        for key in map(hashed_alike, keys(name)):
            with locks(key):
                visit(key)

    async def task(name):
        for key in map(hashed_alike, keys(name)):
            async with locks(key):
                visit(key)
                await asyncio.sleep(0)

    async def tasks(name):
        await asyncio.gather(*(task(f"{name}.{number}") for number in range(3)))

    def loop(name):
        begin.wait(20)
        run(tasks(name))

    workers = [Background(thread, f"thread {number}") for number in range(2)]
    workers += [Background(loop, f"loop {number}") for number in range(2)]
    for worker in workers:
        worker.result()
    assert len(entered) == 8 * 60
    assert len(locks) == 0


def test_memory_does_not_grow_with_the_keys():
    locks, gone = KeyedLock(), []
    for number in range(100):
        key = Key(number, number)
        gone.append(weakref.ref(key))
        with locks(key):
            pass
    del key
    assert len(locks) == 0
    assert [reference() for reference in gone] == [None] * 100


def test_a_lock_lives_as_long_as_somebody_waits():
    locks = KeyedLock()
    assert locks("a").acquire()
    waiting = asleep(locks("a").acquire)
    locks("a").release()
    assert waiting.result() is True
    assert len(locks) == 1, "the thread that waited has it"
    locks("a").release()
    assert len(locks) == 0


def test_who_gives_up_leaves_nothing_behind():
    locks = KeyedLock()

    async def main():
        async with locks("a"):
            waiting = [asyncio.ensure_future(locks("a").aacquire()) for _ in range(3)]
            await turns()
            waiting[0].cancel()
        waiting[1].cancel()
        assert await waiting[2] is True
        assert waiting[0].cancelled()
        assert waiting[1].cancelled()
        locks("a").release()

    run(main())
    with locks("a"), interruption_when_asleep(), pytest.raises(Interruption):
        locks("a").acquire()
    assert len(locks) == 0


def test_what_nobody_holds_is_not_released():
    locks = KeyedLock()
    lock = locks("a")
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    with lock:
        locks("a").release()
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            lock.release()
        assert lock.acquire()
    assert len(locks) == 0


def test_a_key_that_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match=r"could not lock \[1\]: found a key of type `list`") as caught:
        KeyedLock()([1])
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_comparison_may_use_the_locks_and_may_fail():
    locks = KeyedLock()

    def use():
        with locks("meanwhile"):
            pass

    def fail():
        raise ValueError("incomparable")

    with locks(Key("a")):
        assert not locks(Key("a", compared=use)).acquire(blocking=False)
        with locks(Key("b", compared=use)):
            assert len(locks) == 2
        with pytest.raises(ValueError, match="incomparable"):
            locks(Key("c", compared=fail)).acquire()
    assert len(locks) == 0


def test_keys_that_are_taken_crosswise_are_a_deadlock_that_is_told():
    detect_deadlocks()
    try:
        locks, both = KeyedLock(), threading.Barrier(2)

        def take(first, second):
            with locks(first):
                both.wait(20)
                with locks(second):
                    return "taken"

        threads = [Background(take, *keys) for keys in (("a", "b"), ("b", "a"))]
        outcomes = []
        for thread in threads:
            try:
                outcomes.append(thread.result())
            except DeadlockError as error:
                outcomes.append(len(error.cycle))
        assert sorted(outcomes, key=str) == [2, "taken"]
    finally:
        detect_deadlocks(False)
    assert len(locks) == 0


def test_locks_that_hold_themselves_are_garbage():
    locks = KeyedLock()
    key = Key("a")
    key.locks = locks
    assert locks(key).acquire()
    gone = weakref.ref(key)
    del locks, key
    gc.collect()
    assert gone() is None


@forks
def test_in_a_forked_child_a_key_of_another_thread_is_an_error_and_the_others_are_free():
    locks, taken, over = KeyedLock(), threading.Event(), threading.Event()

    def hold():
        with locks("a"):
            taken.set()
            over.wait(20)

    holder = Background(hold)
    taken.wait(20)
    said = in_a_fork(lambda: locks("a").acquire())
    other = in_a_fork(lambda: locks("b").acquire())
    over.set()
    holder.result()
    assert "left behind by a fork" in said
    assert other == "ok"
