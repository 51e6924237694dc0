"""Workers that are killed, stopped, crash: what becomes of their tasks and of everybody else's."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from noting import note

import manyhands as mh
from watching import eventually, has_ended, seeds


def killing_at_random(journal, deaths, seed):
    """Start to kill workers that have shown themselves in the journal, one after the other."""
    randomness = random.Random(seed)

    def kill():
        killed = set()
        while len(killed) < deaths:
            shown = [int(line.rpartition(":")[2]) for line in journal.last(20)]
            if alive := [pid for pid in shown if pid not in killed]:
                victim = randomness.choice(alive)
                killed.add(victim)
                kill_if_there(victim)
            time.sleep(randomness.random() * 0.005)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    return killer


def submitted_meanwhile(pool, journal, least, killer):
    """Submit tasks, so many and on until the killer is done, with a few hundred waiting at any time."""
    futures = []
    while len(futures) < least or killer.is_alive():
        if len(futures) >= least:
            futures[-300].exception(timeout=60)
        futures.append(pool.submit(note, journal, len(futures)))
    return futures


@seeds(3)
def test_under_load_no_task_is_lost_and_none_is_run_twice(journal, seed):
    with mh.ProcessExecutor(2) as pool:
        futures = submitted_meanwhile(pool, journal, 20_000, killing_at_random(journal, 12, seed))
        outcomes = [future.exception(timeout=60) for future in futures]
        figures = pool.statistics()
    assert all(error is None or isinstance(error, mh.WorkerDied) for error in outcomes)
    ran = Counter(int(line.split(":")[0]) for line in journal.lines())
    assert max(ran.values()) == 1
    assert all(ran[number] == 1 for number, error in enumerate(outcomes) if error is None)
    count, died = len(outcomes), sum(error is not None for error in outcomes)
    assert died <= 12
    assert (figures.submitted, figures.succeeded, figures.failed) == (count, count - died, died)


@seeds(2)
def test_with_retries_every_task_succeeds_however_many_workers_die(journal, seed):
    with mh.ProcessExecutor(2) as pool:
        patient = pool.with_policy(retries=10, retry_on=mh.WorkerDied, backoff=0.001)
        futures = submitted_meanwhile(patient, journal, 4000, killing_at_random(journal, 10, seed))
        assert [future.result(timeout=60) for future in futures] == list(range(len(futures)))


@seeds(3)
def test_two_threads_submit_while_a_third_kills(journal, seed):
    outcomes = [[], []]

    def submit(pool, mine, killer):
        futures = submitted_meanwhile(pool, journal, 3000, killer)
        mine.extend(future.exception(timeout=60) for future in futures)

    with mh.ProcessExecutor(2) as pool:
        killer = killing_at_random(journal, 8, seed)
        submitters = [threading.Thread(target=submit, args=(pool, mine, killer)) for mine in outcomes]
        for thread in submitters:
            thread.start()
        for thread in submitters:
            thread.join()
        assert pool.submit(abs, -1).result(timeout=20) == 1
    assert all(len(mine) >= 3000 for mine in outcomes)
    assert all(error is None or isinstance(error, mh.WorkerDied) for mine in outcomes for error in mine)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_death_costs_one_task_whatever_the_signal(number):
    def end_at_seven(item):
        if item == 7:
            os.kill(os.getpid(), number)
        return item

    with mh.ProcessExecutor(2) as pool:
        futures = [pool.submit(end_at_seven, item) for item in range(20)]
        errors = [future.exception(timeout=20) for future in futures]
        assert [error is None for error in errors] == [item != 7 for item in range(20)]
        assert errors[7].exitcode == -number
        assert pool.submit(abs, -1).result(timeout=20) == 1


@seeds(5)
def test_a_stopped_worker_is_ended_at_the_limit_of_its_task(fifo, seed):
    def announce(path):
        Path(path).write_text(str(os.getpid()))
        while True:
            pass

    with mh.ProcessExecutor(2) as pool:
        future = pool.with_policy(timeout=0.1 + seed / 50).submit(announce, fifo)
        pid = int(fifo.read_text())
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(mh.TaskTimeout):
            future.result(timeout=20)
        eventually(lambda: has_ended(pid), "the worker's end")
        assert pool.submit(abs, -1).result(timeout=20) == 1


def test_a_task_that_ignores_sigterm_is_ended_all_the_same(fifo):
    def ignore(path):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(path).write_text(str(os.getpid()))
        while True:
            signal.pause()

    with mh.ProcessExecutor(1) as pool:
        future = pool.submit(ignore, fifo)
        pid = int(fifo.read_text())
        assert future.cancel(force=True)
        eventually(lambda: has_ended(pid), "the worker's end", 5)
        assert pool.submit(abs, -1).result(timeout=20) == 1


@seeds(20)
def test_shutting_down_while_workers_die_ends(journal, seed):
    randomness = random.Random(seed)
    pool = mh.ProcessExecutor(2)
    futures = [pool.submit(note, journal, number) for number in range(200)]
    pid = pool.submit(os.getpid).result(timeout=20)
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": randomness.random() < 0.5})
    killing = threading.Thread(target=kill_if_there, args=(pid,))
    for thread in randomness.sample([closing, killing], 2):
        thread.start()
    closing.join(timeout=30)
    killing.join()
    assert not closing.is_alive()
    assert all(future.done() for future in futures)
    errors = [future.exception() for future in futures if not future.cancelled()]
    assert all(error is None or isinstance(error, mh.WorkerDied) for error in errors)
    eventually(lambda: has_ended(pid), "the worker's end")


def kill_if_there(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@seeds(10)
def test_a_forced_cancellation_races_with_the_end_of_its_task(seed):
    """Whoever wins, the future is settled, the pool goes on and no other task is hit."""
    randomness = random.Random(seed)
    with mh.ProcessExecutor(2) as pool:
        for _ in range(20):
            short = pool.submit(time.sleep, randomness.random() * 0.002)
            others = [pool.submit(abs, -number) for number in range(20)]
            short.cancel(force=True)
            assert short.cancelled() or short.done()
            assert [other.result(timeout=20) for other in others] == list(range(20))


def test_limits_that_pass_at_about_the_end_of_a_task_hit_no_other_task():
    with mh.ProcessExecutor(2) as pool:
        hasty = pool.with_policy(timeout=0.01)
        futures = [
            (hasty.submit(time.sleep, 0.009 + number % 3 / 1000), pool.submit(abs, number))
            for number in range(60)
        ]
        for short, other in futures:
            assert isinstance(short.exception(timeout=20), (mh.TaskTimeout, type(None)))
            assert other.exception(timeout=20) is None
