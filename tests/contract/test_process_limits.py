"""Workers that are replaced between tasks: after so many, or when they hold too much memory."""

import collections
import contextlib
import os
import re
import signal
import time

import pytest

import manyhands as mh

MIB = 1 << 20
KEPT = []


def keep(size):
    """Leak so many bytes, all of them written to."""
    KEPT.append(b"x" * size)
    return os.getpid()


def number_and_pid(number):
    return number, os.getpid()


@pytest.mark.parametrize("most", [1, 2, 7])
@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_worker_runs_so_many_tasks_and_not_one_more(most, start):
    count = 30 if start == "zygote" else 8
    with mh.ProcessExecutor(2, max_tasks_per_worker=most, start=start) as pool:
        done = [future.result() for future in [pool.submit(number_and_pid, n) for n in range(count)]]
        assert pool.statistics().succeeded == count
        assert pool.statistics().failed == 0
    assert [number for number, _ in done] == list(range(count))
    runs = collections.Counter(pid for _, pid in done)
    assert max(runs.values()) <= most
    assert len(runs) >= count / most


def test_many_short_tasks_pass_through_many_workers_and_none_is_lost_or_run_twice(tmp_path):
    journal = tmp_path / "journal"

    def note(number):
        descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"%d\n" % number)
        os.close(descriptor)
        return number

    with mh.ProcessExecutor(2, max_tasks_per_worker=50) as pool:
        assert [future.result() for future in [pool.submit(note, n) for n in range(2000)]] == list(
            range(2000)
        )
    assert sorted(map(int, journal.read_text().split())) == list(range(2000))


def test_a_task_that_is_put_ahead_of_a_worker_that_retires_runs_once_by_its_history():
    with mh.ProcessExecutor(1, max_tasks_per_worker=3) as pool:
        outcomes = list(mh.map(number_and_pid, range(30), on=pool, retries=2, on_error="return"))
    assert [outcome.attempts for outcome in outcomes] == [1] * 30
    assert [outcome.value[0] for outcome in outcomes] == list(range(30))


def test_a_large_result_of_a_workers_last_task_arrives():
    with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:
        for size in (8 * MIB, 8 * MIB + 1):
            assert len(pool.submit(bytes, size).result()) == size


def test_the_pool_keeps_its_capacity(tmp_path):
    def meet(name):
        (tmp_path / name).touch()
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline, "the other task did not start"
            os.sched_yield()

    with mh.ProcessExecutor(2, max_tasks_per_worker=1) as pool:
        assert len({pool.submit(os.getpid).result() for _ in range(6)}) == 6
        for future in [pool.submit(meet, name) for name in "ab"]:
            future.result()


def test_an_initializer_runs_in_each_successor(tmp_path):
    def note():
        (tmp_path / str(os.getpid())).touch()

    with mh.ProcessExecutor(1, max_tasks_per_worker=1, initializer=note) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(4)}
    assert {path.name for path in tmp_path.iterdir()} >= set(map(str, pids))


def test_a_worker_that_has_retired_may_die_without_harm():
    with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:
        for number in range(20):
            done, pid = pool.submit(number_and_pid, number).result()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert done == number


def test_a_worker_that_has_grown_too_large_is_replaced():
    with mh.ProcessExecutor(1, max_memory_per_worker="400MB") as pool:
        small = [pool.submit(keep, 1000).result() for _ in range(20)]
        assert len(set(small)) == 1
        assert pool.submit(keep, 500 * MIB).result() == small[0]
        assert pool.submit(os.getpid).result() != small[0]


def test_the_last_worker_of_a_pool_that_closes_may_retire():
    for _ in range(10):
        with mh.ProcessExecutor(2, max_tasks_per_worker=1) as pool:
            futures = [pool.submit(number_and_pid, number) for number in range(4)]
        assert [future.result()[0] for future in futures] == list(range(4))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"max_tasks_per_worker": 0}, "max_tasks_per_worker=0"),
        ({"max_memory_per_worker": 0}, "max_memory_per_worker=0"),
        ({"max_memory_per_worker": "0MB"}, "max_memory_per_worker=0"),
        ({"max_memory_per_worker": "much"}, "max_memory_per_worker='much'"),
    ],
)
def test_the_limits_are_checked(options, found):
    with pytest.raises(ValueError, match=f"could not make the executor: found {re.escape(found)}"):
        mh.ProcessExecutor(1, **options)


@pytest.mark.parametrize("size", [10**9, "1GB", "1000 MB", "1000000kB", "0.5 gib", "600MiB"])
def test_sizes_have_units(size):
    with mh.ProcessExecutor(1, max_memory_per_worker=size) as pool:
        assert pool.submit(abs, -1).result() == 1
