"""What the machine runs out of, and what an executor may leave behind: nothing."""

import contextlib
import gc
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import manyhands as mh
from watching import REPEATS, children, eventually, program, seeds

LIMITED = """
import resource
import manyhands as mh

limit = 4 << 20
def lower():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

with mh.ProcessExecutor(1, initializer=lower) as pool:
    assert pool.submit(len, bytes(8 << 20)).result(timeout=20) == 8 << 20
    answer = pool.submit(bytes, 32 << 20).exception(timeout=20)
    print(type(answer).__name__, answer)
    assert pool.submit(abs, -1).result(timeout=20) == 1
    lower()
    argument = pool.submit(len, bytes(32 << 20)).exception(timeout=20)
    print(type(argument).__name__, argument)
    assert pool.submit(len, bytes(1 << 20)).result(timeout=20) == 1 << 20
    assert pool.with_policy(retries=1, backoff=0.001).submit(len, bytes(32 << 20)).exception(timeout=20)
    assert [len(value) for value in pool.map(bytes, [100, 1 << 20])] == [100, 1 << 20]
"""


def test_a_message_that_there_is_no_memory_for_fails_its_task_alone():
    with program(LIMITED) as process:
        said, complaint = process.communicate(timeout=50)
    assert complaint == ""
    answer, argument = said.splitlines()
    assert answer.startswith("OSError could not send the result of a task: ")
    assert argument.startswith("OSError could not send the arguments of `len` to a worker process: ")
    assert all("could not reserve" in text and "File too large" in text for text in (answer, argument))


LARGE = """
import os
import manyhands as mh

size, count = 24 << 20, 4
with mh.ProcessExecutor(2) as pool:
    print(os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize)
    futures = [pool.submit(bytes.upper, bytes([97 + number]) * size) for number in range(count)]
    print([future.result(timeout=40) == bytes([65 + number]) * size for number, future in enumerate(futures)])
    print(os.listdir("/dev/shm"))
"""


def may_mount():
    tried = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL, check=False)
    return tried.returncode == 0


def test_a_small_mount_for_shared_memory_is_no_limit(tmp_path):
    """Containers have one of 64 MiB or less; what is sent here is six times as large as the mount."""
    if shutil.which("unshare") is None or not may_mount():
        pytest.skip("mounting needs rights that this user does not have")
    mount = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", LARGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout.splitlines(), done.stderr) == ([str(16 << 20), "[True, True, True, True]", "[]"], "")


def test_a_lack_of_descriptors_delays_a_worker_and_does_not_break_the_pool(caplog):
    """With another worker at work its tasks are done, only later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with mh.ProcessExecutor(2) as pool:
        assert pool.submit(abs, -1).result(timeout=20) == 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            futures = [pool.submit(abs, -number) for number in range(100)]
            assert [future.result(timeout=20) for future in futures] == list(range(100))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert pool.submit(abs, -1).result(timeout=20) == 1


def held():
    """Everything that executors could leave: descriptors, threads, processes, mappings."""
    # What a thread dropped without the interpreter goes with the next call.
    mh.Future()
    mappings = Path("/proc/self/maps").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
        "processes": len(children(os.getpid())),
        "segments": mappings.count("memfd:manyhands"),
        "named": len([*Path("/dev/shm").glob("*manyhands*")]),
    }


def descriptors():
    """How many there are of each kind."""
    kinds = Counter()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds[re.sub(r"[0-9]+", "…", os.readlink(link))] += 1  # noqa: PTH115
    return dict(kinds)


def assert_nothing_is_left(make_and_end):
    """Fail if something is left each time: what is kept once for all may come with any of them."""
    # Of executors that others have, as joblib's backend keeps one.
    known = held()["segments"]
    for _ in range(3):
        make_and_end()
    gc.collect()
    eventually(lambda: held()["segments"] <= known, "the end of the first executors")
    for _ in range(3):
        before = held()
        for _ in range(20):
            make_and_end()
        if not (left := eventually_no_more_than(before)):
            return
    pytest.fail(f"{left}, found open: {descriptors()}")


def eventually_no_more_than(before):
    """What is held more, if that does not soon come to an end."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: not more_than(before), "the end of what is left")
    return more_than(before)


def more_than(before):
    now = held()
    return {what: f"{now[what]} instead of {before[what]}" for what in now if now[what] > before[what]}


def open_things():
    found = set()
    for pid in (os.getpid(), os.getppid()):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(descriptor.readlink())
    return found


def test_neither_zygote_nor_worker_keeps_a_descriptor_that_it_could_inherit():
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        # A zygote of its own, started while the pipe is there.
        with mh.ProcessExecutor(1, preload=("colorsys",)) as pool:
            theirs = pool.submit(open_things).result(timeout=20)
        assert Path(f"/proc/self/fd/{writer}").readlink() not in theirs
        assert theirs
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("how", ["closed", "forgotten", "unused", "killed"])
def test_executors_leave_nothing_behind(how):
    def make_and_end():
        pool = mh.ProcessExecutor(2)
        if how != "unused":
            assert pool.submit(abs, -1).result(timeout=20) == 1
        if how == "killed":
            assert pool.submit(os.abort).exception(timeout=20) is not None
        if how != "forgotten":
            pool.shutdown()

    assert_nothing_is_left(make_and_end)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hundreds_of_executors_leave_nothing_behind():
    def make_and_close_many():
        for number in range(REPEATS or 10):
            with mh.ProcessExecutor(2) as pool:
                assert pool.submit(abs, -number).result(timeout=20) == number

    assert_nothing_is_left(make_and_close_many)


def test_an_idle_pool_uses_no_processor():
    with mh.ProcessExecutor(2) as pool:
        workers = {future.result(timeout=20) for future in [pool.submit(os.getpid) for _ in range(200)]}
        watched = [*workers, pool.submit(os.getppid).result(timeout=20)]
        eventually(lambda: all(map(sleeps, watched)), "rest")
        before = [ticks(pid) for pid in watched]
        mine = time.process_time()
        # Idleness can only be watched.
        time.sleep(1)
        assert time.process_time() - mine < 0.02
        # In hundredths of a second, so one may come of rounding.
        assert all(after - earlier <= 1 for after, earlier in zip(map(ticks, watched), before, strict=True))


def ticks(pid):
    fields = stat(pid)
    return int(fields[11]) + int(fields[12])


def sleeps(pid):
    return stat(pid)[0] == "S"


def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_executors_are_made_and_closed_by_many_threads_at_once():
    failures = []

    def use():
        try:
            for _ in range(5):
                with mh.ProcessExecutor(1) as pool:
                    assert pool.submit(abs, -3).result(timeout=30) == 3
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


class Block:
    """Bytes that pickle leaves out of its stream."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Block, (pickle.PickleBuffer(self.data),)


held_blocks = []


def hold(block):
    held_blocks.append(block)
    return len(held_blocks), block


@seeds(2)
def test_a_worker_is_killed_while_it_looks_into_what_it_was_sent(seed):
    size = 100_000
    with mh.ProcessExecutor(2) as pool:
        blocks = [Block(random.Random(seed * 1000 + number).randbytes(size)) for number in range(40)]
        workers = {pool.submit(os.getpid).result(timeout=20) for _ in range(20)}
        futures = [pool.with_policy(retries=5, backoff=0.001).submit(hold, block) for block in blocks]
        os.kill(random.Random(seed).choice(sorted(workers)), signal.SIGKILL)
        futures += [pool.with_policy(retries=5, backoff=0.001).submit(hold, block) for block in blocks]
        kept = [future.result(timeout=30)[1] for future in futures]
        assert [bytes(block.data) for block in kept] == [bytes(block.data) for block in blocks] * 2


def test_thousands_of_large_messages_leave_nothing_behind():
    with mh.ProcessExecutor(2) as pool:
        assert [*pool.map(abs, range(50))] == [*range(50)]
        before = held()
        kept = []
        for number in range(1000):
            size = 65_536 + number * 37 % 200_000
            # Every other is kept for a while, so that memory goes and comes in no order.
            returned = pool.submit(hold_nothing, Block(bytes(size))).result(timeout=20)
            assert len(returned.data) == size
            kept = [*kept[-(number % 90) :], returned]
        del kept, returned
        # What is kept for later is bounded.
        eventually(lambda: held()["descriptors"] <= before["descriptors"] + 20, "the end of descriptors")
        assert held()["segments"] <= before["segments"] + 20
    eventually(lambda: held()["segments"] < before["segments"], "the end of segments")


def hold_nothing(block):
    return block
