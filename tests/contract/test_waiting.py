"""Waiting for several futures: ours, the standard library's, mixed; with its functions and with ours."""

import asyncio
import concurrent.futures
import threading
import time

import pytest

import manyhands as mh


@pytest.fixture(params=["ours", "standard"])
def waits(request):
    """`wait` and `as_completed` of either library."""
    return mh if request.param == "ours" else concurrent.futures


def settled(value=None, error=None, kind=mh.Future):
    future = kind()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


def test_wait_for_all(model, waits):
    with model.make() as pool:
        futures = [pool.submit(model.task(abs), -n) for n in range(50)]
        done, not_done = waits.wait(futures)
    assert done == set(futures)
    assert not_done == set()


def test_wait_for_nothing(waits):
    assert waits.wait([]) == (set(), set())


def test_the_result_of_wait_has_names(waits):
    future = settled(1)
    waited = waits.wait([future])
    assert waited.done == {future}
    assert waited.not_done == set()


def test_wait_for_the_first(model, waits, gate):
    with model.make() as pool, gate:
        held = pool.submit(model.wait_at(gate))
        quick = pool.submit(model.task(abs), -1)
        done, not_done = waits.wait([held, quick], return_when=concurrent.futures.FIRST_COMPLETED)
        assert quick in done
        assert held in not_done
        gate.open()


def test_wait_for_the_first_failure(model, waits, gate):
    with model.make() as pool, gate:
        held = pool.submit(model.wait_at(gate))
        fine = pool.submit(model.task(abs), -1)
        failing = pool.submit(model.task(divmod), 1, 0)
        fine.result()
        done, not_done = waits.wait([held, fine, failing], return_when=concurrent.futures.FIRST_EXCEPTION)
        assert failing in done
        assert not_done == {held}
        gate.open()
        assert failing.exception()


def test_wait_for_the_first_failure_waits_for_all_if_there_is_none(model, waits):
    with model.make() as pool:
        futures = [pool.submit(model.task(abs), -n) for n in range(10)]
        done, _ = waits.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert done == set(futures)


def test_wait_gives_up_in_time(model, waits, gate):
    with model.make() as pool, gate:
        held, quick = pool.submit(model.wait_at(gate)), pool.submit(model.task(abs), -1)
        quick.result()
        began = time.monotonic()
        done, not_done = waits.wait([held, quick], timeout=0.1)
        took = time.monotonic() - began
        gate.open()
    assert (done, not_done) == ({quick}, {held})
    assert 0.1 <= took < 5


def test_duplicates_count_once(model, waits):
    with model.make() as pool:
        future = pool.submit(model.task(abs), -1)
        assert waits.wait([future, future]).done == {future}
        assert list(waits.as_completed([future, future, future])) == [future]


def test_wait_takes_any_iterable(model, waits):
    with model.make() as pool:
        assert len(waits.wait(pool.submit(model.task(abs), -n) for n in range(5)).done) == 5


def test_a_nonsensical_condition_is_refused():
    with pytest.raises(ValueError, match="FIRST_COMPLETED"):
        mh.wait([], return_when="SOME_COMPLETED")
    with pytest.raises(ValueError, match="SOME_COMPLETED"):
        mh.wait([mh.Future()], return_when="SOME_COMPLETED")


def test_what_is_no_future_is_refused():
    for function in (mh.wait, mh.as_completed):
        with pytest.raises(TypeError, match="expected a future"):
            function([42])
    with pytest.raises(TypeError, match="expected a future"):
        mh.gather(42)


@pytest.mark.parametrize("function", [mh.gather, mh.race])
def test_futures_in_a_list_are_refused_with_a_hint(function):
    name = function.__name__
    with pytest.raises(TypeError, match=rf"could not {name}: found a list(.|\n)*hint: {name}\(\*futures\)"):
        function([mh.Future()])


def test_futures_of_asyncio_are_refused_with_a_hint():
    async def main():
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError, match="asyncio"):
            mh.wait([future])
        with pytest.raises(TypeError, match="asyncio"):
            mh.gather(future)

    asyncio.run(main())


def test_futures_of_both_libraries_mixed(waits):
    with mh.ThreadExecutor(2) as ours, concurrent.futures.ThreadPoolExecutor(2) as theirs:
        futures = [pool.submit(abs, -n) for n in range(20) for pool in (ours, theirs)]
        assert waits.wait(futures).done == set(futures)
        assert set(waits.as_completed(futures)) == set(futures)


def test_as_completed_yields_in_the_order_of_completion(waits):
    futures = [mh.Future() for _ in range(5)]
    order = [3, 0, 4, 1, 2]
    completed = waits.as_completed(futures, timeout=30)
    for position in order:
        futures[position].set_result(position)
        assert next(completed) is futures[position]
    assert list(completed) == []


def test_as_completed_yields_what_is_settled_already(waits):
    futures = [settled(1), settled(error=OSError()), settled(2, kind=concurrent.futures.Future)]
    assert set(waits.as_completed(futures)) == set(futures)
    futures[1].exception()


def test_as_completed_gives_up_in_time_and_says_how_many_are_missing(waits):
    futures = [settled(1), mh.Future(), mh.Future()]
    completed = waits.as_completed(futures, timeout=0.05)
    assert next(completed) is futures[0]
    with pytest.raises(concurrent.futures.TimeoutError, match=r"2 \(of 3\) futures unfinished"):
        next(completed)


def test_as_completed_under_async_for(our_model):
    async def main():
        with our_model.make() as pool:
            futures = [pool.submit(our_model.task(abs), -n) for n in range(50)]
            seen = [future async for future in mh.as_completed(futures)]
        return futures, seen

    futures, seen = asyncio.run(main())
    assert set(seen) == set(futures)
    assert len(seen) == 50


def test_as_completed_under_async_for_lets_the_loop_run(gate):
    async def main():
        with mh.ThreadExecutor(1) as pool, gate:
            future = pool.submit(gate.pass_through, "through")
            asyncio.get_running_loop().call_soon(gate.open)
            return [done.result() async for done in mh.as_completed([future])]

    assert asyncio.run(main()) == ["through"]


def test_as_completed_under_async_for_gives_up_in_time():
    async def main():
        futures, seen = [settled(1), mh.Future()], []
        with pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 2\)"):
            async for future in mh.as_completed(futures, timeout=0.05):
                seen.append(future)
        assert seen == futures[:1]

    asyncio.run(main())


def test_a_cancelled_future_is_done_for_our_wait(gate):
    with mh.ThreadExecutor(1) as pool, gate:
        pool.submit(gate.pass_through)
        gate.wait_for(1)
        pending = pool.submit(abs, -1)
        pending.cancel()
        assert mh.wait([pending], timeout=0).done == {pending}
        assert list(mh.as_completed([pending], timeout=0)) == [pending]
        gate.open()


def test_gather_gives_all_values_in_order(model):
    with model.make() as pool:
        gathered = mh.gather(*(pool.submit(model.task(abs), -n) for n in range(20)))
        assert gathered.result() == list(range(20))
    assert mh.gather().result() == []


def test_the_first_failure_fails_the_gathered(model, gate):
    with model.make() as pool, gate:
        held = pool.submit(model.wait_at(gate), "went on")
        gathered = mh.gather(held, pool.submit(model.task(divmod), 1, 0))
        with pytest.raises(ZeroDivisionError):
            gathered.result(timeout=30)
        assert not held.done()
        gate.open()
        assert held.result() == "went on"


def test_gather_gives_exceptions_as_values_if_asked(model):
    with model.make() as pool:
        one = pool.submit(model.task(abs), -1)
        bad = pool.submit(model.task(divmod), 1, 0)
        value, error = mh.gather(one, bad, return_exceptions=True).result()
    assert value == 1
    assert isinstance(error, ZeroDivisionError)


def test_the_same_future_may_be_gathered_twice():
    future = mh.Future()
    gathered = mh.gather(future, future)
    future.set_result(1)
    assert gathered.result(timeout=0) == [1, 1]


def test_cancelling_the_gathered_cancels_its_members(gate):
    with mh.AsyncExecutor() as pool, gate:
        members = [pool.submit(gate.pass_through_on_loop) for _ in range(3)]
        gathered = mh.gather(*members)
        gate.wait_for(3)
        assert gathered.cancel()
        assert all(member.cancelled() for member in members)


def test_a_cancelled_member_fails_the_gathered(gate):
    with mh.ThreadExecutor(1) as pool, gate:
        running = pool.submit(gate.pass_through)
        gate.wait_for(1)
        pending = pool.submit(abs, -1)
        gathered = mh.gather(running, pending)
        pending.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            gathered.result(timeout=30)
        gate.open()


def test_gather_of_futures_of_both_libraries():
    with mh.ThreadExecutor(2) as ours, concurrent.futures.ThreadPoolExecutor(2) as theirs:
        assert mh.gather(ours.submit(abs, -1), theirs.submit(abs, -2)).result() == [1, 2]


def test_a_failed_member_of_a_gather_was_looked_at(collected_warnings):
    with mh.ThreadExecutor(2) as pool:
        gathered = mh.gather(pool.submit(divmod, 1, 0), pool.submit(divmod, 2, 0))
        with pytest.raises(ZeroDivisionError):
            gathered.result()
    del gathered
    assert collected_warnings() == []


def test_the_first_success_wins_the_race(gate):
    with mh.AsyncExecutor() as pool, gate:

        async def fail():
            raise OSError

        async def win():
            await failed
            return "won"

        failed = mh.Future()
        slow = pool.submit(gate.pass_through_on_loop)
        failing = pool.submit(fail)
        winning = pool.submit(win)
        race = mh.race(slow, failing, winning)
        mh.wait([failing])
        failed.set_result(None)
        assert race.result(timeout=30) == "won"
        mh.wait([slow], timeout=30)
        assert slow.cancelled()


def test_a_race_cancels_what_has_not_begun(gate):
    with mh.ThreadExecutor(1) as pool, gate:
        running = pool.submit(gate.pass_through, "first")
        gate.wait_for(1)
        pending = [pool.submit(abs, -1) for _ in range(3)]
        race = mh.race(running, *pending)
        gate.open()
        assert race.result(timeout=30) == "first"
        mh.wait(pending)
        assert running.result() == "first"


def test_a_race_that_nobody_wins_fails_with_all_the_reasons(model):
    with model.make() as pool:
        race = mh.race(*(pool.submit(model.task(divmod), n, 0) for n in range(3)))
        with pytest.raises(Exception, match="every future of the race failed") as caught:
            race.result(timeout=30)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError] * 3


def test_a_race_without_runners_is_refused():
    with pytest.raises(ValueError, match="no futures"):
        mh.race()


@pytest.mark.parametrize("function", [mh.gather, mh.race])
def test_what_takes_too_long_fails_with_task_timeout_and_is_cancelled(function, gate):
    with mh.AsyncExecutor() as pool, gate:
        members = [pool.submit(gate.pass_through_on_loop) for _ in range(2)]
        began = time.monotonic()
        with pytest.raises(mh.TaskTimeout, match=r"0\.1 s") as caught:
            function(*members, timeout=0.1).result(timeout=30)
        assert 0.1 <= time.monotonic() - began < 5
        assert caught.value.task == function.__name__
        mh.wait(members, timeout=30)
        assert all(member.cancelled() for member in members)


@pytest.mark.parametrize("function", [mh.gather, mh.race])
def test_a_timeout_that_is_not_reached_changes_nothing(function):
    with mh.ThreadExecutor(2) as pool:
        outcome = function(pool.submit(abs, -1), timeout=30).result()
    assert outcome in ([1], 1)


def test_many_threads_may_wait_for_the_same_future():
    future = mh.Future()
    barrier = threading.Barrier(9)
    outcomes = []

    def wait(number):
        barrier.wait()
        kinds = [
            future.result,
            lambda: mh.wait([future]).done.pop().result(),
            lambda: next(mh.as_completed([future])).result(),
            lambda: concurrent.futures.wait([future]).done.pop().result(),
        ]
        outcomes.append(kinds[number % 4]())

    threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait()
    future.set_result("for all")
    for thread in threads:
        thread.join()
    assert outcomes == ["for all"] * 8
