"""`manyhands worker` and `manyhands queue` as programs, on a file that they share with this one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest

import manyhands as mh
from manyhands.errors import SoftTimeLimitExceeded, TaskRevoked, TaskTimeout, UnknownTask, WorkerDied

PATIENCE = 90

SHOP = """
    import asyncio, os, signal, sys, time
    import manyhands as mh

    queue = mh.Queue("shop", broker={broker!r})

    def note(word):
        with open("notes", "a") as notes:
            notes.write(word + "\\n")

    @queue.task
    def add(a, b):
        return a + b

    @queue.task
    async def waits(n):
        await asyncio.sleep(0.001)
        return n

    @queue.task
    def hold(name):
        note(f"began {{name}} in {{os.getpid()}}")
        while not os.path.exists(f"go-{{name}}"):
            time.sleep(0.005)
        note(f"ended {{name}}")
        return name

    @queue.task(track_started=True)
    def tracked(name):
        hold(name)

    @queue.task
    def sleep(seconds):
        time.sleep(seconds)

    @queue.task(bind=True)
    def kill(self):
        note("kill")
        if not os.path.exists("spared"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.request.delivery_info["redelivered"] or bool(self.request.headers)

    VERSION = 1

    @queue.task
    def version():
        return VERSION
"""


class Program:
    def __init__(self, folder, process, log):
        self.folder, self.process, self.log = folder, process, log

    def said(self):
        return self.log.read_text()

    def wait_for(self, word, count=1):
        wait_until(lambda: self.said().count(word) >= count, self.said)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def wait_until(is_so, tell=str):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, tell()
        time.sleep(0.01)


@pytest.fixture
def shop(tmp_path):
    broker = f"sqlite:///{tmp_path}/jobs.db"
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP.format(broker=broker)))
    queue = mh.Queue("shop", broker=broker)
    yield queue, tmp_path
    queue.close()


@contextmanager
def working(folder, *options, name="w1"):
    log = folder / f"{name}.log"
    command = [
        sys.executable,
        "-m",
        "manyhands.cli",
        "worker",
        "-A",
        "shop:queue",
        "-n",
        name,
        "-c",
        "2",
        *options,
    ]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=folder, stderr=sink, stdout=sink)
    program = Program(folder, process, log)
    try:
        program.wait_for("is ready")
        yield program
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def notes(folder):
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def manyhands(folder, *words):
    command = [sys.executable, "-m", "manyhands.cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_worker_runs_what_comes_and_says_so(shop):
    queue, folder = shop
    with working(folder) as worker:
        results = [queue.send_task("shop.add", (n, 1)) for n in range(20)]
        assert [result.get(timeout=PATIENCE) for result in results] == list(range(1, 21))
        assert queue.send_task("shop.waits", (3,)).get(timeout=PATIENCE) == 3
        with pytest.raises(UnknownTask):
            queue.send_task("shop.missing").get(timeout=PATIENCE)
        with pytest.raises(TypeError):
            queue.send_task("shop.add", (1,)).get(timeout=PATIENCE)
        assert worker.stop() == 0
    said = worker.said()
    assert said.count("shop.add[") == 21
    assert "succeeded in" in said
    assert "TypeError" in said
    assert f"  broker   sqlite:///{folder}/jobs.db" in said


LEAN = """
    import sys
    import manyhands as mh

    queue = mh.Queue("shop", broker={broker!r})

    @queue.task
    def modules():
        return sorted(sys.modules)
"""


def test_a_worker_process_has_no_large_module_that_its_tasks_have_not(shop):
    queue, folder = shop
    (folder / "lean.py").write_text(textwrap.dedent(LEAN.format(broker=f"sqlite:///{folder}/jobs.db")))
    with working(folder, "-A", "lean:queue"):
        found = {*queue.send_task("lean.modules").get(timeout=PATIENCE)}
    assert "manyhands.queue.task" in found
    assert found & {"cloudpickle", "dataclasses", "multiprocessing", "click"} == set()


def test_limits_end_tasks_in_processes(shop):
    queue, folder = shop
    with working(folder) as worker:
        with pytest.raises(TaskTimeout):
            queue.send_task("shop.sleep", (PATIENCE,), time_limit=0.2).get(timeout=PATIENCE)
        with pytest.raises(SoftTimeLimitExceeded):
            queue.send_task("shop.sleep", (PATIENCE,), soft_time_limit=0.2).get(timeout=PATIENCE)
        assert queue.send_task("shop.add", (1, 2)).get(timeout=PATIENCE) == 3
        assert worker.stop() == 0


def test_a_task_whose_process_dies_runs_again_and_not_for_ever(shop):
    queue, folder = shop
    with working(folder) as worker:
        with pytest.raises(WorkerDied):
            queue.send_task("shop.kill").get(timeout=PATIENCE)
        assert notes(folder) == ["kill"] * 3
        wait_until(lambda: queue._broker.dead_letters("celery", 10))
        (folder / "spared").touch()
        assert queue._broker.revive("celery", []) == 1
        wait_until(lambda: len(notes(folder)) == 4, worker.said)
        assert worker.stop() == 0


def test_a_killed_process_runs_its_task_again_once(shop):
    queue, folder = shop
    with working(folder) as worker:
        result = queue.send_task("shop.hold", ("a",))
        wait_until(lambda: notes(folder))
        os.kill(int(notes(folder)[0].split()[-1]), signal.SIGKILL)
        wait_until(lambda: len(notes(folder)) == 2)
        (folder / "go-a").touch()
        assert result.get(timeout=PATIENCE) == "a"
        assert worker.stop() == 0  # which settles first: the result comes before that
        assert [note.split()[0] for note in notes(folder)] == ["began", "began", "ended"]
    assert queue.depth() == 0


@pytest.mark.parametrize("options", [{}, {"time_limit": PATIENCE}], ids=["in a bulk", "alone"])
def test_a_terminated_task_takes_its_process_along_and_no_other_task(shop, options):
    queue, folder = shop
    with working(folder) as worker:
        ended = queue.send_task("shop.hold", ("a",), **options)
        kept = queue.send_task("shop.hold", ("b",), **options)
        wait_until(lambda: len(notes(folder)) == 2)
        ahead = [queue.send_task("shop.add", (n, 1), **options) for n in range(10)]
        ended.revoke(terminate=True)
        with pytest.raises(TaskRevoked, match="terminated"):
            ended.get(timeout=PATIENCE)
        assert [result.get(timeout=PATIENCE) for result in ahead] == list(range(1, 11))
        (folder / "go-b").touch()
        assert kept.get(timeout=PATIENCE) == "b"
        assert worker.stop() == 0
    assert queue.depth() == 0
    assert sorted(note.split()[:2] for note in notes(folder)) == [
        ["began", "a"],
        ["began", "b"],
        ["ended", "b"],
    ]
    assert "revoked: terminated" in worker.said()


def test_who_wants_to_know_is_told_which_process_has_begun(shop):
    queue, folder = shop
    with working(folder):
        result = queue.send_task("shop.tracked", ("a",))
        wait_until(lambda: notes(folder))
        assert result.status == "STARTED"
        assert result.info == {"pid": int(notes(folder)[0].split()[-1]), "hostname": "w1"}
        (folder / "go-a").touch()
        result.get(timeout=PATIENCE)


def test_the_first_signal_finishes_what_runs_and_gives_back_the_rest(shop):
    queue, folder = shop
    with working(folder, "--prefetch", "10") as worker:
        running = [queue.send_task("shop.hold", (name,)) for name in "ab"]
        wait_until(lambda: len(notes(folder)) == 2)
        queue.send_task("shop.hold", ("c",))
        queue.send_task("shop.add", (1, 1), countdown=3600)
        wait_until(lambda: queue.depth() == 0)
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: queue.depth() == 2, worker.said)
        for name in "ab":
            (folder / f"go-{name}").touch()
        assert worker.process.wait(PATIENCE) == 0
    assert [result.get(timeout=PATIENCE) for result in running] == ["a", "b"]
    assert queue.depth() == 2


def test_the_second_signal_gives_back_everything_at_once(shop):
    queue, folder = shop
    with working(folder) as worker:
        queue.send_task("shop.hold", ("a",))
        wait_until(lambda: notes(folder))
        worker.process.send_signal(signal.SIGINT)
        worker.wait_for("stopping")
        assert worker.stop(signal.SIGINT) == 1
    assert queue.depth() == 1
    assert len(notes(folder)) == 1


def test_after_its_grace_a_worker_gives_back_what_still_runs(shop):
    queue, folder = shop
    with working(folder, "--grace", "0.2") as worker:
        queue.send_task("shop.hold", ("a",))
        wait_until(lambda: notes(folder))
        assert worker.stop() == 0
    assert queue.depth() == 1


def test_another_worker_takes_over_from_one_that_was_killed(shop):
    queue, folder = shop
    with working(folder) as worker:
        result = queue.send_task("shop.hold", ("a",))
        wait_until(lambda: notes(folder))
        worker.process.kill()
        worker.process.wait()
    with working(folder, name="w2"):
        wait_until(lambda: len(notes(folder)) == 2)
        (folder / "go-a").touch()
        assert result.get(timeout=PATIENCE) == "a"


def test_two_workers_on_a_file_share_the_work_and_double_none(shop):
    queue, folder = shop
    with working(folder, "--prefetch", "2") as first, working(folder, "--prefetch", "2", name="w2") as second:
        for name in ("a", "b", "c", "d"):
            queue.send_task("shop.hold", (name,))
        wait_until(lambda: len(notes(folder)) == 4, lambda: str(notes(folder)))
        results = [queue.send_task("shop.add", (n, 1)) for n in range(100)]
        again = [queue.send_task("shop.add", (7, n), task_id="same") for n in range(2)]
        assert [result.id for result in again] == ["same", "same"]
        shown = manyhands(folder, "queue", "status", "-A", "shop:queue").stdout
        assert shown.splitlines()[1].split()[0] == "celery"
        for name in ("a", "b", "c", "d"):
            (folder / f"go-{name}").touch()
        assert [result.get(timeout=PATIENCE) for result in results] == list(range(1, 101))
        wait_until(lambda: (first.said() + second.said()).count("shop.add[same] succeeded") == 2)
        # The last one counts, as with every store of results.
        assert again[0].get(timeout=PATIENCE) in (7, 8)
        assert first.stop() == second.stop() == 0
    for result in results:
        assert (first.said() + second.said()).count(f"[{result.id}] succeeded") == 1
    assert all("shop.hold[" in program.said() for program in (first, second))


def test_what_waits_is_deleted_while_two_workers_run(shop):
    queue, folder = shop
    with working(folder, "--prefetch", "2"), working(folder, "--prefetch", "2", name="w2"):
        held = [queue.send_task("shop.hold", (name,)) for name in "abcd"]
        wait_until(lambda: len(notes(folder)) == 4, lambda: str(notes(folder)))
        waiting = [queue.send_task("shop.add", (n, 1)) for n in range(20)]
        purged = manyhands(folder, "queue", "purge", "--yes", "-A", "shop:queue")
        assert purged.stderr == "celery: deleted 20 messages\n"
        for name in "abcd":
            (folder / f"go-{name}").touch()
        # What runs is no longer waiting, and ends as ever.
        assert [result.get(timeout=PATIENCE) for result in held] == list("abcd")
        assert queue.send_task("shop.add", (1, 1)).get(timeout=PATIENCE) == 2
        assert {result.state for result in waiting} == {"PENDING"}
        assert queue.depth() == 0


def test_a_change_of_the_program_starts_it_anew(shop):
    queue, folder = shop
    with working(folder, "--watch") as worker:
        assert queue.send_task("shop.version").get(timeout=PATIENCE) == 1
        source = folder / "shop.py"
        source.write_text(source.read_text().replace("VERSION = 1", "VERSION = 22"))
        worker.wait_for("is ready", 2)
        assert queue.send_task("shop.version").get(timeout=PATIENCE) == 22
        assert worker.stop() == 0


def test_logs_as_json(shop):
    queue, folder = shop
    with working(folder, "--log-format", "json", "-l", "debug") as worker:
        result = queue.send_task("shop.add", (1, "x"))
        with pytest.raises(TypeError):
            result.get(timeout=PATIENCE)
        worker.stop()
    lines = [json.loads(line) for line in worker.said().splitlines()]
    events = [line["event"] for line in lines if line.get("id") == result.id]
    assert events == ["received", "failed"]
    failed = next(line for line in lines if line.get("event") == "failed")
    assert (failed["level"], failed["task"]) == ("error", "shop.add")
    assert "TypeError" in failed["traceback"]


def test_a_worker_that_cannot_start_says_why(shop):
    _, folder = shop
    for words, told in [
        (("-A", "nowhere:queue"), "nowhere"),
        (("-A", "shop:nothing"), "shop:nothing"),
        (("-A", "shop:queue", "-l", "loud"), "loud"),
    ]:
        ran = manyhands(folder, "worker", *words)
        assert ran.returncode == 2
        assert told in ran.stderr
        assert "Traceback" not in ran.stderr


def test_queues_are_looked_after(shop):
    queue, folder = shop
    queue.send_task("shop.missing")
    with working(folder) as worker:
        wait_until(lambda: queue._broker.dead_letters("celery", 1))
        worker.stop()
    queue.send_task("shop.add", (1, 2))
    told = manyhands(folder, "queue", "status", "-A", "shop:queue").stdout
    assert told.splitlines()[1].split() == ["celery", "1", "1"]
    assert "shop.waits" in manyhands(folder, "queue", "inspect", "-A", "shop:queue").stdout
    address = ("--broker", f"sqlite:///{folder}/jobs.db")
    assert "shop.missing" in manyhands(folder, "queue", "dead", "list", *address).stdout
    assert "1 messages" in manyhands(folder, "queue", "dead", "revive", "celery", *address).stderr
    assert "2 messages" in manyhands(folder, "queue", "purge", "-y", *address).stderr
    assert queue.depth() == 0
    assert manyhands(folder, "queue", "status").returncode == 2
