"""Tasks that write over the memory they share with the pool, and rings that nobody empties for a while."""

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from scribbling import PARTS, scribble

import manyhands as mh
from watching import eventually, has_ended, seeds

# Which part of its memory leaves a pool nothing to know of what a worker has begun: see test_lost_answers.
SILENT = "everything"


@seeds(3)
@pytest.mark.parametrize("part", [part for part in PARTS if part != SILENT])
@pytest.mark.parametrize("then", ["return", "die"])
def test_garbage_in_a_workers_memory_costs_that_worker_only(part, then, seed, caplog):
    with mh.ProcessExecutor(2) as pool:
        assert pool.submit(abs, -1).result(timeout=20) == 1
        futures = [pool.submit(abs, -number) for number in range(200)]
        # An answer that nobody has read may be lost with the garbage, and with it its task.
        concurrent.futures.wait(futures)
        mad = pool.submit(scribble, seed, part, then)
        futures += [pool.submit(abs, -number) for number in range(200, 400)]
        error = mad.exception(timeout=20)
        assert error is None or isinstance(error, mh.WorkerDied)
        others = [future.exception(timeout=20) for future in futures]
        # What it was given next it has not begun, or has answered.
        assert others == [None] * 400
        # Whoever was mad is not asked any more.
        if error is not None:
            eventually(lambda: has_ended(error.pid), "the mad worker's end")
        assert [pool.submit(abs, -number).result(timeout=20) for number in range(50)] == list(range(50))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) <= 1
    assert all("a worker process was ended because" in text for text in told)


def test_a_worker_that_spoils_its_tasks_and_stays_keeps_nobody_waiting(caplog):
    """Nobody can take back what was put ahead of it, so its limit would never be looked at."""

    def scribble_and_stay():
        scribble(0, "tasks")
        time.sleep(1000)

    with mh.ProcessExecutor(1) as pool:
        for number in range(50):
            assert pool.submit(abs, -number).result(timeout=20) == number
        mad = pool.with_policy(timeout=0.5).submit(scribble_and_stay)
        futures = [pool.submit(abs, -number) for number in range(20)]
        assert isinstance(mad.exception(timeout=20), mh.WorkerDied)
        assert [future.result(timeout=20) for future in futures] == list(range(20))
    [told] = [record.getMessage() for record in caplog.records]
    assert "could not use the ring" in told


def test_answers_that_find_no_room_wait_until_somebody_reads():
    """A thread keeps the interpreter for itself, so that nobody reads what comes under a policy."""
    answer = bytes(60_000)  # not so large that it lies elsewhere

    def hold_the_interpreter(until):
        while not until.is_set():
            sum(range(1000))

    until = threading.Event()
    holder = threading.Thread(target=hold_the_interpreter, args=(until,))
    with mh.ProcessExecutor(2) as pool:
        careful = pool.with_policy(timeout=60)
        holder.start()
        futures = [careful.submit(bytes, answer) for _ in range(60)]
        futures += [pool.submit(bytes, answer) for _ in range(60)]
        try:
            assert all(future.result(timeout=50) == answer for future in futures)
        finally:
            until.set()
            holder.join()


def test_a_stopped_worker_with_a_full_ring_holds_nobody_else_up(fifo):
    """Its ring takes no more, and it cannot say so: others go on, and submitting does not block."""

    def announce(path):
        Path(path).write_text(str(os.getpid()))
        while True:
            time.sleep(1000)

    with mh.ProcessExecutor(2) as pool:
        for future in [pool.submit(abs, -1) for _ in range(500)]:
            future.result(timeout=20)
        stuck = pool.submit(announce, fifo)
        pid = int(fifo.read_text())
        os.kill(pid, signal.SIGSTOP)
        futures = [pool.submit(len, bytes(60_000)) for _ in range(100)]
        assert [future.result(timeout=30) for future in futures] == [60_000] * 100
        assert stuck.cancel(force=True)
        eventually(lambda: has_ended(pid), "the worker's end", 5)
