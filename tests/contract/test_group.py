"""Task groups: nothing outlives the block, the first failure ends the rest."""

import asyncio
import sys
import threading
import time

import pytest

import manyhands as mh

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def test_leaving_the_block_waits_for_all(our_model, gate):
    with our_model.make() as pool, gate:
        with mh.TaskGroup(on=pool) as group:
            futures = [group.submit(our_model.wait_at(gate), n) for n in range(3)]
            gate.wait_for(3)
            gate.open()
        assert [future.result(timeout=0) for future in futures] == [0, 1, 2]


@pytest.mark.parametrize("on", ["thread", "async"])
def test_a_group_makes_and_ends_its_own_executor(on):
    async def double_on_loop(number):
        return 2 * number

    def double(number):
        return 2 * number

    with mh.TaskGroup(on=on) as group:
        futures = [group.submit(double if on == "thread" else double_on_loop, n) for n in range(5)]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("on", ["thread", "process"])
def test_an_async_function_runs_on_an_event_loop_whatever_the_name_of_the_model(on):
    async def double_on_loop(number):
        await asyncio.sleep(0)
        return 2 * number

    with mh.TaskGroup(on, workers=2) as group:
        futures = [group.submit(double_on_loop, 1), group.submit(pow, 2, 3), group.submit(double_on_loop, 2)]
    assert [future.result() for future in futures] == [2, 8, 4]


def test_a_failure_on_a_thread_cancels_what_is_on_the_groups_event_loop():
    async def sleep_for_ever():
        await asyncio.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught, mh.TaskGroup() as group:
        sleeping = group.submit(sleep_for_ever)
        group.submit(int, "x")
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert sleeping.cancelled()


def test_in_an_executor_that_is_given_every_function_must_fit():
    async def work():
        pass

    with mh.ThreadExecutor(1) as pool, pytest.raises(ExceptionGroup) as caught, mh.TaskGroup(pool) as group:
        group.submit(work)
    assert [type(error) for error in caught.value.exceptions] == [mh.WrongExecutor]


def test_an_empty_group():
    with mh.TaskGroup():
        pass


def test_failures_arrive_as_a_group(our_model):
    meeting = threading.Barrier(2)

    def fail(error):
        meeting.wait()
        raise error

    if our_model.is_async:
        pytest.skip("coroutines of one loop do not fail at the same time")
    with pytest.raises(ExceptionGroup) as caught, mh.TaskGroup(workers=2) as group:
        group.submit(fail, OSError("one"))
        group.submit(fail, LookupError("two"))
    kinds = {type(error) for error in caught.value.exceptions}
    assert kinds <= {OSError, LookupError}
    assert kinds


def test_the_first_failure_cancels_what_has_not_begun(our_model, gate):
    ran = []
    with our_model.make(workers=1) as pool, gate:
        with pytest.raises(ExceptionGroup) as caught, mh.TaskGroup(on=pool) as group:
            group.submit(our_model.wait_at(gate))
            gate.wait_for(1)
            group.submit(our_model.task(divmod), 1, 0)
            pending = [group.submit(our_model.task(ran.append), n) for n in range(5)]
            gate.open()
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert all(future.cancelled() for future in pending)
    assert ran == []


@pytest.mark.parametrize("on", ["thread", "async"])
def test_the_first_failure_stops_what_is_running(on):
    began, ended = threading.Event(), threading.Event()

    def spin():
        began.set()
        try:
            while True:
                pass
        finally:
            ended.set()

    async def sleep():
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    def fail():
        began.wait()
        raise OSError

    async def fail_on_loop():
        raise OSError

    with pytest.raises(ExceptionGroup), mh.TaskGroup(on=on, workers=2) as group:
        running = group.submit(spin if on == "thread" else sleep)
        began.wait()
        group.submit(fail if on == "thread" else fail_on_loop)
    assert running.cancelled()
    assert ended.wait(30)


def test_a_group_that_was_cancelled_takes_no_more(our_model):
    with our_model.make() as pool:
        with mh.TaskGroup(on=pool) as group:
            group.cancel()
            late = group.submit(our_model.task(abs), -1)
        assert late.cancelled()


def test_a_task_that_comes_in_while_the_group_is_being_cancelled_is_cancelled_too(gate):
    class Slow(mh.ThreadExecutor):
        """Lets the group be cancelled between taking a task and returning its future."""

        def submit(self, *args, **kwargs):
            future = super().submit(*args, **kwargs)
            if group_holder:
                group_holder.pop().cancel()
            return future

    group_holder = []
    with Slow(2) as pool, gate, mh.TaskGroup(on=pool) as group:
        group_holder.append(group)
        late = group.submit(gate.pass_through)
        assert late.cancelled()


def test_an_error_of_the_body_cancels_the_tasks_and_arrives_in_a_group(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        with pytest.raises(ExceptionGroup) as caught, mh.TaskGroup(on=pool) as group:
            running = group.submit(our_model.wait_at(gate))
            gate.wait_for(1)
            pending = group.submit(our_model.task(abs), -1)
            raise LookupError("in the body")
        assert [str(error) for error in caught.value.exceptions] == ["in the body"]
        assert running.cancelled()
        assert pending.cancelled()


def test_a_failure_that_the_body_asked_for_arrives_once(our_model):
    with our_model.make() as pool, pytest.raises(ExceptionGroup) as caught:  # noqa: SIM117
        with mh.TaskGroup(on=pool) as group:
            group.submit(our_model.task(divmod), 1, 0).result()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


def test_a_body_that_waits_for_a_task_that_was_cancelled_has_no_error_of_its_own(our_model, gate):
    with our_model.make(workers=2) as pool, gate, pytest.raises(ExceptionGroup) as caught:  # noqa: SIM117
        with mh.TaskGroup(on=pool) as group:
            held = group.submit(our_model.wait_at(gate))
            group.submit(our_model.task(divmod), 1, 0)
            held.result()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


def test_an_error_of_the_body_and_failures_arrive_together(our_model):
    with our_model.make() as pool, pytest.raises(ExceptionGroup) as caught:  # noqa: SIM117
        with mh.TaskGroup(on=pool) as group:
            failing = group.submit(our_model.task(divmod), 1, 0)
            mh.wait([failing])
            raise LookupError("in the body")
    assert [type(error) for error in caught.value.exceptions] == [LookupError, ZeroDivisionError]


def test_what_is_no_failure_goes_through_as_it_is(our_model, gate):
    with our_model.make() as pool, gate:
        with pytest.raises(KeyboardInterrupt), mh.TaskGroup(on=pool) as group:
            running = group.submit(our_model.wait_at(gate))
            raise KeyboardInterrupt
        assert running.cancelled()


def test_a_task_that_ends_the_program_arrives_in_a_base_group():
    def leave():
        raise SystemExit(3)

    with pytest.raises(BaseExceptionGroup) as caught, mh.TaskGroup() as group:
        group.submit(leave)
    assert not isinstance(caught.value, ExceptionGroup)
    assert isinstance(caught.value.exceptions[0], SystemExit)


def test_cancelled_tasks_are_no_errors(our_model, gate):
    with our_model.make(workers=1) as pool, gate, mh.TaskGroup(on=pool) as group:
        group.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        pending = group.submit(our_model.task(abs), -1)
        assert pending.cancel()
        gate.open()


def test_tasks_may_submit_further_ones(our_model):
    seen = []
    with our_model.make(workers=2) as pool, mh.TaskGroup(on=pool) as group:

        def descend(depth):
            seen.append(depth)
            if depth:
                group.submit(our_model.task(descend), depth - 1)
                group.submit(our_model.task(descend), depth - 1)

        group.submit(our_model.task(descend), 5)
    assert len(seen) == 2**6 - 1


def test_submit_outside_the_block_is_an_error():
    group = mh.TaskGroup()
    with pytest.raises(RuntimeError, match="within its `with` block"):
        group.submit(abs, -1)
    with group:
        pass
    with pytest.raises(RuntimeError, match="within its `with` block"):
        group.submit(abs, -1)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"on": "moon"}, "moon"), ({"workers": 0}, "workers"), ({"on": "async", "workers": 0}, "concurrency")],
    ids=repr,
)
def test_nonsense_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        mh.TaskGroup(**options)


def test_an_executor_and_workers_together_are_refused():
    with mh.ThreadExecutor() as pool, pytest.raises(ValueError, match="workers"):
        mh.TaskGroup(on=pool, workers=2)


def test_an_executor_of_ones_own_is_left_open(our_model):
    with our_model.make() as pool:
        with mh.TaskGroup(on=pool) as group:
            group.submit(our_model.task(abs), -1)
        assert pool.submit(our_model.task(abs), -2).result() == 2


def test_a_group_on_a_policy(our_model):
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise OSError
        return "in the end"

    with our_model.make() as pool, mh.TaskGroup(on=pool.with_policy(retries=3, backoff=0)) as group:
        future = group.submit(our_model.task(flaky))
    assert future.result() == "in the end"


def test_async_with_lets_the_loop_run(gate):
    async def main():
        async with mh.TaskGroup() as group:
            future = group.submit(gate.pass_through, "through")
            asyncio.get_running_loop().call_soon(gate.open)
        return future.result(timeout=0)

    assert asyncio.run(main()) == "through"


def test_failures_arrive_in_async_with(our_model):
    async def main():
        with our_model.make() as pool:
            async with mh.TaskGroup(on=pool) as group:
                group.submit(our_model.task(divmod), 1, 0)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


def test_cancelling_async_with_cancels_the_tasks(gate):
    async def main():
        futures = []

        async def block():
            async with mh.TaskGroup(on="async") as group:
                futures.append(group.submit(gate.pass_through_on_loop))

        blocked = asyncio.ensure_future(block())
        while not futures:
            await asyncio.sleep(0)
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        return futures[0].cancelled()

    assert asyncio.run(main())


def test_leaving_the_block_does_not_wait_for_what_cannot_be_stopped(gate):
    began = time.monotonic()
    with gate, pytest.raises(ExceptionGroup), mh.TaskGroup(workers=2) as group:
        group.submit(gate.pass_through)
        gate.wait_for(1)
        group.submit(divmod, 1, 0)
    assert time.monotonic() - began < 10
