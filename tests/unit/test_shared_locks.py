"""Locks and their like between processes: as the standard library's, and robust where those are not."""

import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, in_thread, program

LOCKS = [mh.shared.Lock, mh.shared.RLock, mh.shared.Condition]


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


def add_slowly(value, lock):
    """A change of two steps, with others let in between."""
    for _ in range(200):
        with lock:
            before = value.value
            time.sleep(0)
            value.value = before + 1


def acquire_and_release(lock):
    with lock:
        return lock.locked()


def use_permit(semaphore, inside, most):
    for _ in range(100):
        with semaphore:
            most.fetch_max(inside.add(1))
            time.sleep(0)
            inside.add(-1)


def read_or_write(lock, pair, chance):
    for number in range(100):
        if number % 4 == chance:
            with lock.write():
                pair[0] += 1
                time.sleep(0)
                pair[1] += 1
        else:
            with lock.read():
                assert pair[0] == pair[1]
    return True


def meet(barrier, rounds):
    return [barrier.wait() for _ in range(rounds)]


def take(condition, level, count):
    for _ in range(count):
        with condition:
            condition.wait_for(lambda: level.value > 0)
            level.value -= 1
    return count


@pytest.mark.parametrize("kind", LOCKS)
def test_processes_keep_each_other_out(pool, kind):
    value, lock = mh.shared.Value(0), kind()
    futures = [pool.submit(add_slowly, value, lock) for _ in range(2)]
    add_slowly(value, lock)
    mh.gather(*futures).result()
    assert value.value == 600


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_is_acquired_and_released_as_the_standard_librarys(kind):
    lock = kind()
    assert lock.acquire() is True
    assert in_thread(lock.acquire, False).result() is False
    assert in_thread(lock.acquire, True, 0.001).result() is False
    lock.release()
    with pytest.raises(RuntimeError, match="could not release the lock: found it not held"):
        lock.release()
    assert in_thread(lock.acquire, True, -1).result() is True
    with pytest.raises(ValueError, match="found a timeout with blocking=False"):
        lock.acquire(False, 1)
    with pytest.raises(ValueError, match="NaN"):
        lock.acquire(timeout=float("nan"))


def test_a_lock_is_released_by_any_thread_of_its_process_and_by_no_other_process(pool):
    lock = mh.shared.Lock()
    lock.acquire()
    assert lock.locked() and pool.submit(lock.locked).result()
    with pytest.raises(RuntimeError, match="not held by this process"):
        pool.submit(lock.release).result()
    in_thread(lock.release).result()
    assert not lock.locked()


def test_an_rlock_is_of_one_thread(pool):
    lock = mh.shared.RLock()
    with lock:
        with lock, pickle.loads(pickle.dumps(lock)):
            assert in_thread(lock.acquire, False).result() is False
        assert pool.submit(lock.acquire, False).result() is False
        with pytest.raises(RuntimeError, match="not held by this thread"):
            in_thread(lock.release).result()
    assert not lock.locked()


def test_a_waiter_is_woken(pool):
    lock = mh.shared.Lock()
    lock.acquire()
    waiter = pool.submit(acquire_and_release, lock)
    eventually(waiter.running)
    lock.release()
    assert waiter.result() is True
    assert not lock.locked()


def test_permits_are_never_more_than_there_are(pool):
    semaphore, inside, most = mh.shared.Semaphore(2), mh.shared.Value(0), mh.shared.Value(0)
    futures = [pool.submit(use_permit, semaphore, inside, most) for _ in range(2)]
    futures += [in_thread(use_permit, semaphore, inside, most) for _ in range(2)]
    mh.gather(*futures).result()
    assert (inside.value, semaphore.value) == (0, 2)
    assert 1 <= most.value <= 2


def test_a_process_gives_back_the_permits_that_it_has(pool):
    semaphore = mh.shared.Semaphore(3)
    assert [semaphore.acquire(blocking=False) for _ in range(4)] == [True, True, True, False]
    assert semaphore.acquire(timeout=0.001) is False
    with pytest.raises(ValueError, match="found fewer permits"):
        pool.submit(semaphore.release).result()
    semaphore.release(2)
    assert semaphore.value == 2
    with pytest.raises(ValueError):
        semaphore.release(2)
    semaphore.release()
    assert semaphore.value == 3
    with pytest.raises(ValueError, match="expected 0 or more"):
        mh.shared.Semaphore(-1)


def test_readers_never_see_half_a_write(pool):
    lock, pair = mh.shared.RWLock(), mh.shared.Array("q", 2)
    futures = [pool.submit(read_or_write, lock, pair, chance) for chance in range(2)]
    futures += [in_thread(read_or_write, lock, pair, chance) for chance in range(2)]
    assert mh.gather(*futures).result() == [True] * 4
    assert pair[:] == [100, 100]


def test_a_read_write_lock_refuses_what_would_wait_for_itself():
    lock = mh.shared.RWLock()
    with lock.read():
        assert lock.acquire_read(blocking=False)
        with pytest.raises(RuntimeError, match="found it held for reading by the same thread"):
            lock.acquire_write()
        lock.release_read()
        assert in_thread(lock.acquire_write, False).result() is False
    with lock.write():
        for acquire in (lock.acquire_read, lock.acquire_write):
            with pytest.raises(RuntimeError, match="found it held for writing by the same thread"):
                acquire()
    for release in (lock.release_read, lock.release_write):
        with pytest.raises(RuntimeError, match="found it not held"):
            release()


def test_a_writer_that_gave_up_stands_in_nobodys_way():
    lock = mh.shared.RWLock()
    with lock.read():
        assert in_thread(lock.acquire_write, True, 0.001).result() is False
        assert in_thread(lock.acquire_read, False).result() is True


def test_an_event_lets_all_go_on(pool):
    event = mh.shared.Event()
    assert (event.is_set(), event.wait(timeout=0.001)) == (False, False)
    waiting = [pool.submit(event.wait) for _ in range(2)] + [in_thread(event.wait)]
    eventually(lambda: all(future.running() for future in waiting[:2]))
    event.set()
    assert mh.gather(*waiting).result() == [True] * 3
    assert (event.is_set(), event.wait()) == (True, True)
    event.clear()
    assert event.wait(0) is False


def test_a_barrier_lets_all_go_on_together_round_after_round(pool):
    barrier = mh.shared.Barrier(3)
    futures = [pool.submit(meet, barrier, 20) for _ in range(2)]
    mine = meet(barrier, 20)
    rounds = zip(mine, *(future.result() for future in futures), strict=True)
    assert [sorted(numbers) for numbers in rounds] == [[0, 1, 2]] * 20
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_a_barrier_breaks_for_all_and_is_mended_by_a_reset():
    barrier = mh.shared.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(timeout=0.001)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    for end in (barrier.reset, barrier.abort):
        waiting = in_thread(barrier.wait)
        eventually(lambda: barrier.n_waiting)
        end()
        with pytest.raises(threading.BrokenBarrierError):
            waiting.result()
    with pytest.raises(ValueError, match="expected 1 to"):
        mh.shared.Barrier(0)


def test_a_condition_wakes_as_many_as_are_called(pool):
    condition, level = mh.shared.Condition(), mh.shared.Value(0)
    takers = [pool.submit(take, condition, level, 50) for _ in range(2)]
    for _ in range(100):
        with condition:
            level.value += 1
            condition.notify()
    assert mh.gather(*takers).result() == [50, 50]
    assert level.value == 0


@pytest.mark.parametrize("lock", [None, mh.shared.Lock, mh.shared.RLock])
def test_a_condition_is_waited_for_under_its_lock(lock):
    condition = mh.shared.Condition(lock and lock())
    for use in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="not held"):
            use()
    with condition:
        assert condition.wait(timeout=0.001) is False
        assert condition.wait_for(lambda: False, timeout=0.001) is False
        assert condition.wait_for(lambda: "yes") == "yes"
        assert in_thread(condition.acquire, False).result() is False
    copy = pickle.loads(pickle.dumps(condition))
    with copy:
        assert in_thread(condition.acquire, False).result() is False
    with pytest.raises(TypeError, match="expected a shared Lock or RLock"):
        mh.shared.Condition(threading.Lock())
    with pytest.raises(ValueError, match="found a lock and a name"):
        mh.shared.Condition(mh.shared.Lock(), name="x")


def test_a_wait_gives_back_an_rlock_however_often_it_is_held():
    condition = mh.shared.Condition()

    def call():
        with condition:
            condition.notify()

    with condition, condition:
        called = in_thread(call)
        assert condition.wait() is True
        called.result()
        assert in_thread(condition.acquire, False).result() is False
    assert in_thread(condition.acquire, False).result() is True


WAITS = {
    "Lock": "lock = mh.shared.Lock(); lock.acquire(); wait = lock.acquire",
    "RWLock": "lock = mh.shared.RWLock(); own(lock.acquire_read); wait = lock.acquire_write",
    "Semaphore": "wait = mh.shared.Semaphore(0).acquire",
    "Event": "wait = mh.shared.Event().wait",
    "Barrier": "wait = mh.shared.Barrier(2).wait",
    "Condition": "c = mh.shared.Condition(); c.acquire(); wait = c.wait",
    "Queue.get": "wait = mh.shared.Queue().get",
    "Queue.put": "q = mh.shared.Queue(1); q.put(1); wait = lambda: q.put(2)",
    "Queue.join": "q = mh.shared.Queue(); q.put(1); wait = q.join",
}
INTERRUPTED = """
import sys, threading, manyhands as mh
def own(acquire):
    thread = threading.Thread(target=acquire)
    thread.start()
    thread.join()
{}
print("waits", flush=True)
try:
    wait()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("kind", WAITS)
def test_ctrl_c_ends_a_wait(kind):
    with program(INTERRUPTED.format(WAITS[kind])) as process:
        assert process.stdout.readline() == "waits\n"
        # Not before it sleeps: then the handler would run before the wait.
        eventually(lambda: "futex" in Path(f"/proc/{process.pid}/wchan").read_text())
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("interrupted\n", "")
