"""Deadlocks beyond plain locks: readers and writers, conditions, permits, threads that end."""

import re
import subprocess
import sys
import threading
import warnings

import pytest

import manyhands as mh
from manyhands import sync

pytestmark = pytest.mark.filterwarnings("ignore::manyhands.LockOrderWarning")


@pytest.fixture(autouse=True)
def watched():
    sync.detect_deadlocks()
    yield
    sync.detect_deadlocks(False)


def run(*functions):
    """Run each in a thread, and return the one deadlock that is raised in one of them."""
    errors = []

    def work(function):
        try:
            function()
        except mh.DeadlockError as error:
            errors.append((threading.current_thread().name, error))

    threads = [
        threading.Thread(target=work, args=(function,), name=name, daemon=True)
        for function, name in zip(functions, "ABCDE", strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    [(name, error)] = errors
    assert error.cycle[0].who == f"thread {name}"
    return error


def who_wait(error):
    return {wait.who for wait in error.cycle}


def until(is_so):
    """Wait until others have gone to sleep, which wakes nobody."""
    pause = threading.Event()
    for _ in range(10_000):
        if is_so():
            return
        pause.wait(0.001)
    raise AssertionError("not within 10 s of looking")


def sleeps(name, function):
    """Whether that thread is in that function."""
    ident = next((it.ident for it in threading.enumerate() if it.name == name), None)
    frame = sys._current_frames().get(ident)
    return frame is not None and frame.f_code.co_name == function


# Readers and writers


def test_a_reader_who_wants_to_write():
    lock = sync.RWLock()
    with lock.read:
        with pytest.raises(mh.DeadlockError, match="the lock for readers and writers made at") as caught:
            lock.write.acquire()
        with pytest.raises(RuntimeError, match="the caller reads"):
            lock.write.acquire(timeout=0.01)
    [wait] = caught.value.cycle
    assert wait.who == wait.holder == f"thread {threading.current_thread().name}"


def test_a_reader_who_wants_to_write_is_refused_without_detection_too():
    sync.detect_deadlocks(False)
    lock = sync.RWLock()
    with lock.read, pytest.raises(RuntimeError, match="the caller reads"):
        lock.write.acquire()


def test_two_readers_who_both_want_to_write():
    lock, both = sync.RWLock(), threading.Barrier(2)
    told = []

    def upgrade():
        with lock.read:
            both.wait()
            try:
                lock.write.acquire()
            except mh.DeadlockError as error:
                told.append(error)

    threads = [threading.Thread(target=upgrade, name=name) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # Each waits for himself already.
    assert len(told) == 2
    assert not lock.read.locked()


def test_a_writer_and_a_reader_of_two_locks():
    left, right, both = sync.RWLock(), sync.RWLock(), threading.Barrier(2)

    def reader():
        with left.read:
            both.wait()
            with right.read:
                pass

    def writer():
        with right.write:
            both.wait()
            with left.write:
                pass

    error = run(reader, writer)
    assert who_wait(error) == {"thread A", "thread B"}
    for wait in error.cycle:
        assert "in reader" in wait.stack or "in writer" in wait.stack


def test_a_reader_behind_a_writer_who_waits_for_him_by_another_lock():
    """The writer waits for A, A for the lock of B, and B to read, which is behind the writer."""
    shared, lock = sync.RWLock(), sync.Lock()
    reads, has_lock = threading.Event(), threading.Event()

    def a():
        with shared.read:
            reads.set()
            has_lock.wait()
            until(lambda: sleeps("C", "b"))
            with lock:
                pass

    def writer():
        reads.wait()
        with shared.write:
            pass

    def b():
        with lock:
            reads.wait()
            until(lambda: sleeps("B", "writer"))
            has_lock.set()
            with shared.read:
                pass

    error = run(a, writer, b)
    assert who_wait(error) == {"thread A", "thread B", "thread C"}


def test_a_reader_behind_a_writer_who_gives_up_is_in_no_deadlock():
    shared, lock = sync.RWLock(), sync.Lock()
    reads, has_lock, done = threading.Event(), threading.Event(), []

    def a():
        with shared.read:
            reads.set()
            has_lock.wait()
            until(lambda: sleeps("C", "b"))
            with lock:
                done.append("a")

    def writer():
        reads.wait()
        done.append(shared.write.acquire(timeout=0.3))

    def b():
        with lock:
            reads.wait()
            until(lambda: sleeps("B", "writer"))
            has_lock.set()
            with shared.read:
                done.append("b")

    threads = [threading.Thread(target=it, name=name) for it, name in zip((a, writer, b), "ABC", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, done)) == ["False", "a", "b"]


# Conditions


def test_a_condition_waited_for_with_a_second_lock_in_hand():
    """Who could notify has the condition's own lock, and waits for the second one."""
    changed, second = sync.Condition(), sync.Lock()
    may_begin = threading.Event()

    def waiter():
        with second, changed:
            may_begin.set()
            changed.wait()

    def notifier():
        may_begin.wait()
        with changed, second:
            changed.notify()

    def run_notifier():
        try:
            notifier()
        except mh.DeadlockError:
            with changed:
                changed.notify()
            raise

    error = run(waiter, run_notifier)
    assert [wait.who for wait in error.cycle] == ["thread B", "thread A"]
    assert "with changed, second" in error.cycle[0].stack
    assert "changed.wait()" in error.cycle[1].stack


def test_a_wait_with_a_timeout_needs_the_lock_at_its_end_all_the_same():
    changed, second = sync.Condition(sync.Lock()), sync.RLock()
    may_begin = threading.Event()

    def waiter():
        with second, changed:
            may_begin.set()
            changed.wait(0.05)

    def notifier():
        may_begin.wait()
        with changed:
            until(lambda: sleeps("A", "waiter"))
            with second:
                pass

    assert who_wait(run(waiter, notifier)) == {"thread A", "thread B"}


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_lock_that_is_in_hand_at_the_wait_and_at_the_notification(waits_first):
    changed, second = sync.Condition(), sync.Lock()
    ready = threading.Event()

    def wait():
        with second, changed:
            ready.set()
            changed.wait()

    def notify():
        with second, changed:
            changed.notify()

    def wait_and_be_woken():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        ready.wait()
        with changed:
            second.release()  # what nobody does who is not a test: otherwise it hangs now
        notify()
        second.acquire()
        thread.join(30)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for deed in (wait_and_be_woken, notify) if waits_first else (notify, wait_and_be_woken):
            deed()
    texts = [str(it.message) for it in caught if "a condition is waited for" in str(it.message)]
    assert len(texts) == 1
    waits, _, notifies = texts[0].partition("notifies:")
    assert "in wait" in waits
    assert "in notify" in notifies
    assert re.search(r"with the lock made at .*test_classic_deadlocks.py:\d+ in hand", texts[0])


def test_readers_of_a_lock_may_wait_and_notify():
    changed, shared, done = sync.Condition(), sync.RWLock(), []

    def wait():
        with shared.read, changed:
            changed.wait_for(lambda: done)

    with warnings.catch_warnings():
        warnings.simplefilter("error", mh.LockOrderWarning)
        thread = threading.Thread(target=wait)
        thread.start()
        with shared.read, changed:
            done.append(1)
            changed.notify()
        thread.join(30)
    assert not thread.is_alive()


# Permits


def test_blocks_with_all_permits_want_another():
    tables, all_there = sync.BoundedSemaphore(2), threading.Barrier(2)

    def dine():
        with tables:
            all_there.wait()
            with tables:
                pass

    error = run(dine, dine)
    assert who_wait(error) == {"thread A", "thread B"}
    assert error.cycle[0].lock.startswith("the semaphore made at")


def test_a_permit_that_is_given_back_elsewhere_is_no_deadlock():
    slots, lock = sync.BoundedSemaphore(1), sync.Semaphore(1)
    slots.acquire()
    lock.acquire()
    helpers = [threading.Timer(0.15, slots.release), threading.Timer(0.15, lock.release)]
    for helper in helpers:
        helper.start()
    assert slots.acquire()
    with lock:
        pass
    for helper in helpers:
        helper.join()


# Threads that end


@pytest.mark.parametrize("kind", [sync.Lock, sync.RLock])
def test_a_lock_of_a_thread_that_has_ended(kind):
    lock = kind()
    thread = threading.Thread(target=lock.acquire, name="careless")
    thread.start()
    thread.join()
    with pytest.raises(mh.DeadlockError, match="by `with`") as caught:
        lock.acquire()
    [wait] = caught.value.cycle
    assert wait.holder == "thread careless (which has ended)"
    assert not lock.acquire(timeout=0.01)


def test_a_lock_of_a_thread_that_ends_while_one_waits():
    lock, has_it, may_end = sync.RLock(), threading.Event(), threading.Event()

    def careless():
        lock.acquire()
        has_it.set()
        may_end.wait()

    def waiter():
        has_it.wait()
        threading.Thread(target=lambda: (until(lambda: sleeps("A", "waiter")), may_end.set())).start()
        with lock:
            pass

    thread = threading.Thread(target=careless, name="careless")
    thread.start()
    error = run(waiter)
    thread.join()
    assert error.cycle[0].holder == "thread careless (which has ended)"


# All asleep

NESTED = """
import signal, threading, sys
from manyhands import sync

sync.detect_deadlocks()
changed, second = sync.Condition(), sync.Lock()
waits = threading.Event()

def waiter():
    with second, changed:
        waits.set()
        changed.wait({timeout})

def notifier():
    waits.wait()
    try:
        with second, changed:
            changed.notify()
    except sync_error as error:
        print(error, flush=True)
        with changed:
            changed.notify()

from manyhands import DeadlockError as sync_error
threads = [threading.Thread(target=it, name=it.__name__) for it in (waiter, notifier)]
for thread in threads:
    thread.start()
{meanwhile}
for thread in threads:
    thread.join()
"""


def nested(timeout="", meanwhile=""):
    code = NESTED.format(timeout=timeout, meanwhile=meanwhile)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40, check=True)
    return run.stdout


def test_a_condition_that_nobody_is_left_to_notify():
    text = nested()
    assert "thread notifier waits for the lock made at <string>:6, which thread waiter has" in text
    assert "thread waiter waits for the condition made at <string>:6, which nobody is left to bring" in text


@pytest.mark.parametrize(
    "circumstances",
    [
        {"timeout": "0.5"},
        {
            "meanwhile": "import time\\nwhile threads[0].is_alive():\\n    time.sleep(0.3)\\n"
            "    with changed: changed.notify()"
        },
        {
            "meanwhile": "def wake(*_):\\n    with changed: changed.notify()\\n"
            "signal.signal(signal.SIGALRM, wake); signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)"
        },
    ],
    ids=["it gives up", "another thread notifies", "a signal's handler does"],
)
def test_a_condition_that_somebody_may_notify_yet(circumstances):
    circumstances = {name: text.replace("\\n", "\n") for name, text in circumstances.items()}
    assert nested(**circumstances) == ""
