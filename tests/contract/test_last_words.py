"""What errors say of a task that was ended: its item, and where it was."""

import asyncio
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually_on_loop

LIMIT = 0.2


@pytest.fixture(scope="module")
def pool():
    # What a task needs is there before its time begins.
    with mh.ProcessExecutor(2, preload=[__name__]) as pool:
        yield pool


def line_of(function, offset):
    return f"{__file__}:{function.__code__.co_firstlineno + offset}, in {function.__name__}"


def crash(number):
    return os.kill(os.getpid(), number)


def crash_in_c(_item=None):
    return ctypes.string_at(0)


def hang(_item=None):
    while True:
        time.sleep(0.01)


def hang_in_c(_item=None):
    ctypes.CDLL(None).pause()


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGTERM]
)
def test_a_crash_says_where_it_was(pool, number):
    error = pool.submit(crash, number).exception()
    assert isinstance(error, mh.WorkerDied)
    assert error.exitcode == -number
    assert error.frame == line_of(crash, 1)
    assert f"last seen in {Path(__file__).name}:" in str(error)
    assert (error.index, error.item) == (None, None)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_who_has_enabled_faulthandler_reads_of_a_workers_crash_in_stderr(is_enabled):
    program = (
        "import os, signal, manyhands as mh\n"
        "def crash(): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if __name__ == '__main__':\n"
        "    with mh.ProcessExecutor(1) as pool: print(pool.submit(crash).exception().frame)\n"
    )
    options = ["-X", "faulthandler"] if is_enabled else []
    ran = subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert ran.stdout == "<string>:2, in crash\n"
    assert ("Fatal Python error: Segmentation fault" in ran.stderr) == is_enabled


def test_a_crash_in_c_says_from_where_that_was_called(pool):
    error = pool.submit(crash_in_c).exception()
    assert error.exitcode == -signal.SIGSEGV
    assert "ctypes" in error.frame
    assert "in string_at" in error.frame


def test_a_crash_in_a_thread_of_the_task_says_where_that_was(pool):
    def crash_aside():
        thread = threading.Thread(target=crash, args=(signal.SIGSEGV,))
        thread.start()
        thread.join()

    # The signal goes to the process, so whichever thread it finds is in the task.
    frame = pool.submit(crash_aside).exception().frame
    assert frame is not None


def test_what_is_not_known_is_none(pool):
    assert pool.submit(crash, signal.SIGKILL).exception().frame is None
    assert pool.submit(os._exit, 3).exception().frame is None


def test_a_crash_of_a_fork_is_not_taken_for_the_workers(pool):
    def fork_and_leave():
        child = os.fork()
        if child == 0:
            crash(signal.SIGSEGV)
        os.waitpid(child, 0)
        os._exit(3)

    error = pool.submit(fork_and_leave).exception()
    assert (error.exitcode, error.frame) == (3, None)


@pytest.mark.parametrize("task", [hang, hang_in_c])
def test_a_process_that_passes_its_limit_says_where_it_was(pool, task):
    error = pool.with_policy(timeout=LIMIT).submit(task).exception()
    assert isinstance(error, mh.TaskTimeout)
    assert error.frame.startswith(f"{__file__}:")
    assert error.frame.endswith(f", in {task.__name__}")


def test_a_time_limit_says_how_the_worker_ended_and_what_it_held(pool):
    def hold_and_hang():
        block = b"\1" * (100 << 20)
        while block:
            pass

    # Told is what is known in time: on a machine with nothing else to do, always, and with all of the block.
    for tries in range(1, 21):
        error = pool.with_policy(timeout=tries * LIMIT).submit(hold_and_hang).exception()
        assert isinstance(error, mh.TaskTimeout)
        if error.exitcode is not None and (error.peak_memory or 0) > 100 << 20:
            break
    assert error.exitcode == -signal.SIGTERM
    assert error.peak_memory > 100 << 20
    assert "its worker was ended by SIGTERM and had held up to" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.exitcode, copy.peak_memory, str(copy)) == (error.exitcode, error.peak_memory, str(error))


def test_a_task_that_does_not_heed_sigterm_is_settled_all_the_same(pool):
    def ignore():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hang()

    error = pool.with_policy(timeout=LIMIT).submit(ignore).exception()
    assert isinstance(error, mh.TaskTimeout)
    assert error.frame is None
    assert pool.submit(abs, -1).result() == 1


def test_the_last_task_of_a_pool_that_closes_is_told_its_limit():
    with mh.ProcessExecutor(1) as pool:
        future = pool.with_policy(timeout=LIMIT).submit(hang)
    assert isinstance(future.exception(timeout=0), mh.TaskTimeout)


def test_a_thread_that_passes_its_limit_says_where_it_was():
    def spin():
        while True:
            pass

    with mh.ThreadExecutor(1) as pool:
        error = pool.with_policy(timeout=0.1).submit(spin).exception()
    assert error.frame.startswith(f"{__file__}:")
    assert error.frame.endswith(", in spin")
    assert "last seen in test_last_words.py:" in str(error)


# -- coroutines


async def wait_forever(_item=None):
    await wait_deeper()


async def wait_deeper():
    await asyncio.sleep(3600)


@pytest.fixture(scope="module")
def loops():
    with mh.executor("process+async", workers=1, concurrency=10, preload=[__name__]) as pool:
        yield pool


def test_a_coroutine_that_passes_its_limit_says_where_it_waits(loops):
    with mh.AsyncExecutor() as in_threads:
        for pool in (in_threads, loops):
            error = pool.with_policy(timeout=LIMIT).submit(wait_forever).exception()
            assert isinstance(error, mh.TaskTimeout)
            assert error.frame == line_of(wait_deeper, 1)


def test_a_coroutine_without_a_frame_of_its_own_says_nothing(loops):
    error = loops.with_policy(timeout=LIMIT).submit(asyncio.sleep, 3600).exception()
    assert isinstance(error, mh.TaskTimeout)
    assert error.frame is None


def test_a_coroutine_that_heeds_no_cancellation_is_settled_all_the_same(loops, tmp_path):
    async def clean_up_for_long(release):
        try:
            await wait_deeper()
        finally:
            await eventually_on_loop(release.exists)

    release = tmp_path / "release"
    error = loops.with_policy(timeout=LIMIT).submit(clean_up_for_long, release).exception()
    assert error.frame == line_of(wait_deeper, 1)
    release.touch()
    assert loops.submit(asyncio.sleep, 0, "runs on").result() == "runs on"


async def crash_async(others):
    await eventually_on_loop(lambda: len(list(others.iterdir())) == 3)
    crash(signal.SIGSEGV)


async def begin_and_wait(path):
    path.touch()
    await wait_deeper()


def test_a_death_names_the_coroutine_that_ran_to_all(tmp_path):
    with mh.executor("process+async", workers=1, concurrency=10) as pool:
        others = [pool.submit(begin_and_wait, tmp_path / str(number)) for number in range(3)]
        errors = [future.exception() for future in [pool.submit(crash_async, tmp_path), *others]]
    assert {type(error) for error in errors} == {mh.WorkerDied}
    assert {error.frame for error in errors} == {line_of(crash, 1)}
    assert [error.task for error in errors] == ["crash_async"] + ["begin_and_wait"] * 3


def test_a_loop_that_was_ended_while_all_wait_says_nothing(loops, tmp_path):
    future = loops.submit(begin_and_wait, tmp_path / "began")
    pid = loops.submit(pid_after, tmp_path / "began").result()
    os.kill(pid, signal.SIGTERM)
    error = future.exception()
    assert (error.exitcode, error.frame) == (-signal.SIGTERM, None)


async def pid_after(path):
    await eventually_on_loop(path.exists)
    return os.getpid()


# -- items


class LongToShow:
    def __repr__(self):
        return "first\n" + "x" * 500


class CannotBeShown:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("on_error", ["raise", "return"])
@pytest.mark.parametrize("model", ["thread", "process"])
def test_the_error_of_a_map_names_the_item(pool, model, on_error):
    errors = []
    for item in ("a", LongToShow()):
        on = pool if model == "process" else model
        results = mh.map(hang_at, ["fine", item], on=on, timeout=LIMIT, on_error=on_error)
        if on_error == "return":
            errors.append(list(results)[1].exception)
        else:
            with pytest.raises(mh.TaskTimeout) as caught:
                list(results)
            errors.append(caught.value)
    assert [error.index for error in errors] == [1, 1]
    assert errors[0].item == "'a'"
    assert "item 1: 'a'; last seen in" in str(errors[0])
    assert errors[1].item.startswith("first xxx")
    assert "x...x" in errors[1].item
    assert len(errors[1].item) == 80


def hang_at(item):
    if item != "fine":
        hang()


def test_an_item_that_cannot_be_shown_is_named_by_its_class():
    with pytest.raises(mh.TaskTimeout) as caught:
        list(mh.map(hang_at, [CannotBeShown()], on="thread", timeout=0.1))
    assert "CannotBeShown" in caught.value.item


def test_a_death_within_a_map_names_the_item(pool):
    with pytest.raises(mh.WorkerDied) as caught:
        list(mh.map(crash, [0, 0, signal.SIGSEGV], on=pool))
    assert (caught.value.index, caught.value.item) == (2, repr(signal.SIGSEGV))
    assert caught.value.frame == line_of(crash, 1)


@pytest.mark.parametrize("keeps_account", [True, False])
def test_of_many_small_items_the_one_is_named_at_which_the_worker_died(keeps_account):
    items = [abs(number - 3000) + 3 for number in range(5000)]
    with mh.ProcessExecutor(2) as pool:
        results = mh.map(crash_at_three, items, on=pool) if keeps_account else pool.map(crash_at_three, items)
        values = []
        with pytest.raises(mh.WorkerDied) as caught:
            values.extend(results)
            values.extend(results)
    assert (caught.value.index, caught.value.item) == (3000, "3")
    assert caught.value.frame == line_of(crash_at_three, 2)


def crash_at_three(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def test_an_executors_map_of_tasks_knows_the_items_number(pool):
    results = pool.with_policy(timeout=LIMIT).map(hang_at, ["fine", "a"])
    assert next(results) is None
    with pytest.raises(mh.TaskTimeout, match=r"\(item 1; last seen in") as caught:
        next(results)
    assert (caught.value.index, caught.value.item) == (1, None)


def test_coroutines_of_a_map_are_named_by_their_items(loops):
    with pytest.raises(mh.TaskTimeout) as caught:
        list(mh.map(wait_forever, "ab", on=loops, timeout=LIMIT))
    assert (caught.value.index, caught.value.item) == (0, "'a'")
    assert caught.value.frame == line_of(wait_deeper, 1)


def test_a_map_within_a_map_names_its_own_item():
    def inner(_item):
        return list(mh.map(hang_at, ["fine", "inner"], on="thread", timeout=0.1))

    with pytest.raises(mh.TaskTimeout) as caught:
        list(mh.map(inner, ["outer"], on="thread"))
    assert (caught.value.index, caught.value.item) == (1, "'inner'")


def test_what_is_known_travels_with_the_error():
    error = mh.WorkerDied("crunch", 7, -11, 1 << 20)
    error.frame = "/a/b.py:12, in crunch"
    error._name_item(3, "x")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.index, copy.item, copy.frame) == (3, "'x'", "/a/b.py:12, in crunch")
    assert str(copy) == str(error)
    assert "(item 3: 'x'; last seen in b.py:12, in crunch)\nhint: " in str(error)


def test_a_task_finds_the_signal_of_its_limit_untouched(pool):
    assert pool.submit(signal.getsignal, signal.SIGTERM).result() == signal.SIG_DFL
