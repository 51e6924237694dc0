"""RWLock, Latch and the atomics."""

import asyncio
import gc
import threading

import pytest
from sleeping import Background, Interruption, asleep, interruption_when_asleep

from manyhands.sync import AtomicFlag, AtomicInt, Latch, RWLock


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_threads_and_tasks_read_together_and_write_alone():
    lock = RWLock()
    readers, writers, wrong, total = AtomicInt(), 0, [], 0

    def look():
        if writers > 1 or (writers and readers.get()):
            wrong.append((readers.get(), writers))

    def read():
        for _ in range(30):
            with lock.read:
                readers.add()
                look()
                readers.sub()

    def write():
        nonlocal writers, total
        for _ in range(30):
            with lock.write:
                writers += 1
                look()
                total += 1
                writers -= 1

    async def aread():
        for _ in range(20):
            async with lock.read:
                await asyncio.sleep(0)
                look()

    async def awrite():
        nonlocal writers, total
        for _ in range(20):
            async with lock.write:
                writers += 1
                await asyncio.sleep(0)
                look()
                total += 1
                writers -= 1

    async def main():
        await asyncio.gather(aread(), aread(), awrite(), awrite())

    threads = [Background(work) for work in (read, write, read, write)]
    asyncio.run(asyncio.wait_for(main(), 20))
    for thread in threads:
        thread.result()
    assert (wrong, total) == ([], 100)
    assert not lock.read.locked()
    assert not lock.write.locked()


def test_readers_who_come_after_a_writer_wait_for_him():
    lock, order = RWLock(), []

    async def work(name, side):
        async with side:
            order.append(name)
            await turns()

    async def main():
        await lock.read.aacquire()
        tasks = [
            asyncio.create_task(work(name, side))
            for name, side in [("w", lock.write), ("r", lock.read), ("s", lock.read), ("v", lock.write)]
        ]
        await turns()
        assert order == []
        lock.read.release()
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert order == ["w", "r", "s", "v"]


def test_who_reads_is_told_that_he_cannot_wait_to_write():
    lock = RWLock()
    with lock.read:
        assert lock.write.acquire(blocking=False) is False
        with pytest.raises(RuntimeError, match="releases that before he writes"):
            lock.write.acquire()
        with lock.read:
            pass
    with lock.write, pytest.raises(RuntimeError, match="the caller writes"):
        lock.read.acquire()

    async def main():
        async with lock.read:
            with pytest.raises(RuntimeError, match="releases that before he writes"):
                await lock.write.aacquire()

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.write.release()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.read.release()


def test_who_reads_again_while_a_writer_waits_for_him_is_told():
    lock = RWLock()
    with lock.read:
        writer = asleep(lock.write.acquire)
        with pytest.raises(RuntimeError, match="a writer waits for him"):
            lock.read.acquire()
    assert writer.result() is True


def test_a_writer_who_gives_up_lets_the_readers_behind_him_in():
    lock = RWLock()

    async def main():
        await lock.read.aacquire()
        writer = asyncio.create_task(lock.write.aacquire())
        await turns()
        reader = asyncio.create_task(lock.read.aacquire())
        await turns()
        assert not reader.done()
        writer.cancel()
        assert await reader is True

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_task_that_is_cancelled_after_it_was_let_in_leaves():
    lock = RWLock()
    lock.write.acquire()

    async def main():
        task = asyncio.create_task(lock.write.aacquire())
        await turns()
        lock.write.release()
        assert lock.write.locked(), "it is the task's"
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert not lock.write.locked()


def test_a_signal_and_a_timeout_leave_the_lock_as_it_was():
    lock = RWLock()
    holder = Background(lock.write.acquire)
    holder.result()
    with interruption_when_asleep(), pytest.raises(Interruption):
        lock.read.acquire()
    assert lock.read.acquire(timeout=0.001) is False
    lock.write.release()
    assert lock.read.acquire(blocking=False)


def test_a_latch_opens_for_all_and_for_good():
    latch = Latch(2)
    thread = asleep(latch.wait)

    async def main():
        task = asyncio.create_task(latch.await_())
        await turns()
        latch.count_down()
        await turns()
        assert (latch.count, task.done()) == (1, False)
        threading.Thread(target=latch.count_down, args=(5,)).start()
        return await task

    assert asyncio.run(main()) is True
    assert thread.result() is True
    assert (latch.count, latch.wait()) == (0, True)
    assert Latch(0).wait(timeout=0)
    with pytest.raises(ValueError, match="found count=-1, expected 0 or more"):
        Latch(-1)
    with pytest.raises(ValueError, match="found n=0, expected 1 or more"):
        latch.count_down(0)


def test_no_change_of_an_atomic_number_is_lost():
    number = AtomicInt()

    def work():
        for _ in range(2000):
            number.add()
            number.add(3)
            number.sub(2)

    for thread in [Background(work) for _ in range(4)]:
        thread.result()
    assert number.get() == 4 * 2000 * 2


def test_an_atomic_number_refuses_what_does_not_fit():
    number = AtomicInt(2**63 - 1)
    with pytest.raises(OverflowError, match="beyond 64 bits"):
        number.add(1)
    assert number.get() == 2**63 - 1
    assert (number.fetch_max(5), number.exchange(-3), number.fetch_min(-4), int(number)) == (
        2**63 - 1,
        2**63 - 1,
        -3,
        -4,
    )
    assert (number.fetch_add(4), [10, 20][number], repr(number)) == (-4, 10, "AtomicInt(0)")


def test_one_alone_sets_a_flag():
    flag = AtomicFlag()
    winners = [thread.result() for thread in [Background(flag.set) for _ in range(8)]]
    assert winners.count(True) == 1
    assert (bool(flag), flag.clear(), flag.clear(), flag.is_set()) == (True, True, False, False)


def test_a_task_that_is_gone_without_releasing_is_taken_for_no_other():
    lock = RWLock()

    async def main():
        await asyncio.create_task(lock.write.aacquire())
        gc.collect()
        for _ in range(20):
            # Who wrote himself would be told so instead of waiting.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lock.read.aacquire(), 0.001)

    asyncio.run(main())
