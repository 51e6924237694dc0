"""Futures and executors where the rest of the program is asyncio."""

import asyncio
import concurrent.futures
import contextvars
import threading

import pytest

import manyhands as mh


def test_a_future_can_be_awaited(our_model):
    async def main():
        with our_model.make() as pool:
            return await pool.submit(our_model.task(abs), -7)

    assert asyncio.run(main()) == 7


def test_a_settled_future_can_be_awaited():
    async def main():
        future = mh.Future()
        future.set_result(1)
        return await future

    assert asyncio.run(main()) == 1


def test_awaiting_a_failed_future_raises(our_model):
    async def main():
        with our_model.make() as pool, pytest.raises(ZeroDivisionError):
            await pool.submit(our_model.task(divmod), 1, 0)

    asyncio.run(main())


def test_awaiting_a_cancelled_future_raises_asyncios_error():
    async def main():
        future = mh.Future()
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


def test_the_loop_goes_on_while_a_future_is_awaited(gate):
    async def main():
        with mh.ThreadExecutor(1) as pool, gate:
            future = pool.submit(gate.pass_through, "through")
            asyncio.get_running_loop().call_soon(gate.open)
            return await future

    assert asyncio.run(main()) == "through"


def test_many_tasks_may_await_the_same_future():
    async def main():
        future = mh.Future()

        async def wait():
            return await future

        waiting = [asyncio.ensure_future(wait()) for _ in range(5)]
        await asyncio.sleep(0)
        future.set_result(3)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [3] * 5


def test_loops_of_several_threads_may_await_the_same_future():
    future, barrier, outcomes = mh.Future(), threading.Barrier(4), []

    async def main():
        barrier.wait()
        outcomes.append(await future)

    threads = [threading.Thread(target=asyncio.run, args=(main(),), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    future.set_result("all")
    for thread in threads:
        thread.join()
    assert outcomes == ["all"] * 3


def test_cancelling_who_awaits_cancels_the_future(gate):
    async def main():
        with mh.ThreadExecutor(1) as pool, gate:
            pool.submit(gate.pass_through)
            gate.wait_for(1)
            pending = pool.submit(abs, -1)

            async def wait():
                await pending

            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert pending.cancelled()
            gate.open()

    asyncio.run(main())


def test_asyncio_wait_for_gives_up_and_cancels(gate):
    async def main():
        with mh.AsyncExecutor() as pool, gate:
            future = pool.submit(gate.pass_through_on_loop)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(future, 0.05)
            assert future.cancelled()

    asyncio.run(main())


def test_asyncio_gather_takes_our_futures(our_model):
    async def main():
        with our_model.make() as pool:
            wrapped = [asyncio.wrap_future(pool.submit(our_model.task(abs), -n)) for n in range(5)]
            return await asyncio.gather(*wrapped)

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_wrap_future_carries_failure_and_cancellation(model, gate):
    async def main():
        with model.make(workers=1) as pool, gate:
            with pytest.raises(ZeroDivisionError):
                await asyncio.wrap_future(pool.submit(model.task(divmod), 1, 0))
            pool.submit(model.wait_at(gate))
            gate.wait_for(1)
            pending = pool.submit(model.task(abs), -1)
            wrapped = asyncio.wrap_future(pending)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped
            await asyncio.sleep(0)
            assert pending.cancelled()
            gate.open()

    asyncio.run(main())


def test_run_in_executor(gate):
    async def main():
        with mh.ThreadExecutor(2) as pool, gate:
            loop = asyncio.get_running_loop()
            held = loop.run_in_executor(pool, gate.pass_through, "held")
            assert await loop.run_in_executor(pool, divmod, 7, 2) == (3, 1)
            gate.open()
            return await held

    assert asyncio.run(main()) == "held"


def test_a_future_awaited_on_a_loop_of_an_executor(our_model):
    async def add_one(future):
        return await future + 1

    with our_model.make() as pool, mh.AsyncExecutor() as loops:
        assert loops.submit(add_one, pool.submit(our_model.task(abs), -1)).result() == 2


def test_a_gathered_future_can_be_awaited():
    async def main():
        with mh.ThreadExecutor(2) as pool:
            return await mh.gather(pool.submit(abs, -1), pool.submit(abs, -2))

    assert asyncio.run(main()) == [1, 2]


def test_an_async_executor_takes_what_a_coroutine_awaits():
    async def child(number):
        await asyncio.sleep(0)
        return number

    async def parent():
        results = await asyncio.gather(*(child(n) for n in range(10)))
        async with asyncio.Lock():
            results.append(await asyncio.wait_for(child(10), 30))
        return results

    with mh.AsyncExecutor() as pool:
        assert pool.submit(parent).result() == list(range(11))


def test_coroutines_run_at_the_same_time():
    """Every one of them waits for the last."""
    arrived, everybody = [], mh.Future()

    async def meet(number):
        arrived.append(number)
        if len(arrived) == 100:
            everybody.set_result(None)
        await asyncio.wait([asyncio.wrap_future(everybody)])
        return number

    with mh.AsyncExecutor(concurrency=100) as pool:
        futures = [pool.submit(meet, number) for number in range(100)]
        assert [future.result(timeout=30) for future in futures] == list(range(100))


def test_coroutines_are_spread_over_the_loops(gate):
    async def where():
        await gate.pass_through_on_loop()
        return id(asyncio.get_running_loop()), threading.current_thread().name

    with mh.AsyncExecutor(loops=3, concurrency=2, name="spread") as pool, gate:
        futures = [pool.submit(where) for _ in range(6)]
        gate.wait_for(6)
        gate.open()
        places = {future.result() for future in futures}
    assert len(places) == 3
    assert all(name.startswith("spread_") for _, name in places)


def test_a_loop_factory_makes_the_loops():
    made = []

    def factory():
        made.append(asyncio.new_event_loop())
        return made[-1]

    async def which():
        return asyncio.get_running_loop()

    with mh.AsyncExecutor(loop_factory=factory) as pool:
        assert pool.submit(which).result() is made[0]
    assert made[0].is_closed()


def test_a_task_group_of_asyncio_works_on_our_loops():
    if not hasattr(asyncio, "TaskGroup"):
        pytest.skip("asyncio.TaskGroup is new in Python 3.11")

    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        return [task.result() for task in tasks]

    with mh.AsyncExecutor() as pool:
        assert pool.submit(main).result() == [0, 1, 2]


def test_a_coroutine_that_cancels_itself_is_cancelled():
    async def give_up():
        raise asyncio.CancelledError

    with mh.AsyncExecutor() as pool:
        future = pool.submit(give_up)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(timeout=30)
        assert future.cancelled()


def test_a_coroutine_that_ignores_its_cancellation_cannot_change_its_outcome(gate):
    ended = mh.Future()

    async def stubborn():
        try:
            await gate.pass_through_on_loop()
        except asyncio.CancelledError:
            ended.set_result("refused")
            return "too late"

    with mh.AsyncExecutor() as pool, gate:
        future = pool.submit(stubborn)
        gate.wait_for(1)
        future.cancel()
        assert ended.result(timeout=30) == "refused"
    assert future.cancelled()


def test_the_submitters_context_is_seen_after_an_await():
    variable = contextvars.ContextVar("variable")

    async def read():
        before = variable.get()
        await asyncio.sleep(0)
        variable.set("changed")
        return before, variable.get()

    variable.set("submitter")
    with mh.AsyncExecutor() as pool:
        assert pool.submit(read).result() == ("submitter", "changed")
    assert variable.get() == "submitter"


def test_asyncio_knows_the_running_task():
    async def current():
        first = asyncio.current_task()
        await asyncio.sleep(0)
        return first is not None and first is asyncio.current_task()

    with mh.AsyncExecutor() as pool:
        assert pool.submit(current).result()


def test_async_generators_are_closed_when_the_executor_ends():
    closed = threading.Event()

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    kept = []

    async def begin():
        generator = numbers()
        kept.append(generator)
        return await generator.__anext__()

    with mh.AsyncExecutor() as pool:
        assert pool.submit(begin).result() == 1
    assert closed.is_set()
