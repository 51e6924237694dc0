"""RateLimiter: never faster than the rate, in order, and nobody waits for one who has given up."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from sleeping import Background, Interruption, forks, in_a_fork, interruption_when_asleep

from manyhands.sync import RateLimiter
from watching import eventually


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_threads_and_tasks_keep_the_rate_together():
    limiter, starts, begin = RateLimiter(500, burst=3), [], threading.Barrier(4)

    def thread():
        begin.wait(20)
        for _ in range(6):
            with limiter:
                starts.append(time.monotonic())

    async def task():
        for _ in range(3):
            async with limiter:
                starts.append(time.monotonic())

    async def tasks():
        await asyncio.gather(*(task() for _ in range(2)))

    def loop():
        begin.wait(20)
        run(tasks())

    began = time.monotonic()
    for worker in [Background(thread), Background(thread), Background(loop), Background(loop)]:
        worker.result()
    assert len(starts) == 24
    assert max(starts) - began >= (24 - 3) / 500
    assert limiter.waiting == 0


def test_an_even_rate_lets_nobody_pass_early():
    limiter = RateLimiter(10, per=0.05)
    began = time.monotonic()
    for number in range(5):
        assert limiter.acquire()
        assert time.monotonic() - began >= number * 0.005


def test_those_who_wait_pass_in_order():
    limiter, passed = RateLimiter("500/s"), []

    async def wait(number):
        await limiter.aacquire()
        passed.append(number)

    async def main():
        waiting = []
        for number in range(8):
            waiting.append(asyncio.create_task(wait(number)))
            await turns()
        await asyncio.gather(*waiting)

    run(main())
    assert passed == list(range(8))


def test_a_timeout_takes_nothing():
    limiter = RateLimiter(1, per=3600, burst=2)
    assert limiter.acquire()
    assert limiter.acquire(timeout=0)
    assert not limiter.acquire(timeout=0)
    assert not limiter.acquire(timeout=0.001)
    assert not limiter.try_acquire()
    assert limiter.waiting == 0


def test_those_behind_one_who_gives_up_move_up():
    limiter = RateLimiter(20)
    assert limiter.try_acquire()

    async def main():
        # The last one of these would be due after 50 s.
        waiting = [asyncio.create_task(limiter.aacquire()) for _ in range(1000)]
        await turns()
        for task in waiting[:-1]:
            task.cancel()
        assert await waiting[-1] is True
        await asyncio.wait(waiting)

    run(main())
    assert limiter.waiting == 0


def test_a_thread_that_runs_out_of_time_leaves_the_line():
    limiter = RateLimiter(1, per=3600)
    assert limiter.try_acquire()
    hasty = [Background(limiter.acquire, 0.01) for _ in range(3)]
    assert [thread.result() for thread in hasty] == [False] * 3
    assert limiter.waiting == 0


def test_a_coroutine_that_is_thrown_away_leaves_the_line():
    limiter = RateLimiter(1, per=3600)
    assert limiter.try_acquire()

    async def main():
        async def wait():
            await limiter.aacquire()

        coroutine = wait()
        coroutine.send(None)
        assert limiter.waiting == 1
        coroutine.close()
        assert limiter.waiting == 0

    run(main())


def test_a_signal_interrupts_the_wait_and_nothing_else():
    limiter = RateLimiter(1, per=3600)
    assert limiter.try_acquire()
    with interruption_when_asleep(), pytest.raises(Interruption):
        limiter.acquire()
    assert limiter.waiting == 0


def test_a_task_that_waits_for_ever_is_garbage_with_its_loop():
    limiter, loop = RateLimiter(1, per=3600), asyncio.new_event_loop()
    assert limiter.try_acquire()
    task = loop.create_task(limiter.aacquire())
    task._log_destroy_pending = False
    loop.run_until_complete(turns())
    loop.close()
    gone = [weakref.ref(thing) for thing in (limiter, loop, task)]
    del limiter, loop, task
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"rate": 10}, "10/s"),
        ({"rate": 10, "per": 60}, "10/m"),
        ({"rate": 2.5, "per": 2, "burst": 3}, "25/20s burst 3"),
        ({"rate": 1, "per": 0.25}, "1/250ms"),
        ({"rate": "6/m burst 2"}, "6/m burst 2"),
    ],
)
def test_a_rate_is_shown_as_it_is_read(arguments, shown):
    assert repr(RateLimiter(**arguments)) == f"RateLimiter('{shown}')"
    assert repr(RateLimiter(shown)) == f"RateLimiter('{shown}')"


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"rate": 0}, ValueError, "found 0"),
        ({"rate": float("nan")}, ValueError, "NaN"),
        ({"rate": 1, "per": 0}, ValueError, "`per`: found 0"),
        ({"rate": 1, "per": -1}, ValueError, "`per`: found -1"),
        ({"rate": 1.5, "per": 1e300}, OverflowError, "`per`"),
        ({"rate": 1, "burst": 0}, ValueError, "`burst`: found 0"),
        ({"rate": "ten/s"}, ValueError, "ten"),
        ({"rate": "1/s", "per": 2}, ValueError, "found a text and `per`"),
        ({"rate": None}, TypeError, "rate"),
    ],
)
def test_what_is_no_rate_is_refused(arguments, kind, said):
    with pytest.raises(kind, match=said):
        RateLimiter(**arguments)


@forks
def test_in_a_forked_child_those_who_waited_in_the_parent_are_forgotten():
    limiter, over = RateLimiter(1, per=3600), asyncio.Event()
    assert limiter.try_acquire()

    async def wait():
        waiting = asyncio.create_task(limiter.aacquire())
        await over.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    def use():
        assert limiter.waiting == 0
        assert not limiter.acquire(timeout=0.001)

    loop = asyncio.new_event_loop()
    parent = Background(loop.run_until_complete, wait())
    eventually(lambda: limiter.waiting == 1, "a task that waits")
    assert in_a_fork(use) == "ok"
    assert limiter.waiting == 1
    loop.call_soon_threadsafe(over.set)
    assert parent.result() is True
    loop.close()
