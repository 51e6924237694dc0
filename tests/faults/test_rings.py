"""Tasks that write over the memory they share with the pool, and rings that nobody empties for a while."""

import concurrent.futures
import contextlib
import mmap
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, has_ended, seeds

MIB = 1 << 20


def scribble(seed, segment, begin, end, then="return"):
    """Write garbage over a part of what this worker shares with the pool."""
    link = sorted(segments(), key=lambda link: link.stat().st_size)[segment]
    descriptor = os.open(link, os.O_RDWR)
    with mmap.mmap(descriptor, os.fstat(descriptor).st_size) as memory:
        memory[begin:end] = random.Random(seed).randbytes(end - begin)
    os.close(descriptor)
    if then == "die":
        os._exit(9)
    return os.getpid()


def segments():
    """The links to the memory that this process shares with its pool."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:manyhands" in os.readlink(link):  # noqa: PTH115
                yield link


SLATE, RINGS = 0, -1
PARTS = {
    "slate": (SLATE, 0, 4096),
    "tasks": (RINGS, 0, MIB),
    "answers": (RINGS, MIB, 2 * MIB),
    "states": (RINGS, 128, 136),
    "all": (RINGS, 0, 2 * MIB + 64),
}


@seeds(3)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("then", ["return", "die"])
def test_garbage_in_a_workers_memory_costs_that_worker_only(part, then, seed, caplog):
    with mh.ProcessExecutor(2) as pool:
        assert pool.submit(abs, -1).result(timeout=20) == 1
        futures = [pool.submit(abs, -number) for number in range(200)]
        # An answer that nobody has read is lost with the garbage: then nobody knows which task scribbles.
        concurrent.futures.wait(futures)
        mad = pool.submit(scribble, seed, *PARTS[part], then)
        futures += [pool.submit(abs, -number) for number in range(200, 400)]
        error = mad.exception(timeout=20)
        assert error is None or isinstance(error, mh.WorkerDied)
        others = [future.exception(timeout=20) for future in futures]
        # What it had been given next it may have begun: nobody can read that from what it left of its memory.
        hit = [other for other in others if other is not None]
        assert len(hit) <= 1
        assert all(isinstance(other, mh.WorkerDied) for other in hit)
        # Whoever was mad is not asked any more.
        if error is not None:
            eventually(lambda: has_ended(error.pid), "the mad worker's end")
        assert [pool.submit(abs, -number).result(timeout=20) for number in range(50)] == list(range(50))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) <= 1
    assert all("a worker process was ended because" in text for text in told)


def test_answers_that_find_no_room_wait_until_somebody_reads():
    """A thread keeps the interpreter for itself, so that nobody reads what comes under a policy."""
    answer = bytes(200_000)

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
        futures = [pool.submit(len, bytes(200_000)) for _ in range(100)]
        assert [future.result(timeout=30) for future in futures] == [200_000] * 100
        assert stuck.cancel(force=True)
        eventually(lambda: has_ended(pid), "the worker's end", 5)
