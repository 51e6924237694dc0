"""Deadlocks across processes: one of those who wait for each other is told, and what the others are at."""

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

import manyhands as mh
from manyhands import sync
from watching import eventually, program

TASK = """
import sys, threading
import manyhands as mh
from manyhands import shared

kind, own, wanted = sys.argv[1:]
first, second = getattr(shared, kind).open(own), getattr(shared, kind).open(wanted)
with first:
    print("has it", flush=True)
    sys.stdin.readline()
    try:
        with second:
            print("got it", flush=True)
    except mh.DeadlockError as error:
        print(f"told\\n{error}", flush=True)
"""


@pytest.fixture(autouse=True)
def watched():
    sync.detect_deadlocks()
    yield
    sync.detect_deadlocks(False)


@contextlib.contextmanager
def start(kind, own, wanted, watch="1"):
    with program(
        TASK, kind, own, wanted, stdin=subprocess.PIPE, env={**os.environ, "MANYHANDS_DEADLOCK": watch}
    ) as process:
        yield process


def begin(process):
    assert process.stdout.readline() == "has it\n", process.stderr.read()


def let_go_on(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def ring(kind, names):
    """A process for each, that has the lock of its name and wants the next one's; what each has to say."""
    prefix = f"{kind}-{os.getpid()}"
    locks = [getattr(mh.shared, kind)(name=f"{prefix}-{name}") for name in names]
    wanted = [*names[1:], names[0]]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(start(kind, f"{prefix}-{own}", f"{prefix}-{other}"))
            for own, other in zip(names, wanted, strict=True)
        ]
        for process in processes:
            begin(process)
        for process in processes:
            let_go_on(process)
        said = [process.communicate(timeout=30)[0] for process in processes]
    assert not any(lock.locked() for lock in locks)
    return [process.pid for process in processes], said


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_two_processes_that_take_two_locks_crosswise(kind):
    pids, said = ring(kind, ["left", "right"])
    [told] = [text for text in said if text.startswith("told")]
    [got] = [text for text in said if not text.startswith("told")]
    assert got == "got it\n"
    other = pids[1 - said.index(told)]
    assert f'could not wait for the shared lock "{kind}-{os.getpid()}-' in told
    for pid in pids:
        assert f"thread MainThread of process {pid} waits for the shared lock" in told
    assert f"which thread MainThread of process {other} has" in told
    assert told.count('File "<string>", line 12, in <module>') == 2, "the stacks of both"


def test_three_processes_in_a_ring():
    _, said = ring("Lock", ["one", "two", "three"])
    assert sorted(text.split("\n")[0] for text in said) == ["got it", "got it", "told"]


def test_a_thread_that_takes_a_plain_lock_of_processes_twice():
    lock = mh.shared.Lock()
    with lock, pytest.raises(mh.DeadlockError, match="the shared lock ") as caught:
        lock.acquire()
    [wait] = caught.value.cycle
    assert wait.who == wait.holder == f"thread MainThread of process {os.getpid()}"
    assert "lock.acquire()" in wait.stack
    assert not lock.locked()


def test_threads_of_one_process():
    left, right, both, errors = mh.shared.Lock(), mh.shared.Lock(), threading.Barrier(2), []

    def work(first, second):
        try:
            with first:
                both.wait()
                with second:
                    pass
        except mh.DeadlockError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in ((left, right), (right, left))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    [error] = errors
    assert len(error.cycle) == 2


def test_a_process_that_gives_up_by_itself_is_in_no_deadlock():
    left, right = mh.shared.Lock(), mh.shared.Lock(name=f"patient-{os.getpid()}")
    got = []

    def patient():
        with left:
            both.wait()
            got.append(right.acquire(timeout=0.3))

    both = threading.Barrier(2)
    thread = threading.Thread(target=patient)
    with right:
        thread.start()
        both.wait()
        with left:
            thread.join(30)
    assert got == [False]


def test_a_process_that_does_not_look_is_waited_for():
    """Nobody knows what it is at."""
    prefix = f"silent-{os.getpid()}"
    mine, theirs = (mh.shared.Lock(name=f"{prefix}-{name}") for name in ("mine", "theirs"))
    with start("Lock", f"{prefix}-theirs", f"{prefix}-mine", watch="0") as other:
        begin(other)
        with mine:
            let_go_on(other)
            assert not theirs.acquire(timeout=0.2)
        assert other.communicate(timeout=30)[0] == "got it\n"


def test_of_a_holder_that_is_killed_the_next_one_gets_the_lock_and_is_told():
    prefix = f"killed-{os.getpid()}"
    mine, theirs = (mh.shared.Lock(name=f"{prefix}-{name}") for name in ("mine", "theirs"))
    with start("Lock", f"{prefix}-theirs", f"{prefix}-mine") as other:
        begin(other)
        with mine:
            let_go_on(other)
            eventually(
                lambda: any("manyhands-deadlock" in link for link in links(other.pid)), "a note of its"
            )
            other.send_signal(signal.SIGKILL)
            with theirs:
                assert theirs.was_abandoned


def links(pid):
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            yield str(link.readlink())
