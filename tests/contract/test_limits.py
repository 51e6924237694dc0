"""Time limits: a task that takes too long is stopped, and costs no capacity."""

import asyncio
import concurrent.futures
import pickle
import threading
import time

import pytest

import manyhands as mh


def spin():
    while True:
        pass


async def sleep_for_ever():
    await asyncio.sleep(3600)


def endless(our_model):
    return sleep_for_ever if our_model.is_async else spin


def test_a_task_that_takes_too_long_fails_at_its_limit(our_model):
    with our_model.make() as pool:
        began = time.monotonic()
        future = pool.with_policy(timeout=0.1).submit(endless(our_model))
        with pytest.raises(mh.TaskTimeout):
            future.result(timeout=30)
        assert 0.1 <= time.monotonic() - began < 5
    figures = pool.statistics()
    assert (figures.timed_out, figures.interrupted) == (1, 1)


def test_every_task_is_counted_once_whatever_became_of_it(our_model, gate):
    with our_model.make(workers=2) as pool, gate:
        outcomes = [pool.with_policy(timeout=0.05, retries=1, backoff=0).submit(endless(our_model))]
        outcomes += [pool.submit(our_model.task(abs), -1), pool.submit(our_model.task(divmod), 1, 0)]
        held = pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        held.cancel(force=True)
        mh.wait([*outcomes, held])
        for future in outcomes:
            future.exception()
    figures = pool.statistics()
    assert figures.submitted == 4
    assert (figures.succeeded, figures.failed, figures.cancelled) == (1, 2, 1)
    assert (figures.timed_out, figures.retried) == (2, 1)


def test_a_task_that_is_quick_enough_is_not_touched(our_model):
    with our_model.make() as pool:
        view = pool.with_policy(timeout=60)
        assert [view.submit(our_model.task(abs), -n).result() for n in range(100)] == list(range(100))
    assert pool.statistics().timed_out == 0


def test_the_message_names_the_task_and_the_limit(our_model):
    with our_model.make() as pool:
        function = endless(our_model)
        error = pool.with_policy(timeout=0.05).submit(function).exception(timeout=30)
    assert str(error).startswith(f"`{function.__name__}` ran longer than its limit of 0.05 s and was stopped")
    assert (error.task, error.limit, error.attempts) == (function.__name__, 0.05, 1)


def test_the_message_says_which_attempt_it_was(our_model):
    with our_model.make() as pool:
        view = pool.with_policy(timeout=0.05, retries=2, backoff=0)
        error = view.submit(endless(our_model)).exception(timeout=30)
    assert "limit of 0.05 s (attempt 3) and was stopped" in str(error)
    assert error.attempts == 3
    assert pool.statistics().timed_out == 3


def test_a_timeout_is_a_timeout_of_every_kind():
    error = mh.TaskTimeout("task", 1.5)
    for kind in (TimeoutError, concurrent.futures.TimeoutError, asyncio.TimeoutError, mh.ManyhandsError):
        assert isinstance(error, kind)


@pytest.mark.parametrize(
    "error",
    [
        mh.TaskTimeout("task", 1.5, 3),
        mh.ExecutorClosed("closed"),
        mh.BrokenInitializer("broken"),
        mh.WrongExecutor("x"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle_with_their_fields(error, protocol):
    error.hint = "do this"
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))
    assert copy.hint == "do this"


def test_the_hint_stands_on_a_line_of_its_own():
    error = mh.ExecutorClosed("could not submit")
    assert str(error) == "could not submit"
    error.hint = "try again"
    assert str(error) == "could not submit\nhint: try again"


def test_a_timed_out_attempt_is_repeated(our_model):
    attempts = []

    async def slow_once_on_loop():
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(3600)
        return "in the end"

    def slow_once():
        attempts.append(1)
        while len(attempts) == 1:
            pass
        return "in the end"

    with our_model.make() as pool:
        view = pool.with_policy(timeout=0.1, retries=1, backoff=0)
        assert (
            view.submit(slow_once_on_loop if our_model.is_async else slow_once).result(timeout=30)
            == "in the end"
        )
    figures = pool.statistics()
    assert (figures.timed_out, figures.retried, figures.succeeded, figures.failed) == (1, 1, 1, 0)


def test_a_timed_out_attempt_is_not_repeated_if_that_is_not_wanted(our_model):
    with our_model.make() as pool:
        view = pool.with_policy(timeout=0.05, retries=5, retry_on=ConnectionError)
        assert view.submit(endless(our_model)).exception(timeout=30).attempts == 1


def test_the_total_limit_counts_from_submission_over_all_attempts(our_model):
    def fail():
        raise OSError

    with our_model.make() as pool:
        began = time.monotonic()
        view = pool.with_policy(total_timeout=0.3, retries=1000, backoff=0.02, jitter=False, max_backoff=0.02)
        error = view.submit(our_model.task(fail)).exception(timeout=30)
        took = time.monotonic() - began
    assert isinstance(error, (OSError, mh.TaskTimeout))
    assert took < 5
    assert 2 <= pool.statistics().started <= 20


def test_the_total_limit_stops_an_attempt(our_model):
    with our_model.make() as pool:
        view = pool.with_policy(timeout=60, total_timeout=0.1)
        error = view.submit(endless(our_model)).exception(timeout=30)
    assert (error.limit, error.attempts) == (0.1, 1)


def test_a_thread_is_interrupted_at_its_next_bytecode_and_cleans_up():
    ended = mh.Future()

    def task():
        try:
            spin()
        finally:
            import sys

            ended.set_result(sys.exc_info()[0])

    with mh.ThreadExecutor(1) as pool:
        future = pool.with_policy(timeout=0.05).submit(task)
        assert isinstance(future.exception(timeout=30), mh.TaskTimeout)
        assert ended.result(timeout=30) is mh.TaskInterrupted


def test_hung_tasks_on_every_worker_do_not_stop_the_next_one(gate):
    with mh.ThreadExecutor(3) as pool, gate:
        hasty = pool.with_policy(timeout=0.05)
        hung = [hasty.submit(gate.pass_through) for _ in range(6)]
        following = pool.submit(abs, -1)
        assert following.result(timeout=30) == 1
        assert {type(future.exception(timeout=30)) for future in hung} == {mh.TaskTimeout}
        # All of the six still hang in their threads, and three tasks at once can run.
        barrier = threading.Barrier(3)
        assert sorted(
            future.result(timeout=30) for future in [pool.submit(barrier.wait) for _ in range(3)]
        ) == [0, 1, 2]


def test_hung_coroutines_on_every_place_do_not_stop_the_next_one():
    async def quick():
        return "through"

    with mh.AsyncExecutor(concurrency=3) as pool:
        hung = [pool.with_policy(timeout=0.05).submit(sleep_for_ever) for _ in range(6)]
        assert pool.submit(quick).result(timeout=30) == "through"
        assert {type(future.exception(timeout=30)) for future in hung} == {mh.TaskTimeout}


def test_shutdown_does_not_wait_for_what_hangs(gate):
    pool = mh.ThreadExecutor(1)
    with gate:
        future = pool.with_policy(timeout=0.05).submit(gate.pass_through)
        assert isinstance(future.exception(timeout=30), mh.TaskTimeout)
        pool.shutdown(wait=True)


def test_what_a_hung_function_returns_in_the_end_is_nobodys_outcome(gate):
    with mh.ThreadExecutor(1) as pool, gate:
        future = pool.with_policy(timeout=0.05).submit(gate.pass_through, "too late")
        error = future.exception(timeout=30)
        gate.open()
        pool.submit(abs, -1).result(timeout=30)
        assert future.exception() is error
    assert pool.statistics().succeeded == 1


def test_a_coroutine_sees_its_cancellation_at_the_limit():
    ended = mh.Future()

    async def task():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise

    with mh.AsyncExecutor() as pool:
        future = pool.with_policy(timeout=0.05).submit(task)
        assert isinstance(future.exception(timeout=30), mh.TaskTimeout)
        assert ended.result(timeout=30) == "cancelled"


def test_an_attempt_that_is_still_cleaning_up_does_not_end_the_next_one():
    second_began, first_ended = mh.Future(), mh.Future()

    async def task():
        if not first_began:
            first_began.append(True)
            try:
                await asyncio.sleep(3600)
            finally:
                await second_began
                first_ended.set_result(None)
        second_began.set_result(None)
        await first_ended
        await asyncio.sleep(0)
        return "second"

    first_began = []
    with mh.AsyncExecutor() as pool:
        future = pool.with_policy(timeout=1, retries=1, backoff=0).submit(task)
        assert future.result(timeout=30) == "second"


def test_a_coroutine_that_fails_while_it_is_stopped_keeps_its_timeout():
    async def task():
        try:
            await asyncio.sleep(3600)
        finally:
            raise LookupError("while cleaning up")

    with mh.AsyncExecutor() as pool:
        error = pool.with_policy(timeout=0.05).submit(task).exception(timeout=30)
    assert isinstance(error, mh.TaskTimeout)


def test_a_limit_may_be_shorter_than_anything(our_model):
    with our_model.make() as pool:
        view = pool.with_policy(timeout=1e-6)
        for _ in range(20):
            assert isinstance(view.submit(endless(our_model)).exception(timeout=30), mh.TaskTimeout)
        assert pool.submit(our_model.task(abs), -1).result(timeout=30) == 1


def test_a_limit_runs_from_the_start_of_an_attempt_not_from_submission(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        waiting = pool.with_policy(timeout=0.1).submit(our_model.task(abs), -1)
        time.sleep(0.2)
        assert not waiting.done()
        gate.open()
        assert waiting.result(timeout=30) == 1
