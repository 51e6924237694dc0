"""Deadlocks by results: of tasks that wait for each other, for their loop, or for who wants their lock."""

import asyncio
import concurrent.futures
import sys
import threading

import pytest

import manyhands as mh
from manyhands import sync


@pytest.fixture(autouse=True)
def watched():
    sync.detect_deadlocks()
    yield
    sync.detect_deadlocks(False)


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
    async def inner(began, go_on):
        began.set()
        await go_on.wait()

    async def outer():
        began, go_on = asyncio.Event(), asyncio.Event()
        future = pool.submit(inner, began, go_on)
        await began.wait()
        try:
            future.result()
        finally:
            go_on.set()

    with mh.AsyncExecutor() as pool:
        assert isinstance(pool.submit(outer).exception(timeout=30), mh.DeadlockError)


def test_a_task_that_awaits_itself():
    box = []

    async def work():
        while not box:
            await asyncio.sleep(0)
        return await box[0]

    with mh.AsyncExecutor() as pool:
        box.append(pool.submit(work))
        error = box[0].exception(timeout=30)
    assert isinstance(error, mh.DeadlockError)
    [wait] = error.cycle
    assert wait.who == wait.holder
    assert "return await box[0]" in wait.stack


def test_a_task_that_awaits_itself_in_its_first_step():
    is_known, box = threading.Event(), []

    async def work():
        is_known.wait()
        return await box[0]

    with mh.AsyncExecutor() as pool:
        box.append(pool.submit(work))
        is_known.set()
        error = box[0].exception(timeout=30)
    assert isinstance(error, mh.DeadlockError)
    [wait] = error.cycle
    assert wait.who == wait.holder


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
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait():
            begun.set()
            await go_on.wait()
            return True

        future = asyncio.run_coroutine_threadsafe(wait(), asyncio.get_running_loop())
        await begun.wait()
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
