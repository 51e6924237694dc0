"""Quorum queues, which Celery and we declare alike and take from side by side."""

import subprocess
import sys
import threading

import pytest
from celery import Celery
from kombu import pools

import manyhands as mh
from manyhands.queue import Worker
from watching import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

THEIRS = """
from celery import Celery

app = Celery("theirs", broker={url!r}, backend="rpc://")
app.conf.update(
    task_default_queue="quorum.theirs",
    task_default_queue_type="quorum",
    broker_connection_retry_on_startup=True,
)

@app.task(name="quorum.add", shared=False, lazy=False)
def add(a, b):
    return a + b
"""


@pytest.fixture
def theirs(rabbit_server):
    app = Celery("theirs", broker=rabbit_server.url, backend="rpc://", set_as_current=False)
    app.conf.update(task_create_missing_queue_type="quorum")
    yield app
    if app.backend.result_consumer._consumer is not None:
        app.backend.result_consumer.stop()
    pools.reset()
    app.close()


@pytest.fixture
def ours(rabbit_server):
    queue = mh.Queue("ours", rabbit_server.url, default_queue="quorum.ours", queue_type="quorum")
    yield queue
    queue.close()


def test_a_producer_of_celerys_sends_to_our_worker(theirs, ours):
    @ours.task(name="quorum.add")
    def add(a, b):
        return a + b

    with Worker(ours, on="thread", concurrency=1):
        result = theirs.send_task("quorum.add", (2, 40), queue="quorum.ours")
        assert result.get(timeout=60) == 42


def test_we_send_to_a_worker_of_celerys(ours, rabbit_server, tmp_path):
    (tmp_path / "quorum_theirs.py").write_text(THEIRS.format(url=rabbit_server.url))
    command = ["-m", "celery", "-A", "quorum_theirs", "worker", "-c", "1", "-n", "quorum@%h"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=log, stderr=log)
    try:
        results = [ours.send_task("quorum.add", (number, 1), queue="quorum.theirs") for number in range(20)]
        assert [result.get(timeout=60) for result in results] == list(range(1, 21))
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def test_both_declare_the_same_queue(theirs, ours):
    """Whoever comes first, the second is not refused."""
    ran = threading.Event()
    ours.task(ran.set, name="quorum.ring")
    for first, second in ((theirs, ours), (ours, theirs)):
        name = f"quorum.{type(first).__module__}"
        for sender in (first, second):
            sender.send_task("quorum.ring", queue=name, ignore_result=True)
        eventually(lambda name=name: ours.depth(name) == 2)
        assert ours.purge(name) == 2
