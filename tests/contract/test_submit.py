"""What a task's future says and does, from its submission to its outcome."""

import concurrent.futures
import pickle
import threading
import time
import traceback

import pytest

import manyhands as mh


def test_a_task_returns_its_value(model):
    with model.make() as pool:
        assert pool.submit(model.task(divmod), 17, 5).result() == (3, 2)


def test_positional_and_keyword_arguments_arrive(model):
    def gather(*args, **kwargs):
        return args, kwargs

    with model.make() as pool:
        future = pool.submit(model.task(gather), 1, 2, self=3, fn=4, function=5)
        assert future.result() == ((1, 2), {"self": 3, "fn": 4, "function": 5})


def test_a_task_without_a_function_is_a_type_error(model):
    with model.make() as pool, pytest.raises(TypeError):
        pool.submit()


def test_the_exception_is_the_one_that_was_raised(model):
    raised = LookupError("no such thing")

    def fail():
        raise raised

    with model.make() as pool:
        future = pool.submit(model.task(fail))
        assert future.exception() is raised
        with pytest.raises(LookupError) as caught:
            future.result()
        assert caught.value is raised


def test_an_exception_keeps_the_traceback_of_the_task(model):
    def innermost():
        raise ValueError("here")

    def outer():
        innermost()

    with model.make() as pool:
        error = pool.submit(model.task(outer)).exception()
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["outer", "innermost"]


def test_the_traceback_of_a_failure_does_not_grow_with_every_look(model):
    with model.make() as pool:
        future = pool.submit(model.task(divmod), 1, 0)

        def depth():
            with pytest.raises(ZeroDivisionError) as caught:
                future.result()
            return len(traceback.extract_tb(caught.value.__traceback__))

        depth()
        first, second = depth(), depth()
    assert second - first <= 3


def test_what_is_no_exception_but_ends_a_program_does_not_end_the_worker(model):
    def leave():
        raise SystemExit(3)

    with model.make(workers=1) as pool:
        assert isinstance(pool.submit(model.task(leave)).exception(), SystemExit)
        assert pool.submit(model.task(abs), -1).result() == 1


def test_a_future_is_running_while_its_task_runs(model, gate):
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate), "done")
        gate.wait_for(1)
        assert future.running()
        assert not future.done()
        gate.open()
        assert future.result() == "done"
        assert future.done()
        assert not future.running()


def test_a_task_that_waits_for_a_worker_is_pending(model, gate):
    with model.make(workers=1) as pool, gate:
        first, second = (pool.submit(model.wait_at(gate), n) for n in range(2))
        gate.wait_for(1)
        assert first.running()
        assert not second.running()
        assert not second.done()
        gate.open()
        assert [first.result(), second.result()] == [0, 1]


def test_giving_up_waiting_leaves_the_task_running(model, gate):
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate), "in the end")
        gate.wait_for(1)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=0)
        gate.open()
        assert future.result(timeout=30) == "in the end"
        assert future.exception(timeout=0) is None


@pytest.mark.parametrize("timeout", [-1, 0, 0.0, 1e-9])
def test_the_shortest_timeouts_do_not_wait(model, gate, timeout):
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate))
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout)
        gate.open()


def test_the_longest_timeouts_are_no_error(model):
    with model.make() as pool:
        assert pool.submit(model.task(abs), -1).result(1e6) == 1


def test_no_number_is_no_timeout(our_model):
    with our_model.make() as pool:
        future = pool.submit(our_model.task(abs), -1)
        future.result()
        waiting = mh.Future()
        with pytest.raises(ValueError, match="NaN"):
            waiting.result(float("nan"))


def test_more_tasks_than_workers_all_run_once(model):
    seen = []
    with model.make(workers=3) as pool:
        futures = [pool.submit(model.task(seen.append), number) for number in range(500)]
        concurrent.futures.wait(futures)
    assert sorted(seen) == list(range(500))


def test_one_worker_runs_tasks_in_the_order_of_submission(model):
    seen = []
    with model.make(workers=1) as pool:
        for number in range(200):
            pool.submit(model.task(seen.append), number)
    assert seen == list(range(200))


def test_no_more_tasks_run_at_once_than_there_are_workers(model, gate):
    with model.make(workers=3) as pool, gate:
        futures = [pool.submit(model.wait_at(gate)) for _ in range(10)]
        gate.wait_for(3)
        assert not gate.arrivals.acquire(timeout=0.05)
        assert sum(future.running() for future in futures) == 3
        gate.open()


def test_a_task_may_submit_another(model):
    with model.make() as pool:

        def outer():
            return pool.submit(model.task(abs), -7)

        assert pool.submit(model.task(outer)).result().result() == 7


def test_futures_are_those_of_the_standard_library(our_model):
    with our_model.make() as pool:
        future = pool.submit(our_model.task(abs), -1)
        assert isinstance(future, concurrent.futures.Future)
        assert type(future) is mh.Future
        assert isinstance(pool, concurrent.futures.Executor)
        assert isinstance(pool, mh.Executor)


def test_futures_are_hashable_and_equal_only_to_themselves(model):
    with model.make() as pool:
        one, other = (pool.submit(model.task(abs), -1) for _ in range(2))
        assert one == one
        assert one != other
        assert len({one, other, one}) == 2


@pytest.mark.parametrize("make", ["future", "executor"])
def test_what_cannot_be_pickled_says_so(model, make):
    with model.make() as pool:
        what = pool.submit(model.task(abs), -1) if make == "future" else pool
        with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
            pickle.dumps(what)


def test_the_repr_says_how_far_a_task_is(model, gate):
    with model.make(workers=1) as pool, gate:
        running = pool.submit(model.wait_at(gate), 1)
        pending = pool.submit(model.task(divmod), 1, 0)
        gate.wait_for(1)
        assert "state=running" in repr(running)
        assert "state=pending" in repr(pending)
        gate.open()
        pending.exception()
        assert "state=finished raised ZeroDivisionError" in repr(pending)
        assert "state=finished returned int" in repr(running)


def test_a_plain_function_is_refused_by_an_executor_of_coroutines():
    with mh.AsyncExecutor() as pool:
        with pytest.raises(mh.WrongExecutor, match="`abs`") as caught:
            pool.submit(abs, -1)
        assert "ThreadExecutor" in caught.value.hint
        with pytest.raises(mh.WrongExecutor):
            pool.map(abs, [-1])


def test_a_coroutine_function_is_refused_by_threads():
    async def double(number):
        return 2 * number

    with mh.ThreadExecutor() as pool:
        error = pool.submit(double, 21).exception()
    assert isinstance(error, mh.WrongExecutor)
    assert isinstance(error, TypeError)
    assert "AsyncExecutor" in error.hint


def test_what_makes_a_coroutine_is_a_coroutine_function():
    import functools

    class Service:
        async def __call__(self, number):
            return number + 1

        async def method(self, number):
            return number + 2

    async def add(one, other):
        return one + other

    with mh.AsyncExecutor() as pool:
        assert pool.submit(Service(), 1).result() == 2
        assert pool.submit(Service().method, 1).result() == 3
        assert pool.submit(functools.partial(add, 1), 1).result() == 2


def test_other_threads_get_their_turn_beside_endless_tasks():
    is_over = threading.Event()

    def go_on():
        if not is_over.is_set():
            pool.submit(go_on)

    with mh.ThreadExecutor(1) as pool:
        pool.submit(go_on)
        # Each gives the interpreter up for a moment, and needs it back: far too often for whoever starves.
        for _ in range(300):
            time.sleep(0)
        is_over.set()
        pool.submit(int).result()  # whoever has not seen that it is over has submitted its last by then
