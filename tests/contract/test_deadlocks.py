"""Locks that are watched: deadlocks are told where they arise, contradictory orders before they hang."""

import asyncio
import itertools
import pickle
import subprocess
import sys
import threading
import warnings

import pytest

import manyhands as mh
from manyhands import sync

pytestmark = pytest.mark.filterwarnings("ignore::manyhands.LockOrderWarning")


@pytest.fixture(autouse=True)
def watched():
    sync.detect_deadlocks()
    yield
    sync.detect_deadlocks(False)


class Threads:
    """Threads that each take a lock, wait until all have theirs, and take another."""

    def __init__(self):
        self.errors = []
        self.threads = []

    def run(self, *steps):
        everybody = threading.Barrier(len(steps))

        def work(first, second):
            try:
                with first:
                    everybody.wait()
                    with second:
                        pass
            except mh.DeadlockError as error:
                self.errors.append((threading.current_thread().name, error))

        self.threads = [
            threading.Thread(target=work, args=step, name=name)
            for step, name in zip(steps, "ABCDE", strict=False)
        ]
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self.threads)
        [(name, error)] = self.errors
        return name, error


@pytest.mark.parametrize("kind", [sync.Lock, sync.RLock])
def test_two_threads_that_take_two_locks_crosswise(kind):
    here = sys._getframe().f_lineno
    left = kind()
    right = kind()
    name, error = Threads().run((left, right), (right, left))
    assert isinstance(error, RuntimeError)
    assert {wait.who for wait in error.cycle} == {"thread A", "thread B"}
    assert error.cycle[0].who == f"thread {name}"
    assert {wait.lock for wait in error.cycle} == {
        f"the lock made at {__file__}:{here + 1}",
        f"the lock made at {__file__}:{here + 2}",
    }
    for wait, other in zip(error.cycle, reversed(error.cycle), strict=True):
        assert wait.holder == other.who
        assert "with second:" in wait.stack
        assert wait.stack.rstrip() in str(error)
    assert "hint: " in str(error)


def test_three_threads_in_a_ring():
    one, two, three = sync.Lock(), sync.Lock(), sync.Lock()
    _, error = Threads().run((one, two), (two, three), (three, one))
    assert len(error.cycle) == 3
    assert {wait.who for wait in error.cycle} == {"thread A", "thread B", "thread C"}


def test_a_thread_that_takes_a_plain_lock_twice():
    lock = sync.Lock()
    with lock:
        with pytest.raises(mh.DeadlockError, match="would be for ever") as caught:
            lock.acquire()
        # Nothing has changed by that.
        assert lock.locked()
        assert not lock.acquire(timeout=0.01)
        assert not lock.acquire(blocking=False)
    assert not lock.locked()
    [wait] = caught.value.cycle
    assert wait.who == wait.holder == f"thread {threading.current_thread().name}"


def test_an_owner_may_take_its_own_lock_again():
    lock = sync.RLock()
    with lock, lock, lock:
        assert lock._recursion_count() == 3
    assert not lock.locked()


def test_whoever_waits_with_a_timeout_is_no_part_of_a_deadlock():
    left, right = sync.Lock(), sync.Lock()
    both, gave_up = threading.Barrier(2), []

    def patient():
        with left:
            both.wait()
            gave_up.append(right.acquire(timeout=0.05))

    thread = threading.Thread(target=patient)
    with right:
        thread.start()
        both.wait()
        # Got when the other one has given up.
        with left:
            thread.join()
    assert gave_up == [False]


def test_tasks_of_one_loop():
    async def main():
        left, right = sync.Lock(), sync.Lock()
        both = asyncio.Barrier(2) if sys.version_info >= (3, 11) else _Barrier(2)

        async def work(first, second):
            async with first:
                await both.wait()
                async with second:
                    pass

        tasks = [
            asyncio.create_task(work(left, right), name="ann"),
            asyncio.create_task(work(right, left), name="bob"),
        ]
        return await asyncio.gather(*tasks, return_exceptions=True)

    [error] = [outcome for outcome in asyncio.run(main()) if outcome is not None]
    assert isinstance(error, mh.DeadlockError)
    assert {wait.who for wait in error.cycle} == {"task ann", "task bob"}
    assert all("async with second" in wait.stack for wait in error.cycle)


class _Barrier:
    """asyncio's, before it had one."""

    def __init__(self, parties):
        self._left, self._open = parties, asyncio.Event()

    async def wait(self):
        self._left -= 1
        if not self._left:
            self._open.set()
        await self._open.wait()


def test_a_thread_and_a_task():
    left, right = sync.Lock(), sync.Lock()
    both, errors = threading.Barrier(2), []

    async def task():
        async with left:
            await asyncio.to_thread(both.wait)
            async with right:
                pass

    def thread():
        with right:
            both.wait()
            with left:
                pass

    def run(function):
        try:
            function()
        except mh.DeadlockError as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(lambda: asyncio.run(task()),)),
        threading.Thread(target=run, args=(thread,)),
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    [error] = errors
    assert sorted(wait.who.split()[0] for wait in error.cycle) == ["task", "thread"]


def test_a_thread_that_blocks_the_task_it_waits_for():
    async def main():
        lock = sync.Lock()
        async with lock:
            task = asyncio.create_task(block(lock))
            await task

    async def block(lock):
        lock.acquire()

    with pytest.raises(mh.DeadlockError) as caught:
        asyncio.run(main())
    assert caught.value.cycle[0].who == f"thread {threading.current_thread().name}"


def test_a_lock_that_is_waited_for_and_released_goes_on_being_watched():
    """Whoever was handed a lock is known to have it."""
    left, right = sync.Lock(), sync.Lock()
    waits, has_it, errors = threading.Event(), threading.Event(), []

    def heir():
        waits.set()
        with left:
            has_it.set()
            try:
                with right:
                    pass
            except mh.DeadlockError as error:
                errors.append(error)

    thread = threading.Thread(target=heir)
    with right:
        left.acquire()
        thread.start()
        waits.wait()
        left.release()
        has_it.wait()
        try:
            with left:
                pass
        except mh.DeadlockError as error:
            errors.append(error)
    thread.join(30)
    assert len(errors) == 1


def test_an_error_travels():
    lock = sync.Lock()
    with lock, pytest.raises(mh.DeadlockError) as caught:
        lock.acquire()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.cycle == caught.value.cycle


def orders_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(it.message) for it in caught if issubclass(it.category, mh.LockOrderWarning)]


def test_both_orders_are_warned_of_before_they_hang():
    here = sys._getframe().f_lineno
    left = sync.Lock()
    right = sync.Lock()

    def one_way():
        with left, right:
            pass

    def the_other():
        with right, left:
            pass

    def both():
        one_way()
        the_other()
        one_way()
        the_other()

    [text] = orders_of(both)
    assert (
        f"the lock made at {__file__}:{here + 1} while the lock made at {__file__}:{here + 2} is held" in text
    )
    now, _, before = text.partition("earlier, the other way round")
    assert "in the_other" in now
    assert "in one_way" in before


def test_orders_of_different_threads_and_of_three_locks():
    one = sync.Lock()
    two = sync.Lock()
    three = sync.RLock()

    def take(first, second):
        with first, second:
            pass

    def everybody():
        for pair in ((one, two), (two, three), (three, one)):
            thread = threading.Thread(target=take, args=pair)
            thread.start()
            thread.join()

    assert len(orders_of(everybody)) == 1


def test_attempts_make_no_order():
    left = sync.Lock()
    right = sync.Lock()

    def attempts():
        with left, right:
            pass
        with right:
            assert left.acquire(blocking=False)
            left.release()

    assert orders_of(attempts) == []


def test_locks_of_one_line_may_be_taken_hand_over_hand():
    chain = [sync.Lock() for _ in range(5)]

    def walk(locks):
        locks[0].acquire()
        for here, there in itertools.pairwise(locks):
            there.acquire()
            here.release()
        locks[-1].release()

    assert orders_of(lambda: (walk(chain), walk(chain[::-1]))) == []


def test_a_warning_that_is_an_error_leaves_no_lock_taken():
    left = sync.Lock()
    right = sync.RLock()
    with left, right:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error", mh.LockOrderWarning)
        with right:
            with pytest.raises(mh.LockOrderWarning):
                left.acquire()
            assert not left.locked()


def test_tasks_that_wait_for_tasks_of_their_own_full_executor():
    both = threading.Barrier(2)

    def inner():
        return 1

    def outer():
        both.wait()
        return pool.submit(inner).result()

    with mh.ThreadExecutor(2, name="kitchen") as pool:
        outcomes = [
            future.exception() or future.result() for future in [pool.submit(outer), pool.submit(outer)]
        ]
    # With the one told, a worker is free for the other's.
    [error] = [outcome for outcome in outcomes if outcome != 1]
    assert isinstance(error, mh.DeadlockError)
    assert len(error.cycle) == 2
    assert all("kitchen" in wait.who and "pool.submit(inner).result()" in wait.stack for wait in error.cycle)
    assert "nobody is left to bring" in str(error)
    assert "an executor of their own" in str(error)


def test_a_task_that_waits_for_itself():
    told = threading.Event()
    box = []

    def work():
        told.wait()
        return box[0].result()

    with mh.ThreadExecutor(1) as pool:
        box.append(pool.submit(work))
        told.set()
        assert isinstance(box[0].exception(), mh.DeadlockError)


def test_tasks_that_wait_for_others_while_a_worker_is_left():
    def tree(depth):
        if depth == 0:
            return 1
        return pool.submit(tree, depth - 1).result() + 1

    with mh.ThreadExecutor(8) as pool:
        assert pool.submit(tree, 7).result() == 8
        futures = [pool.submit(tree, 1) for _ in range(7)]
        assert [future.result() for future in futures] == [2] * 7


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], {}, "False"),
        ([], {"MANYHANDS_DEADLOCK": "1"}, "True"),
        ([], {"MANYHANDS_DEADLOCK": "0"}, "False"),
        (["-X", "dev"], {}, "True"),
    ],
)
def test_the_interpreter_may_be_told_to_watch(flags, environment, expected):
    code = "import manyhands as mh; mh.sync; from manyhands import _core; print(_core.watches_locks())"
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
