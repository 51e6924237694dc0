"""The ends of the program, of its zygote, and of whole families of processes."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

import manyhands as mh
from watching import children, eventually, has_ended, program, seeds

FAMILY = """
import os, subprocess, time
import manyhands as mh

def start():
    a = subprocess.Popen(["sleep", "1000"])
    b = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    shell = "setsid sleep 1000 >/dev/null 2>&1 & echo $!"
    c = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    # One write, for another worker writes to the same pipe.
    os.write(1, f"{os.getpid()} {a.pid} {b.pid} {c.stdout.strip()}\\n".encode())
    time.sleep(1000)

pool = mh.ProcessExecutor(2)
futures = [pool.submit(start) for _ in range(2)]
futures[0].result()
"""


@seeds(5)
def test_when_the_program_is_killed_every_descendant_is_gone_within_a_second(seed):
    with program(FAMILY) as parent:
        started = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
        assert len(started) == 8
        zygotes = children(parent.pid)
        assert set(started) - set(zygotes) == set()
        os.kill(parent.pid, random.Random(seed).choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        eventually(lambda: all(map(has_ended, [*started, *zygotes])), "the end of every descendant", 1.0)


# A module, so that later pools have workers of a branch: those whose parent's parent is not the program.
BRANCHED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import manyhands as mh
import family

def grandparent():
    with mh.ProcessExecutor(2) as pool:
        return pool.submit(family.grandparent).result()

while grandparent() == os.getpid():
    pass
pool = mh.ProcessExecutor(2)
futures = [pool.submit(family.start) for _ in range(2)]
futures[0].result()
"""
GRANDPARENT = """
def grandparent():
    with open(f"/proc/{os.getppid()}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])
"""


@contextlib.contextmanager
def branched(directory):
    """A program whose workers come from a branch of its zygote; they, and what their tasks have started."""
    (directory / "family.py").write_text(FAMILY.partition("pool =")[0] + GRANDPARENT)
    with program(BRANCHED, directory) as parent:
        started = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
        assert len(started) == 8
        yield parent, started


@seeds(3)
def test_when_the_program_is_killed_every_descendant_of_a_branch_is_gone_within_a_second(seed, tmp_path):
    with branched(tmp_path) as (parent, started):
        family = children(parent.pid)
        assert {*started} < {*family}
        parent.kill()
        eventually(lambda: all(map(has_ended, family)), "the end of every descendant", 1.0)


def test_when_a_branch_is_killed_what_its_workers_have_started_is_ended(tmp_path):
    with branched(tmp_path) as (parent, started):
        stat = Path(f"/proc/{started[0]}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        eventually(lambda: all(map(has_ended, started)), "the end of every descendant", 5.0)
        assert "WorkerDied" in parent.communicate(timeout=20)[1]


MAP = """
import os, time
import manyhands as mh

def work(number):
    if number < 2:
        os.write(1, b"ready\\n")
    time.sleep(1000)

list(mh.map(work, range(100), on="process", workers=2))
"""


@seeds(5)
def test_an_interrupt_ends_a_map_at_once_with_one_traceback_and_no_orphan(seed):
    with program(MAP) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        family = children(parent.pid)
        os.kill(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=5)
        assert parent.returncode == -signal.SIGINT
        assert said.count("Traceback") == 1
        assert said.rstrip().endswith("KeyboardInterrupt")
        eventually(lambda: all(map(has_ended, family)), "the end of every descendant", 1.0)


INTERRUPTED = """
import asyncio, os, time
import manyhands as mh

def work(number):
    os.write(1, b"ready\\n")
    time.sleep(1000)

async def wait(number):
    os.write(1, b"ready\\n")
    await asyncio.sleep(1000)

{wait}
"""

WAYS_TO_WAIT = {
    "a result": "with mh.ProcessExecutor(2) as pool: [pool.submit(work, n) for n in range(9)][0].result()",
    "the executor's map": "with mh.ProcessExecutor(2) as pool: list(pool.map(work, range(9)))",
    "the end of the block": "with mh.ProcessExecutor(2) as pool: [pool.submit(work, n) for n in range(9)]",
    "no block": "pool = mh.ProcessExecutor(2); [pool.submit(work, n) for n in range(9)][0].result()",
    "the end of the program": "pool = mh.ProcessExecutor(2); kept = [pool.submit(work, n) for n in range(9)]",
    "coroutines": "with mh.ProcessExecutor(2, concurrency=1) as pool: pool.submit(wait, 1); "
    "pool.submit(wait, 2).result()",
}


@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_an_interrupt_ends_a_program_at_once_however_it_waits(way):
    with program(INTERRUPTED.format(wait=WAYS_TO_WAIT[way])) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        family = children(parent.pid)
        os.kill(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=20)
        assert said.count("Traceback") == 1
        assert "KeyboardInterrupt" in said.splitlines()[-1]
        eventually(lambda: all(map(has_ended, family)), "the end of every descendant", 1.0)


def test_an_interrupt_in_the_block_cancels_what_runs_and_what_waits():
    with pytest.raises(KeyboardInterrupt), mh.ProcessExecutor(1) as pool:
        futures = [pool.submit(time.sleep, 1000) for _ in range(3)]
        eventually(futures[0].running, "a start")
        raise KeyboardInterrupt
    assert all(future.cancelled() for future in futures)


def test_what_a_task_leaves_behind_is_ended_with_its_worker(tmp_path):
    def leave():
        started = subprocess.run(
            ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True
        )
        return int(started.stdout)

    pool = mh.ProcessExecutor(1)
    left = pool.submit(leave).result()
    assert not has_ended(left)
    assert isinstance(pool.submit(os._exit, 1).exception(), mh.WorkerDied)
    eventually(lambda: has_ended(left), "the end of what was left", 5)
    pool.shutdown()


def zygote_of(pool):
    """The parent of its workers."""
    return pool.submit(os.getppid).result(timeout=20)


@seeds(10)
def test_a_pool_whose_zygote_is_killed_goes_on_with_another(seed, caplog):
    randomness = random.Random(seed)

    def work(number):
        return number

    with mh.ProcessExecutor(2) as pool:
        zygote = zygote_of(pool)
        futures = [pool.submit(work, number) for number in range(randomness.randrange(2000))]
        os.kill(zygote, signal.SIGKILL)
        futures += [pool.submit(work, number) for number in range(500)]
        outcomes = [future.exception(timeout=30) for future in futures]
        assert all(error is None or isinstance(error, mh.WorkerDied) for error in outcomes)
        assert sum(error is not None for error in outcomes) <= 2
        assert zygote_of(pool) != zygote


def test_a_zygote_that_is_killed_again_and_again_costs_at_most_the_running_tasks(journal):
    def note(number):
        journal.note(number)

    with mh.ProcessExecutor(2) as pool:
        futures = []
        for start in range(0, 800, 100):
            # The answer may have been on its way when the zygote was killed already.
            with contextlib.suppress(ProcessLookupError):
                os.kill(zygote_of_somebody(pool), signal.SIGKILL)
            futures += [pool.submit(note, number) for number in range(start, start + 100)]
        outcomes = [future.exception(timeout=30) for future in futures]
    ran = journal.lines()
    assert len(ran) == len(set(ran))
    assert all(error is None or isinstance(error, mh.WorkerDied) for error in outcomes)
    assert len(ran) >= outcomes.count(None)


def zygote_of_somebody(pool):
    while True:
        asked = pool.submit(os.getppid)
        if asked.exception(timeout=20) is None:
            return asked.result()


def test_without_a_zygote_that_lives_every_task_fails_clearly(tmp_path, monkeypatch, caplog):
    (tmp_path / "ends_everything.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with mh.ProcessExecutor(2, preload=["ends_everything"]) as pool:
        assert isinstance(pool.submit(abs, -1).exception(timeout=20), mh.BrokenInitializer)
        with pytest.raises(mh.BrokenInitializer, match="cannot be started"):
            pool.submit(abs, -1)
    assert "the zygote process has ended" in caplog.text


def test_a_program_that_blocks_signals_has_workers_that_end():
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1})
    try:
        with mh.ProcessExecutor(1, preload=["colorsys"]) as pool:
            assert isinstance(pool.submit(os._exit, 4).exception(timeout=20), mh.WorkerDied)
            assert pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(timeout=20) == set()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_a_fork_that_outlives_its_parent_does_not_keep_the_workers(tmp_path):
    text = FAMILY.replace("futures[0]", "os.fork() or time.sleep(1000)\nfutures[0]")
    with program(text) as parent:
        started = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
        forked = eventually_child(parent.pid)
        parent.kill()
        eventually(lambda: all(map(has_ended, started)), "the end of every worker", 1.0)
        assert not has_ended(forked)
        os.kill(forked, signal.SIGKILL)


def eventually_child(pid):
    """The child that was forked: the one that runs the parent's own command."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    found = []

    def look():
        found[:] = [
            child for child in children(pid) if Path(f"/proc/{child}/cmdline").read_bytes() == command
        ]
        return bool(found)

    eventually(look, "a fork of the parent")
    return found[0]
