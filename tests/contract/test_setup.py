"""How workers begin: their number, their names, what initializes them, the context of their tasks."""

import contextvars
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

import manyhands as mh

variable = contextvars.ContextVar("variable", default="none")


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_worker_is_refused(number):
    with pytest.raises(ValueError, match=f"workers={number}"):
        mh.ThreadExecutor(number)
    with pytest.raises(ValueError, match=f"loops={number}"):
        mh.AsyncExecutor(number)
    with pytest.raises(ValueError, match=f"concurrency={number}"):
        mh.AsyncExecutor(concurrency=number)


def test_threads_begin_when_there_is_work(our_model):
    name = f"lazy-{our_model.name}"
    with our_model.make(name=name) as pool:
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(name)]
        pool.submit(our_model.task(abs), -1).result()
        assert [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_an_idle_thread_is_used_again():
    with mh.ThreadExecutor(8) as pool:
        idents = {pool.submit(threading.get_ident).result() for _ in range(50)}
    assert len(idents) == 1


def test_names_of_threads_begin_as_asked(our_model):
    def name():
        return threading.current_thread().name

    with our_model.make(name="worker of mine") as pool:
        assert pool.submit(our_model.task(name)).result() == "worker of mine_0"
    with our_model.make() as pool:
        assert pool.submit(our_model.task(name)).result().startswith(type(pool).__name__ + "-")


def test_the_initializer_runs_once_in_each_worker_before_its_first_task(gate):
    begun = []

    def initialize(*args):
        begun.append((args, threading.get_ident()))

    def task():
        assert threading.get_ident() in [ident for _, ident in begun]
        gate.pass_through()

    with mh.ThreadExecutor(3, initializer=initialize, initargs=(1, "two")) as pool, gate:
        futures = [pool.submit(task) for _ in range(9)]
        gate.wait_for(3)
        gate.open()
        for future in futures:
            future.result()
    assert [args for args, _ in begun] == [(1, "two")] * 3
    assert len({ident for _, ident in begun}) == 3


def test_the_initializer_of_a_loop_finds_its_loop_set():
    import asyncio

    loops = []

    async def running():
        return asyncio.get_running_loop()

    with mh.AsyncExecutor(
        initializer=lambda: loops.append(asyncio.get_event_loop_policy().get_event_loop())
    ) as pool:
        assert [pool.submit(running).result()] == loops


def test_a_failing_initializer_breaks_the_executor(model, caplog):
    def initialize():
        raise ValueError("cannot begin")

    with (
        caplog.at_level(logging.CRITICAL, logger="concurrent.futures"),
        model.make(initializer=initialize) as pool,
    ):
        import concurrent.futures

        error = pool.submit(model.task(abs), -1).exception()
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(model.task(abs), -1)
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "Exception in initializer:"
    assert str(record.exc_info[1]) == "cannot begin"


def test_the_error_of_a_failed_initializer_is_ours_and_the_standard_librarys(our_model, caplog):
    from concurrent.futures.thread import BrokenThreadPool

    def initialize():
        raise ValueError("cannot begin")

    with our_model.make(initializer=initialize) as pool:
        error = pool.submit(our_model.task(abs), -1).exception()
    assert type(error) is mh.BrokenInitializer
    assert isinstance(error, BrokenThreadPool)
    assert isinstance(error, mh.ManyhandsError)
    assert "logged" in error.hint


def test_every_queued_task_of_a_broken_executor_fails(our_model, caplog):
    begin = threading.Event()

    def initialize():
        begin.wait()
        raise ValueError("cannot begin")

    with our_model.make(workers=1, initializer=initialize) as pool:
        futures = [pool.submit(our_model.task(abs), -1) for _ in range(10)]
        begin.set()
        errors = [future.exception(timeout=30) for future in futures]
    assert {type(error) for error in errors} == {mh.BrokenInitializer}


def test_an_initializer_that_cannot_be_called_is_refused(our_model):
    with pytest.raises(TypeError, match="initializer"):
        our_model.make(initializer=3)


def test_a_task_sees_the_context_of_who_submitted_it(our_model):
    with our_model.make(workers=1) as pool:
        for value in ("one", "two"):
            variable.set(value)
            assert pool.submit(our_model.task(variable.get)).result() == value
    variable.set("none")


def test_what_a_task_sets_is_seen_by_nobody_else(our_model):
    def change():
        variable.set("changed")

    with our_model.make(workers=1) as pool:
        pool.submit(our_model.task(change)).result()
        assert pool.submit(our_model.task(variable.get)).result() == "none"
    assert variable.get() == "none"


def test_the_context_is_that_of_submission_not_of_the_start(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        variable.set("at submission")
        future = pool.submit(our_model.task(variable.get))
        variable.set("later")
        gate.open()
        assert future.result() == "at submission"
    variable.set("none")


def test_every_attempt_begins_with_the_submitters_context(our_model):
    seen = []

    def fail_twice():
        seen.append(variable.get())
        variable.set("left by an attempt")
        if len(seen) < 3:
            raise OSError

    with our_model.make(workers=1) as pool:
        variable.set("submitter")
        pool.with_policy(retries=2, backoff=0).submit(our_model.task(fail_twice)).result()
    variable.set("none")
    assert seen == ["submitter"] * 3


COUNT_WORKERS = """
import os, sys
os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:1]))
import manyhands as mh
with mh.ThreadExecutor() as pool:
    print(pool.capacity)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_the_default_number_of_workers_honours_the_affinity():
    found = subprocess.run([sys.executable, "-c", COUNT_WORKERS], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 1 + 4


def test_the_default_number_of_workers_is_moderate():
    with mh.ThreadExecutor() as pool:
        assert 1 <= pool.capacity <= 32
        assert pool.capacity <= len(os.sched_getaffinity(0)) + 4


def test_statistics_count_what_was_done(our_model, gate):
    with our_model.make(workers=1) as pool, gate:
        running = pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        good = [pool.submit(our_model.task(abs), -n) for n in range(5)]
        bad = [pool.submit(our_model.task(divmod), n, 0) for n in range(3)]
        before = pool.statistics()
        assert (before.submitted, before.queued, before.started) == (9, 8, 1)
        assert (before.succeeded, before.failed) == (0, 0)
        gate.open()
        for future in [running, *good, *bad]:
            future.exception()
    after = pool.statistics()
    assert (after.submitted, after.queued, after.started) == (9, 0, 9)
    assert (after.succeeded, after.failed, after.cancelled) == (6, 3, 0)
    assert (after.timed_out, after.retried, after.interrupted) == (0, 0, 0)
    assert after.wait.count == after.run.count == 9


def test_statistics_measure_times(our_model):
    all_are_queued = threading.Event()

    def nap():
        assert all_are_queued.wait(30)
        time.sleep(0.05)

    with our_model.make(workers=1) as pool:
        futures = [pool.submit(our_model.task(nap)) for _ in range(4)]
        all_are_queued.set()
        for future in futures:
            future.result()
    figures = pool.statistics()
    assert 0.045 <= figures.run.p50 <= figures.run.p90 <= figures.run.p99 <= figures.run.max
    assert 0.045 <= figures.run.mean < 1
    # The last of four waited for three naps.
    assert figures.wait.max >= 0.145


def test_a_view_shares_workers_queue_statistics_and_end(our_model):
    pool = our_model.make(workers=1, name="shared")
    view = pool.with_policy(retries=1)
    assert type(view) is type(pool)
    assert view.capacity == pool.capacity
    view.submit(our_model.task(abs), -1).result()
    assert pool.statistics().submitted == view.statistics().submitted == 1
    pool.shutdown()
    with pytest.raises(mh.ExecutorClosed):
        view.submit(our_model.task(abs), -1)


def test_shutting_a_view_down_shuts_the_executor_down(our_model):
    pool = our_model.make()
    with pool.with_policy(priority=1) as view:
        view.submit(our_model.task(abs), -1)
    with pytest.raises(mh.ExecutorClosed):
        pool.submit(our_model.task(abs), -1)


def test_a_view_keeps_the_executor_open(our_model):
    view = our_model.make().with_policy(retries=1)
    assert view.submit(our_model.task(abs), -1).result() == 1
    view.shutdown()


def test_a_policy_and_options_together_are_refused(our_model):
    with our_model.make() as pool, pytest.raises(TypeError, match="one or the other"):
        pool.with_policy(mh.Policy(retries=1), retries=2)
