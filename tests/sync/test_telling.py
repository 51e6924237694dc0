"""Event, Condition and Barrier: who is told something, and who is told in his stead when he gave up."""

import asyncio
import threading
from threading import BrokenBarrierError

import pytest
from sleeping import Background, Interruption, asleep, interruption_when_asleep

from manyhands.sync import Barrier, Condition, Event, Lock, RLock


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_event_lets_threads_and_tasks_through_together():
    event = Event()
    thread = asleep(event.wait)

    async def main():
        tasks = [asyncio.create_task(event.await_()) for _ in range(3)]
        await turns()
        event.set()
        event.clear()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [True] * 3
    assert thread.result() is True
    assert event.wait(timeout=0) is False


def test_an_event_is_set_from_another_loop():
    event = Event()

    async def wait():
        waiting.set()
        return await event.await_()

    async def release():
        event.set()

    waiting = threading.Event()
    other = Background(asyncio.run, wait())
    waiting.wait(20)
    asyncio.run(release())
    assert other.result() is True


def test_a_signal_interrupts_the_wait_for_an_event():
    with interruption_when_asleep(), pytest.raises(Interruption):
        Event().wait()


@pytest.mark.parametrize("lock", [None, Lock, RLock])
def test_a_condition_joins_threads_and_tasks(lock):
    condition = Condition(lock and lock())
    basket, taken = [], []

    def consume():
        with condition:
            condition.wait_for(lambda: basket)
            taken.append(basket.pop())

    async def aconsume():
        async with condition:
            assert await condition.await_for(lambda: basket)
            taken.append(basket.pop())

    async def main():
        threads = [Background(consume) for _ in range(3)]
        tasks = [asyncio.create_task(aconsume()) for _ in range(3)]
        for number in range(6):
            async with condition:
                basket.append(number)
                condition.notify()
            await turns()
        await asyncio.gather(*tasks)
        return threads

    for thread in asyncio.run(asyncio.wait_for(main(), 20)):
        thread.result()
    assert sorted(taken) == [*range(6)]


def test_a_condition_keeps_the_depth_of_its_lock():
    condition = Condition()

    async def main():
        async with condition, condition:
            waker = asyncio.create_task(wake())
            await condition.await_()
            await waker
            condition.release()
            assert condition.locked()
            await condition.aacquire()
        assert not condition.locked()

    async def wake():
        async with condition:
            condition.notify_all()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_cancelled_task_has_the_lock_again_before_it_goes_on():
    condition, seen = Condition(), []

    async def wait():
        async with condition:
            try:
                await condition.await_()
            finally:
                seen.append(condition._is_owned())

    async def main():
        task = asyncio.create_task(wait())
        await turns()
        async with condition:
            task.cancel()
            await turns()
            assert not task.done(), "it waits for the lock"
            task.cancel()
            await turns()
            assert not task.done(), "also when it is cancelled again"
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert seen == [True]
    assert not condition.locked()


def test_a_notification_for_a_cancelled_task_goes_to_the_next():
    condition = Condition()

    async def wait():
        async with condition:
            return await condition.await_()

    async def main():
        first, second = (asyncio.create_task(wait()) for _ in range(2))
        await turns()
        async with condition:
            condition.notify()
            first.cancel()
        assert await second
        await asyncio.wait([first])
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("times", [1, 2])
def test_a_notification_for_a_task_that_is_cancelled_while_it_waits_for_the_lock_goes_to_the_next(times):
    condition, notified = Condition(), []

    async def wait(name):
        async with condition:
            await condition.await_()
            notified.append(name)

    async def main():
        tasks = [asyncio.create_task(wait(name)) for name in "abc"]
        await turns()
        async with condition:
            condition.notify()
            await turns()
            for _ in range(times):
                tasks[0].cancel()
                await turns()
        await tasks[1]
        await turns()
        assert notified == ["b"], "one notification, one who goes on"
        tasks[2].cancel()
        await asyncio.wait(tasks)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_signal_leaves_the_condition_with_the_lock_in_hand():
    condition = Condition()
    with condition:
        with interruption_when_asleep(), pytest.raises(Interruption):
            condition.wait()
        assert condition._is_owned()
    assert not condition.locked()


def test_a_wait_without_time_lets_others_have_the_lock():
    condition, visits = Condition(Lock()), []

    def visit():
        with condition:
            visits.append(1)

    with condition:
        other = asleep(visit)
        while not visits:
            condition.wait(timeout=0)
    other.result()


def test_a_second_signal_ends_the_wait_for_the_lock_of_a_condition():
    lock = Lock()
    condition = Condition(lock)

    def take_it_for_good():
        with condition:
            condition.notify()
        lock.acquire()

    lock.acquire()
    Background(take_it_for_good)
    with pytest.raises(Interruption), interruption_when_asleep():
        condition.wait(0.05)
    assert lock.locked()


def test_a_condition_of_a_foreign_lock_is_for_threads():
    condition = Condition(threading.Lock())
    with condition:
        assert condition.wait(timeout=0.001) is False
    with pytest.raises(TypeError, match="found a lock that only threads can wait for"):
        condition.aacquire()


def test_only_the_holder_waits_and_notifies():
    condition = Condition()
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        condition.await_().send(None)
    with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
        condition.notify_all()


def test_a_barrier_joins_threads_and_tasks_round_after_round():
    passed = []
    barrier = Barrier(4, action=lambda: passed.append(barrier.n_waiting))

    def rounds():
        return [barrier.wait() for _ in range(5)]

    async def arounds():
        return [await barrier.await_() for _ in range(5)]

    async def main():
        return await asyncio.gather(arounds(), arounds())

    threads = [Background(rounds) for _ in range(2)]
    everybody = [*asyncio.run(main()), *(thread.result() for thread in threads)]
    assert [sorted(numbers) for numbers in zip(*everybody, strict=True)] == [[0, 1, 2, 3]] * 5
    assert len(passed) == 5


def test_a_cancelled_task_leaves_the_barrier_whole():
    barrier = Barrier(2)

    async def main():
        task = asyncio.create_task(barrier.await_())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert (barrier.n_waiting, barrier.broken) == (0, False)
        return sorted(await asyncio.gather(barrier.await_(), barrier.await_()))

    assert asyncio.run(main()) == [0, 1]


def test_a_task_waits_at_a_barrier_before_a_block():
    barrier, seen = Barrier(2), []

    async def meet(name):
        async with barrier as position:
            seen.append(name)
            return position

    async def main():
        first = asyncio.create_task(meet("a"))
        await turns()
        assert not seen
        return await asyncio.gather(first, meet("b"))

    assert asyncio.run(main()) == [0, 1]
    assert sorted(seen) == ["a", "b"]


def test_a_timeout_breaks_the_barrier_for_all():
    barrier = Barrier(3)
    other = asleep(barrier.wait)
    with pytest.raises(BrokenBarrierError):
        barrier.wait(timeout=0.001)
    with pytest.raises(BrokenBarrierError):
        other.result()
    assert barrier.broken


def test_an_action_that_raises_breaks_the_barrier():
    barrier = Barrier(2, action=lambda: 1 / 0)
    other = asleep(barrier.wait)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    with pytest.raises(BrokenBarrierError):
        other.result()
    barrier.reset()
    assert not barrier.broken


def test_who_runs_out_of_time_while_the_action_runs_passes_no_more_than_the_others():
    in_action, go_on = Event(), Event()

    def action():
        in_action.set()
        go_on.wait()

    barrier = Barrier(2, action=action)
    hasty = Background(barrier.wait, 0.05)
    while barrier.n_waiting < 1 and not barrier.broken:
        pass
    last = Background(barrier.wait)
    with pytest.raises(BrokenBarrierError):
        hasty.result()
    go_on.set()
    with pytest.raises(BrokenBarrierError):
        last.result()


def test_a_signal_takes_one_away_from_the_barrier():
    barrier = Barrier(2)
    with interruption_when_asleep(), pytest.raises(Interruption):
        barrier.wait()
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_a_cancelled_task_leaves_its_number_to_the_others():
    barrier = Barrier(3)

    async def main():
        tasks = [asyncio.create_task(barrier.await_()) for _ in range(2)]
        await turns()
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        return sorted(await asyncio.gather(tasks[1], barrier.await_(), barrier.await_()))

    assert asyncio.run(main()) == [0, 1, 2]
