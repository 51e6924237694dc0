"""What the machine runs out of, and what an executor may leave behind: nothing."""

import os
import resource
import threading
import time
from pathlib import Path

import pytest
from watching import children, eventually, program

import manyhands as mh

LIMITED = """
import resource
import manyhands as mh

limit = 4 << 20
def lower():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

with mh.ProcessExecutor(1, initializer=lower) as pool:
    assert pool.submit(len, bytes(8 << 20)).result(timeout=20) == 8 << 20
    answer = pool.submit(bytes, 8 << 20).exception(timeout=20)
    print(type(answer).__name__, answer)
    assert pool.submit(abs, -1).result(timeout=20) == 1
    lower()
    argument = pool.submit(len, bytes(8 << 20)).exception(timeout=20)
    print(type(argument).__name__, argument)
    assert pool.submit(len, bytes(1 << 20)).result(timeout=20) == 1 << 20
    assert pool.with_policy(retries=1, backoff=0.001).submit(len, bytes(8 << 20)).exception(timeout=20)
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
    mappings = Path("/proc/self/maps").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
        "processes": len(children(os.getpid())),
        "segments": mappings.count("memfd:manyhands"),
        "named": len(os.listdir("/dev/shm")),  # noqa: PTH208
    }


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

    for _ in range(3):
        make_and_end()
    eventually(lambda: held()["segments"] == 0, "the end of the first executors")
    before = held()
    for _ in range(50):
        make_and_end()
    eventually(lambda: all(held()[what] <= before[what] for what in before), f"no more than {before}")


def test_an_idle_pool_uses_no_processor():
    with mh.ProcessExecutor(2) as pool:
        workers = {future.result(timeout=20) for future in [pool.submit(os.getpid) for _ in range(200)]}
        watched = [*workers, *(pool.submit(os.getppid).result(timeout=20) for _ in range(1))]
        settle = time.monotonic() + 0.1
        eventually(lambda: time.monotonic() > settle, "a moment")
        before = [ticks(pid) for pid in watched]
        mine = time.process_time()
        # Idleness can only be watched.
        time.sleep(1)
        assert time.process_time() - mine < 0.02
        # In hundredths of a second, so one may come of rounding.
        assert all(after - earlier <= 1 for after, earlier in zip(map(ticks, watched), before, strict=True))


def ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


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
