"""Cancelling: what can be cancelled, what it leaves behind, who is told."""

import concurrent.futures
import threading

import pytest

import manyhands as mh


def test_a_task_that_waits_for_a_worker_can_be_cancelled(model, gate):
    ran = []
    with model.make(workers=1) as pool, gate:
        pool.submit(model.wait_at(gate))
        gate.wait_for(1)
        pending = pool.submit(model.task(ran.append), 1)
        assert pending.cancel()
        assert pending.cancelled()
        assert pending.done()
        assert not pending.running()
        gate.open()
    assert ran == []


@pytest.fixture
def pending(model, gate):
    """The future of a task that waits behind another one."""
    with model.make(workers=1) as pool, gate:
        pool.submit(model.wait_at(gate))
        gate.wait_for(1)
        yield pool.submit(model.task(abs), -1)
        gate.open()


def test_cancelling_twice_is_one_cancellation(pending):
    calls = []
    pending.add_done_callback(calls.append)
    assert pending.cancel()
    assert pending.cancel()
    assert calls == [pending]


def test_a_cancelled_future_raises_cancelled_error(pending):
    pending.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        pending.result()
    with pytest.raises(mh.Cancelled):
        pending.exception()


def test_who_waits_for_a_task_learns_of_its_cancellation(pending):
    outcomes = []

    def wait():
        try:
            outcomes.append(pending.result())
        except concurrent.futures.CancelledError as error:
            outcomes.append(error)

    waiters = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    pending.cancel()
    for waiter in waiters:
        waiter.join()
    assert [type(outcome) for outcome in outcomes] == [concurrent.futures.CancelledError] * 3


def test_a_finished_task_cannot_be_cancelled(model):
    with model.make() as pool:
        future = pool.submit(model.task(abs), -1)
        future.result()
        assert not future.cancel()
        assert not future.cancelled()
        assert future.result() == 1


def test_a_function_that_runs_on_a_thread_is_not_cancelled_without_force(gate):
    with mh.ThreadExecutor() as pool, gate:
        future = pool.submit(gate.pass_through, 1)
        gate.wait_for(1)
        assert not future.cancel()
        assert future.running()
        gate.open()
        assert future.result() == 1


def test_a_coroutine_is_cancelled_while_it_runs(gate):
    ended = mh.Future()

    async def wait():
        try:
            await gate.pass_through_on_loop()
        except BaseException as error:
            ended.set_result(type(error).__name__)
            raise

    with mh.AsyncExecutor() as pool, gate:
        future = pool.submit(wait)
        gate.wait_for(1)
        assert future.cancel()
        assert future.cancelled()
        assert ended.result(timeout=30) == "CancelledError"


def test_a_function_on_a_thread_is_interrupted_by_force():
    began, ended = threading.Event(), mh.Future()

    def endless():
        began.set()
        try:
            while True:
                pass
        except BaseException as error:
            ended.set_result(type(error))
            raise

    with mh.ThreadExecutor(1) as pool:
        future = pool.submit(endless)
        began.wait()
        assert future.cancel(force=True)
        assert future.cancelled()
        assert ended.result(timeout=30) is mh.TaskInterrupted
        assert pool.submit(abs, -1).result(timeout=30) == 1


def test_force_frees_the_place_of_a_task_that_cannot_be_interrupted(gate):
    with mh.ThreadExecutor(1) as pool, gate:
        hung = pool.submit(gate.pass_through)
        gate.wait_for(1)
        following = pool.submit(abs, -1)
        assert hung.cancel(force=True)
        assert following.result(timeout=30) == 1
        gate.open()


def test_the_standard_wait_learns_that_a_running_task_was_cancelled(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        running = pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        seen = []
        waiting = threading.Thread(
            target=lambda: seen.append(concurrent.futures.wait([running], timeout=15).done)
        )
        waiting.start()
        assert running.cancel(force=True)
        waiting.join()
        # Before and after: the two learn of it by different ways.
        assert [*seen, concurrent.futures.wait([running], timeout=15).done] == [{running}, {running}]
        gate.open()


def test_force_on_a_task_that_has_not_begun_is_a_cancellation(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        pending = pool.submit(our_model.task(abs), -1)
        assert pending.cancel(force=True)
        assert pending.cancelled()
        gate.open()
        assert pool.statistics().interrupted == 0


def test_force_on_a_finished_task_is_refused(our_model):
    with our_model.make() as pool:
        future = pool.submit(our_model.task(abs), -1)
        future.result()
        assert not future.cancel(force=True)
        assert future.result() == 1


def test_except_exception_does_not_swallow_an_interruption():
    began, swallowed = threading.Event(), []

    def stubborn():
        while True:
            try:
                began.set()
                while True:
                    pass
            except Exception as error:
                swallowed.append(error)

    with mh.ThreadExecutor(1) as pool:
        future = pool.submit(stubborn)
        began.wait()
        future.cancel(force=True)
        assert pool.submit(abs, -1).result(timeout=30) == 1
    assert swallowed == []


def test_an_interruption_that_comes_too_late_hits_nothing_else(gate):
    """A function that returned before its interruption arrived takes it with it into its grave."""
    with mh.ThreadExecutor(1) as pool, gate:
        for number in range(200):
            future = pool.submit(gate.pass_through if number == -1 else abs, -number)
            future.cancel(force=True)
            assert pool.submit(abs, -number).result(timeout=30) == number


def test_a_cancelled_task_lets_go_of_its_arguments(model, gate):
    import gc
    import weakref

    class Argument:
        pass

    argument = Argument()
    alive = weakref.ref(argument)
    with model.make(workers=1) as pool, gate:
        pool.submit(model.wait_at(gate))
        gate.wait_for(1)
        pending = pool.submit(model.task(id), argument)
        del argument
        pending.cancel()
        if model.is_ours:
            gc.collect()
            assert alive() is None
        gate.open()
    gc.collect()
    assert alive() is None


def test_cancellation_is_counted(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        for future in [pool.submit(our_model.task(abs), -1) for _ in range(5)]:
            future.cancel()
        gate.open()
    figures = pool.statistics()
    assert (figures.submitted, figures.cancelled, figures.succeeded, figures.failed) == (6, 5, 1, 0)
