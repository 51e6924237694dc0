"""Lock, RLock and the semaphores: for threads and tasks alike, and nothing is lost with who gives up."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest
from section import Section
from sleeping import Background, Interruption, asleep, forks, in_a_fork, interruption_when_asleep

from manyhands.sync import BoundedSemaphore, Condition, Lock, RLock, Semaphore

KINDS = [Lock, RLock, Semaphore, BoundedSemaphore, Condition]
each_kind = pytest.mark.parametrize("kind", KINDS)
# Those that a thread other than the one that took them may give back.
each_free_kind = pytest.mark.parametrize("kind", [Lock, Semaphore, BoundedSemaphore])


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


@each_kind
def test_threads_and_tasks_of_several_loops_exclude_each_other(kind):
    section = Section(kind())
    threads = [Background(section.work, 50, lambda: sum(range(100))) for _ in range(3)]
    threads += [Background(asyncio.run, section.tasks(25)) for _ in range(2)]
    for thread in threads:
        thread.result()
    assert (section.most, section.total) == (1, 3 * 50 + 2 * 3 * 25)


@each_kind
def test_a_coroutine_needs_no_loop_as_long_as_it_need_not_wait(kind):
    lock = kind()

    async def take():
        async with lock:
            return 1

    with pytest.raises(StopIteration, match="1"):
        take().send(None)


@each_free_kind
def test_a_thread_releases_what_a_task_waits_for(kind):
    lock = kind()
    lock.acquire()

    async def main():
        task = asyncio.create_task(lock.aacquire())
        await turns()
        assert not task.done()
        threading.Thread(target=lock.release).start()
        return await task

    assert asyncio.run(main()) is True
    assert not lock.acquire(blocking=False)


@each_free_kind
def test_a_task_releases_what_a_thread_waits_for(kind):
    lock = kind()
    lock.acquire()
    thread = asleep(lock.acquire)

    async def main():
        lock.release()

    asyncio.run(main())
    assert thread.result() is True


@each_free_kind
def test_waiting_tasks_are_served_in_order(kind):
    lock = kind()
    lock.acquire()
    order = []

    async def wait(name):
        async with lock:
            order.append(name)

    async def main():
        tasks = [asyncio.create_task(wait(name)) for name in "abc"]
        await turns()
        lock.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == ["a", "b", "c"]


@each_free_kind
def test_a_task_never_forestalls_one_that_waits(kind):
    lock, order = kind(), []

    async def rounds(name):
        for _ in range(3):
            async with lock:
                order.append(name)
                await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(rounds(name) for name in "abc"))

    asyncio.run(main())
    assert "".join(order) == "abcabcabc"
    assert lock.acquire(blocking=False)


@each_free_kind
def test_a_cancelled_task_passes_on_what_it_was_called_for(kind):
    lock = kind()
    lock.acquire()

    async def main():
        first, second = (asyncio.create_task(lock.aacquire()) for _ in range(2))
        await turns()
        lock.release()
        first.cancel()
        assert await second is True
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert not lock.acquire(blocking=False)


@each_free_kind
def test_who_was_called_in_vain_is_handed_the_next_one_and_gives_it_back_when_cancelled(kind):
    lock = kind()
    lock.acquire()

    async def main():
        task = asyncio.create_task(lock.aacquire())
        await turns()
        lock.release()
        assert lock.acquire(blocking=False), "a running thread may be faster, once"
        await turns()
        assert not task.done()
        lock.release()
        assert not lock.acquire(blocking=False), "it is the task's now, which does not run yet"
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert lock.acquire(blocking=False)


@each_kind
def test_a_coroutine_that_is_thrown_away_passes_on_what_it_was_called_for(kind):
    lock = kind()

    async def main():
        await lock.aacquire()
        waiting = lock.aacquire()
        other = asyncio.create_task(take())
        if kind not in (RLock, Condition):
            waiting.send(None)
        await turns()
        lock.release()
        waiting.close()
        del waiting
        await other

    async def take():
        async with lock:
            pass

    asyncio.run(asyncio.wait_for(main(), 20))


@each_free_kind
def test_a_task_of_a_closed_loop_is_passed_by(kind):
    lock = kind()
    lock.acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(lock.aacquire())
    loop.run_until_complete(turns())
    loop.close()
    patient = asleep(lock.acquire)
    lock.release()
    assert patient.result() is True
    task.get_coro().close()
    task._log_destroy_pending = False


@each_free_kind
def test_a_timeout_of_one_does_not_cost_the_other_his_turn(kind):
    lock = kind()
    lock.acquire()
    assert lock.acquire(timeout=0.01) is False
    thread = asleep(lock.acquire)
    assert lock.acquire(timeout=0.01) is False
    lock.release()
    assert thread.result() is True


@each_free_kind
def test_a_signal_interrupts_the_wait_and_nothing_else(kind):
    lock = kind()
    lock.acquire()
    with interruption_when_asleep(), pytest.raises(Interruption):
        lock.acquire()
    lock.release()
    assert lock.acquire(blocking=False)


def test_an_rlock_belongs_to_the_task_that_took_it():
    lock = RLock()

    async def intrude():
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            lock.release()

    async def main():
        async with lock, lock:
            assert lock.acquire(blocking=False)
            lock.release()
            await asyncio.create_task(intrude())
            assert Background(lock.acquire, False).result() is False
        assert not lock.locked()

    asyncio.run(main())


def test_an_rlock_keeps_tasks_of_one_loop_apart():
    lock, order = RLock(), []

    async def work(name):
        async with lock:
            order.append(name)
            await turns()
            order.append(name)

    async def main():
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(main())
    assert order == ["a", "a", "b", "b"]


def test_an_awaitable_is_used_once_and_does_nothing_before():
    lock = Lock()
    awaitable = lock.aacquire()
    assert not lock.locked()

    async def main():
        assert await awaitable
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable

    asyncio.run(main())


def test_who_waits_without_a_loop_is_told():
    lock = Lock()
    lock.acquire()
    with pytest.raises(RuntimeError, match="no running event loop"):
        lock.aacquire().send(None)
    lock.release()
    assert lock.acquire(blocking=False)


@each_free_kind
def test_a_task_that_waits_for_ever_is_garbage_with_its_loop(kind):
    lock = kind()
    lock.acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(lock.aacquire())
    task._log_destroy_pending = False
    loop.run_until_complete(turns())
    loop.close()
    remembered = weakref.ref(task)
    del task, loop, lock
    gc.collect()
    assert remembered() is None


def test_a_semaphore_releases_several():
    semaphore = Semaphore(0)
    threads = [asleep(semaphore.acquire) for _ in range(3)]
    semaphore.release(3)
    assert [thread.result() for thread in threads] == [True] * 3
    with pytest.raises(ValueError, match="n must be one or more"):
        semaphore.release(0)


def test_a_bounded_semaphore_refuses_several_at_once_or_none():
    semaphore = BoundedSemaphore(2)
    semaphore.acquire()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release(2)
    semaphore.release()
    assert semaphore.acquire(False)
    assert semaphore.acquire(False)


@forks
@each_kind
def test_in_a_forked_child_an_unlocked_lock_works_on(kind):
    lock = kind()

    def use():
        with lock:
            asserted = Background(lock.acquire, False).result()
        assert asserted is False
        with lock:
            pass

    assert in_a_fork(use) == "ok"


@forks
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_in_a_forked_child_what_the_forking_thread_holds_is_its_own(kind):
    lock = kind()
    with lock:
        said = in_a_fork(lock.release)
    assert said == "ok"


@forks
@pytest.mark.parametrize("kind", [Lock, RLock, Condition])
def test_in_a_forked_child_what_another_thread_held_is_an_error_and_no_hang(kind):
    lock, taken, over = kind(), threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            over.wait(20)

    holder = Background(hold)
    taken.wait(20)
    said = in_a_fork(lock.acquire)
    over.set()
    holder.result()
    assert "left behind by a fork" in said
    with lock:
        pass


@forks
def test_in_a_forked_child_those_who_waited_in_the_parent_are_forgotten():
    semaphore = Semaphore(0)
    waiting = [asleep(semaphore.acquire) for _ in range(2)]

    def use():
        for _ in range(3):
            semaphore.release()
            mine = Background(semaphore.acquire)
            assert mine.result() is True

    assert in_a_fork(use) == "ok"
    semaphore.release(2)
    assert all(thread.result() for thread in waiting)


def test_an_rlock_of_a_task_that_is_gone_belongs_to_no_other():
    lock = RLock()

    async def owns():
        return lock._is_owned()

    async def main():
        await asyncio.create_task(lock.aacquire())
        gc.collect()
        assert not any([await asyncio.create_task(owns()) for _ in range(100)])

    asyncio.run(main())
    assert lock.locked()


@each_free_kind
def test_a_coroutine_whose_loop_is_closed_gives_back_nothing_that_another_has(kind):
    lock = kind()
    lock.acquire()
    waiting = lock.aacquire()

    async def wait():
        await waiting

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(turns())
    loop.close()
    lock.release()
    assert lock.acquire(blocking=False), "who cannot be woken has given up"
    waiting.close()
    assert lock.locked(), "and has nothing left to give up"
    with contextlib.suppress(RuntimeError):
        task.get_coro().close()
    task._log_destroy_pending = False
