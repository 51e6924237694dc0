"""Deadlocks beyond plain locks: readers and writers, conditions, permits, threads that end, results."""

import asyncio
import concurrent.futures
import re
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


def run(*functions):
    """Run each in a thread, and return the one deadlock that is raised in one of them."""
    errors = []

    def work(function):
        try:
            function()
        except mh.DeadlockError as error:
            errors.append((threading.current_thread().name, error))

    threads = [
        threading.Thread(target=work, args=(function,), name=name, daemon=True)
        for function, name in zip(functions, "ABCDE", strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    [(name, error)] = errors
    assert error.cycle[0].who == f"thread {name}"
    return error


def who_wait(error):
    return {wait.who for wait in error.cycle}


def until(is_so):
    """Wait until others have gone to sleep, which wakes nobody."""
    pause = threading.Event()
    for _ in range(10_000):
        if is_so():
            return
        pause.wait(0.001)
    raise AssertionError("not within 10 s of looking")


def sleeps(name, function):
    """Whether that thread is in that function."""
    ident = next((it.ident for it in threading.enumerate() if it.name == name), None)
    frame = sys._current_frames().get(ident)
    return frame is not None and frame.f_code.co_name == function


# Readers and writers


def test_a_reader_who_wants_to_write():
    lock = sync.RWLock()
    with lock.read:
        with pytest.raises(mh.DeadlockError, match="the lock for readers and writers made at") as caught:
            lock.write.acquire()
        with pytest.raises(RuntimeError, match="the caller reads"):
            lock.write.acquire(timeout=0.01)
    [wait] = caught.value.cycle
    assert wait.who == wait.holder == f"thread {threading.current_thread().name}"


def test_a_reader_who_wants_to_write_is_refused_without_detection_too():
    sync.detect_deadlocks(False)
    lock = sync.RWLock()
    with lock.read, pytest.raises(RuntimeError, match="the caller reads"):
        lock.write.acquire()


def test_two_readers_who_both_want_to_write():
    lock, both = sync.RWLock(), threading.Barrier(2)
    told = []

    def upgrade():
        with lock.read:
            both.wait()
            try:
                lock.write.acquire()
            except mh.DeadlockError as error:
                told.append(error)

    threads = [threading.Thread(target=upgrade, name=name) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # Each waits for himself already.
    assert len(told) == 2
    assert not lock.read.locked()


def test_a_writer_and_a_reader_of_two_locks():
    left, right, both = sync.RWLock(), sync.RWLock(), threading.Barrier(2)

    def reader():
        with left.read:
            both.wait()
            with right.read:
                pass

    def writer():
        with right.write:
            both.wait()
            with left.write:
                pass

    error = run(reader, writer)
    assert who_wait(error) == {"thread A", "thread B"}
    for wait in error.cycle:
        assert "in reader" in wait.stack or "in writer" in wait.stack


def test_a_reader_behind_a_writer_who_waits_for_him_by_another_lock():
    """The writer waits for A, A for the lock of B, and B to read, which is behind the writer."""
    shared, lock = sync.RWLock(), sync.Lock()
    reads, has_lock = threading.Event(), threading.Event()

    def a():
        with shared.read:
            reads.set()
            has_lock.wait()
            until(lambda: sleeps("C", "b"))
            with lock:
                pass

    def writer():
        reads.wait()
        with shared.write:
            pass

    def b():
        with lock:
            reads.wait()
            until(lambda: sleeps("B", "writer"))
            has_lock.set()
            with shared.read:
                pass

    error = run(a, writer, b)
    assert who_wait(error) == {"thread A", "thread B", "thread C"}


def test_a_reader_behind_a_writer_who_gives_up_is_in_no_deadlock():
    shared, lock = sync.RWLock(), sync.Lock()
    reads, has_lock, done = threading.Event(), threading.Event(), []

    def a():
        with shared.read:
            reads.set()
            has_lock.wait()
            until(lambda: sleeps("C", "b"))
            with lock:
                done.append("a")

    def writer():
        reads.wait()
        done.append(shared.write.acquire(timeout=0.3))

    def b():
        with lock:
            reads.wait()
            until(lambda: sleeps("B", "writer"))
            has_lock.set()
            with shared.read:
                done.append("b")

    threads = [threading.Thread(target=it, name=name) for it, name in zip((a, writer, b), "ABC", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, done)) == ["False", "a", "b"]


# Conditions


def test_a_condition_waited_for_with_a_second_lock_in_hand():
    """Who could notify has the condition's own lock, and waits for the second one."""
    changed, second = sync.Condition(), sync.Lock()
    may_begin = threading.Event()

    def waiter():
        with second, changed:
            may_begin.set()
            changed.wait()

    def notifier():
        may_begin.wait()
        with changed, second:
            changed.notify()

    def run_notifier():
        try:
            notifier()
        except mh.DeadlockError:
            with changed:
                changed.notify()
            raise

    error = run(waiter, run_notifier)
    assert [wait.who for wait in error.cycle] == ["thread B", "thread A"]
    assert "with changed, second" in error.cycle[0].stack
    assert "changed.wait()" in error.cycle[1].stack


def test_a_wait_with_a_timeout_needs_the_lock_at_its_end_all_the_same():
    changed, second = sync.Condition(sync.Lock()), sync.RLock()
    may_begin = threading.Event()

    def waiter():
        with second, changed:
            may_begin.set()
            changed.wait(0.05)

    def notifier():
        may_begin.wait()
        with changed:
            until(lambda: sleeps("A", "waiter"))
            with second:
                pass

    assert who_wait(run(waiter, notifier)) == {"thread A", "thread B"}


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_lock_that_is_in_hand_at_the_wait_and_at_the_notification(waits_first):
    changed, second = sync.Condition(), sync.Lock()
    ready = threading.Event()

    def wait():
        with second, changed:
            ready.set()
            changed.wait()

    def notify():
        with second, changed:
            changed.notify()

    def wait_and_be_woken():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        ready.wait()
        with changed:
            second.release()  # what nobody does who is not a test: otherwise it hangs now
        notify()
        second.acquire()
        thread.join(30)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for deed in (wait_and_be_woken, notify) if waits_first else (notify, wait_and_be_woken):
            deed()
    texts = [str(it.message) for it in caught if "a condition is waited for" in str(it.message)]
    assert len(texts) == 1
    waits, _, notifies = texts[0].partition("notifies:")
    assert "in wait" in waits
    assert "in notify" in notifies
    assert re.search(r"with the lock made at .*test_classic_deadlocks.py:\d+ in hand", texts[0])


def test_readers_of_a_lock_may_wait_and_notify():
    changed, shared, done = sync.Condition(), sync.RWLock(), []

    def wait():
        with shared.read, changed:
            changed.wait_for(lambda: done)

    with warnings.catch_warnings():
        warnings.simplefilter("error", mh.LockOrderWarning)
        thread = threading.Thread(target=wait)
        thread.start()
        with shared.read, changed:
            done.append(1)
            changed.notify()
        thread.join(30)
    assert not thread.is_alive()


# Permits


def test_blocks_with_all_permits_want_another():
    tables, all_there = sync.BoundedSemaphore(2), threading.Barrier(2)

    def dine():
        with tables:
            all_there.wait()
            with tables:
                pass

    error = run(dine, dine)
    assert who_wait(error) == {"thread A", "thread B"}
    assert error.cycle[0].lock.startswith("the semaphore made at")


def test_a_permit_that_is_given_back_elsewhere_is_no_deadlock():
    slots, lock = sync.BoundedSemaphore(1), sync.Semaphore(1)
    slots.acquire()
    lock.acquire()
    helpers = [threading.Timer(0.15, slots.release), threading.Timer(0.15, lock.release)]
    for helper in helpers:
        helper.start()
    assert slots.acquire()
    with lock:
        pass
    for helper in helpers:
        helper.join()


# Threads that end


@pytest.mark.parametrize("kind", [sync.Lock, sync.RLock])
def test_a_lock_of_a_thread_that_has_ended(kind):
    lock = kind()
    thread = threading.Thread(target=lock.acquire, name="careless")
    thread.start()
    thread.join()
    with pytest.raises(mh.DeadlockError, match="by `with`") as caught:
        lock.acquire()
    [wait] = caught.value.cycle
    assert wait.holder == "thread careless (which has ended)"
    assert not lock.acquire(timeout=0.01)


def test_a_lock_of_a_thread_that_ends_while_one_waits():
    lock, has_it, may_end = sync.RLock(), threading.Event(), threading.Event()

    def careless():
        lock.acquire()
        has_it.set()
        may_end.wait()

    def waiter():
        has_it.wait()
        threading.Thread(target=lambda: (until(lambda: sleeps("A", "waiter")), may_end.set())).start()
        with lock:
            pass

    thread = threading.Thread(target=careless, name="careless")
    thread.start()
    error = run(waiter)
    thread.join()
    assert error.cycle[0].holder == "thread careless (which has ended)"


# Results


def test_a_task_on_a_loop_that_blocks_for_a_task_of_its_loop():
    async def inner():
        return 1

    async def outer():
        return pool.submit(inner).result()

    with mh.AsyncExecutor() as pool:
        error = pool.submit(outer).exception(timeout=30)
    assert isinstance(error, mh.DeadlockError)
    assert "the result of <Future" in error.cycle[0].lock
    assert "pool.submit(inner).result()" in error.cycle[0].stack


def test_a_task_that_blocks_for_a_running_task_of_its_loop():
    async def inner(began):
        began.set()
        await asyncio.sleep(0.01)

    async def outer():
        began = asyncio.Event()
        future = pool.submit(inner, began)
        await began.wait()
        future.result()

    with mh.AsyncExecutor() as pool:
        assert isinstance(pool.submit(outer).exception(timeout=30), mh.DeadlockError)


def test_a_task_that_awaits_itself():
    box = []

    async def work():
        await asyncio.sleep(0.01)
        return await box[0]

    with mh.AsyncExecutor() as pool:
        box.append(pool.submit(work))
        error = box[0].exception(timeout=30)
    assert isinstance(error, mh.DeadlockError)
    [wait] = error.cycle
    assert wait.who == wait.holder
    assert "return await box[0]" in wait.stack


def test_tasks_that_await_each_other():
    box = {}

    async def work(other):
        while other not in box:
            await asyncio.sleep(0.001)
        return await box[other]

    with mh.AsyncExecutor() as pool:
        box["a"] = pool.submit(work, "b")
        box["b"] = pool.submit(work, "a")
        errors = [box[name].exception(timeout=30) for name in "ab"]
    assert all(isinstance(error, mh.DeadlockError) for error in errors)
    assert any(len(error.cycle) == 2 for error in errors)


def test_a_task_that_awaits_one_that_has_not_begun_and_awaits_it_then():
    box = {}

    async def inner():
        return await box["outer"]

    async def outer():
        while "outer" not in box:
            await asyncio.sleep(0)
        return await pool.submit(inner)

    with mh.AsyncExecutor() as pool:
        box["outer"] = pool.submit(outer)
        error = box["outer"].exception(timeout=30)
    assert isinstance(error, mh.DeadlockError)


def test_a_thread_that_awaits_one_that_has_not_begun_is_known_by_a_task_that_waits_for_it():
    box, is_awaited = {}, threading.Event()

    def inner():
        return box["outer"].result()

    def wait_until_awaited():
        is_awaited.wait()

    async def outer():
        while "outer" not in box:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(is_awaited.set)
        return await box["inner"]

    with mh.AsyncExecutor() as pool, mh.ThreadExecutor(1) as threads:
        threads.submit(wait_until_awaited)
        box["inner"] = threads.submit(inner)
        box["outer"] = pool.submit(outer)
        errors = [box[name].exception(timeout=30) for name in ("outer", "inner")]
    assert all(isinstance(error, mh.DeadlockError) for error in errors)


def test_a_task_with_a_lock_that_another_wants_whose_result_it_waits_for():
    lock, has_lock = sync.Lock(), threading.Event()

    def inner():
        has_lock.wait()
        with lock:
            return 1

    def outer(future):
        with lock:
            has_lock.set()
            return future.result()

    with mh.ThreadExecutor(3) as pool:
        first = pool.submit(inner)
        second = pool.submit(outer, first)
        told = [it.exception(timeout=30) for it in (first, second)]
    errors = [error for error in told if error is not None]
    assert errors and all(isinstance(error, mh.DeadlockError) for error in errors)
    assert len(errors[0].cycle) == 2


def test_results_that_come_are_no_deadlock():
    async def inner(number):
        await asyncio.sleep(0.001)
        return number

    async def outer(number):
        return await pool.submit(inner, number) + await asyncio.to_thread(pool.submit(inner, 1).result)

    with mh.AsyncExecutor() as pool:
        assert sum(pool.map(outer, range(20))) == sum(range(20)) + 20


def test_a_loop_that_blocks_for_a_coroutine_that_it_was_given():
    async def main():
        loop = asyncio.get_running_loop()
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "done"), loop)
        with pytest.raises(mh.DeadlockError, match="the result of <Future") as caught:
            future.result()
        [wait] = caught.value.cycle
        assert wait.who == wait.holder
        assert "future.result()" in wait.stack
        assert "await asyncio.wrap_future" in str(caught.value)
        assert await asyncio.wrap_future(future) == "done"

    asyncio.run(main())


def test_a_loop_that_blocks_for_a_coroutine_that_it_has_begun():
    async def main():
        go_on = asyncio.Event()
        future = asyncio.run_coroutine_threadsafe(go_on.wait(), asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        with pytest.raises(mh.DeadlockError):
            future.exception()
        with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else Exception):
            future.result(timeout=0.01)
        go_on.set()
        assert await asyncio.wrap_future(future)

    asyncio.run(main())


def test_other_threads_and_other_futures_may_block():
    async def main():
        loop = asyncio.get_running_loop()

        def from_outside():
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, 1), loop).result()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert await asyncio.to_thread(from_outside) == 1
            assert pool.submit(int, "7").result() == 7

    asyncio.run(main())


def test_without_detection_the_futures_of_the_standard_library_are_left_alone():
    watched = concurrent.futures.Future.result
    sync.detect_deadlocks(False)
    assert concurrent.futures.Future.result is watched.__wrapped__
