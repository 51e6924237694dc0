"""Coroutines on event loops in worker processes."""

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, eventually_on_loop, has_ended, written

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.fixture
def pool():
    with mh.executor("process+async", workers=2, concurrency=50) as pool:
        yield pool


async def same(value):
    await asyncio.sleep(0)
    return value


async def forever(path=None):
    if path is not None:
        Path(path).write_text(str(os.getpid()))
    await asyncio.sleep(3600)


def test_values_and_errors_come_back(pool):
    async def divide(one, *, by):
        await asyncio.sleep(0)
        return one / by

    assert pool.submit(divide, 6, by=3).result(timeout=20) == 2
    error = pool.submit(divide, 6, by=0).exception(timeout=20)
    assert isinstance(error, ZeroDivisionError)
    assert "in divide" in str(error.__cause__)


def test_many_are_in_flight_in_each_worker(pool, tmp_path):
    """Each waits for all the others, so that they end only if all of them have begun."""

    async def meet(number):
        (tmp_path / str(number)).touch()
        await eventually_on_loop(lambda: len(os.listdir(tmp_path)) == 80)  # noqa: PTH208
        return os.getpid()

    futures = [pool.submit(meet, number) for number in range(80)]
    pids = Counter(future.result(timeout=30) for future in futures)
    assert len(pids) == 2
    assert max(pids.values()) <= 50


def test_no_more_are_in_flight_than_asked_for():
    async def count(_):
        global running, most
        running = globals().get("running", 0) + 1
        most = max(globals().get("most", 0), running)
        await asyncio.sleep(0.001)
        running -= 1
        return most

    with mh.executor("process+async", workers=1, concurrency=3) as pool:
        assert max(mh.map(count, range(100), on=pool)) == 3


def test_map_keeps_the_order():
    async def wait(number):
        await asyncio.sleep(0.002 * (number % 3))
        return number

    assert list(mh.map(wait, range(200), on="process+async", workers=2)) == list(range(200))
    values = mh.map(wait, range(200), on="process+async", workers=2, ordered=False)
    assert sorted(values) == list(range(200))


def test_a_plain_function_is_refused():
    with mh.executor("process+async", workers=1) as pool, pytest.raises(mh.WrongExecutor, match="`abs`"):
        pool.submit(abs, -1)


def test_a_limit_cancels_the_coroutine_alone(pool, tmp_path):
    async def clean_up(path):
        try:
            await asyncio.sleep(3600)
        finally:
            Path(path).write_text(str(os.getpid()))

    limit = 0.05
    while not (tmp_path / "end").exists():
        beside = [pool.submit(same, number) for number in range(20)]
        error = pool.with_policy(timeout=limit).submit(clean_up, tmp_path / "end").exception(timeout=20)
        assert isinstance(error, mh.TaskTimeout)
        assert [future.result(timeout=20) for future in beside] == list(range(20))
        pool.submit(same, 0).result(timeout=20)
        limit *= 2  # a busy machine may need longer to begin
    os.kill(int(written(tmp_path / "end")), 0)


def test_a_limit_does_not_touch_what_waits_for_a_blocked_loop(tmp_path):
    """It has not begun, and goes to the other worker as soon as that has room."""

    async def block(path, until):
        path.write_text(str(os.getpid()))
        eventually(until.exists)

    async def name():
        return os.getpid()

    with mh.executor("process+async", workers=2, concurrency=30) as pool:
        blocked = pool.submit(block, tmp_path / "began", tmp_path / "end")
        pid = int(written(tmp_path / "began"))
        futures = [pool.with_policy(timeout=0.3).submit(name) for _ in range(40)]
        others = {future.result(timeout=40) for future in futures}
        assert pid not in others
        assert not blocked.done()
        (tmp_path / "end").touch()
        blocked.result(timeout=20)


async def pid_of_worker():
    return os.getpid()


@pytest.mark.parametrize("force", [True, False])
def test_a_cancellation_reaches_a_running_coroutine(pool, tmp_path, force):
    async def clean_up(began, path):
        try:
            await forever(began)
        finally:
            Path(path).write_text("cleaned up")

    future = pool.submit(clean_up, tmp_path / "began", tmp_path / "end")
    pid = int(written(tmp_path / "began"))
    assert future.cancel(force=force)
    assert future.cancelled()
    assert written(tmp_path / "end") == "cleaned up"
    os.kill(pid, 0)


def test_what_has_not_begun_is_never_begun_once_cancelled(tmp_path):
    async def touch(path):
        path.touch()

    with mh.executor("process+async", workers=1, concurrency=1) as pool:
        first = pool.submit(forever, tmp_path / "began")
        written(tmp_path / "began")
        second = pool.submit(touch, tmp_path / "second")
        assert second.cancel()
        assert first.cancel()
        assert pool.submit(same, 3).result(timeout=20) == 3
    assert not (tmp_path / "second").exists()


def test_a_worker_that_dies_fails_what_it_ran_and_nothing_else(pool, tmp_path):
    async def die():
        os.kill(os.getpid(), signal.SIGKILL)

    waiting = []
    try:
        while (
            len({pid for pid, _ in waiting}) < 2
        ):  # the second worker may only be started by the second task
            path = tmp_path / str(len(waiting))
            future = pool.submit(forever, path)
            waiting.append((int(written(path)), future))
        error = pool.submit(die).exception(timeout=20)
        assert isinstance(error, mh.WorkerDied)
        for pid, future in waiting:
            if pid == error.pid:
                assert isinstance(future.exception(timeout=20), mh.WorkerDied)
                assert future.exception().task == "forever"
        assert [pid for pid, future in waiting if future.done()] == [
            pid for pid, _ in waiting if pid == error.pid
        ]
        assert pool.submit(same, 1).result(timeout=20) == 1
    finally:
        for _, future in waiting:
            future.cancel()


def test_retries_run_on_another_worker(pool, tmp_path):
    async def die_at_first(path):
        if not path.exists():
            path.touch()
            os._exit(3)
        return "done"

    patient = pool.with_policy(retries=2, retry_on=mh.WorkerDied, backoff=0.001)
    assert patient.submit(die_at_first, tmp_path / "died").result(timeout=20) == "done"


def test_the_exit_of_a_program_is_an_exception_of_the_task(pool):
    async def leave():
        raise SystemExit(3)

    pid = pool.submit(pid_of_worker).result(timeout=20)
    assert isinstance(pool.submit(leave).exception(timeout=20), SystemExit)
    os.kill(pid, 0)


def test_what_cannot_be_pickled_is_an_error_of_its_task(pool):
    async def make_a_lock():
        return threading.Lock()

    with pytest.raises(TypeError, match="could not send the result"):
        pool.submit(make_a_lock).result(timeout=20)


def test_large_arguments_and_results_travel(pool):
    data = os.urandom(3_000_000)
    assert [future.result(timeout=30) for future in [pool.submit(same, data) for _ in range(6)]] == [data] * 6


def test_context_variables_output_and_limits_on_workers(capsys):
    async def tell(_):
        print("from a coroutine")
        return VARIABLE.get(), os.getpid()

    token = VARIABLE.set("of the submitter")
    with mh.executor("process+async", workers=1, concurrency=5, max_tasks_per_worker=10) as pool:
        told = [future.result(timeout=20) for future in [pool.submit(tell, number) for number in range(50)]]
    VARIABLE.reset(token)
    assert {value for value, _ in told} == {"of the submitter"}
    assert max(Counter(pid for _, pid in told).values()) <= 10
    assert capsys.readouterr().out.splitlines() == ["from a coroutine"] * 50


def test_shutdown_waits_for_what_runs():
    pool = mh.executor("process+async", workers=2)
    futures = [pool.submit(same, number) for number in range(300)]
    pool.shutdown()
    assert [future.result(timeout=0) for future in futures] == list(range(300))


@pytest.mark.parametrize("concurrency", [0, -1])
def test_the_concurrency_is_checked(concurrency):
    with pytest.raises(ValueError, match=f"found concurrency={concurrency}, expected 1 or more"):
        mh.ProcessExecutor(1, concurrency=concurrency)


@pytest.mark.slow
def test_a_loop_that_is_blocked_is_ended(pool, tmp_path, caplog):
    async def block(path):
        path.write_text(str(os.getpid()))
        time.sleep(1000)

    future = pool.with_policy(timeout=0.1).submit(block, tmp_path / "pid")
    assert isinstance(future.exception(timeout=20), mh.TaskTimeout)
    pid = int(written(tmp_path / "pid"))
    eventually(lambda: has_ended(pid), "the end of the worker")
    assert "event loop is blocked" in caplog.text
    assert pool.submit(same, 5).result(timeout=20) == 5
