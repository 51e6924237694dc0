"""Headers that lie deeper in each other than a thread's usual stack reaches harm no worker."""

import subprocess
import sys
import threading
from contextlib import closing

import amqp
import pytest

import manyhands as mh

APPLICATION = """
import manyhands as mh

queue = mh.Queue("nesting", broker={url!r}, results="rpc://", default_queue="nesting")

@queue.task(name="nesting.add")
def add(a, b):
    return a + b
"""
LEVELS = 20_000
"""In less than a frame of 128 KiB."""


def publish(server, queue):
    """Send a message with such headers; py-amqp writes them by recursion, too."""
    headers = []
    for _ in range(LEVELS):
        headers = [headers]
    message = amqp.Message(b"[]", application_headers={"task": "nesting.add", "id": "deep", "deep": headers})

    def send():
        with amqp.Connection(server.url.rpartition("@")[2].rstrip("/")) as connection:
            channel = connection.channel()
            channel.confirm_select()
            channel.basic_publish_confirm(message, routing_key=queue)

    limit, size = sys.getrecursionlimit(), threading.stack_size(256 << 20)
    sys.setrecursionlimit(10 * LEVELS)
    try:
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)


@pytest.fixture
def worker(rabbit_server, tmp_path):
    (tmp_path / "nesting.py").write_text(APPLICATION.format(url=rabbit_server.url))
    command = [sys.executable, "-m", "manyhands.cli", "worker", "-A", "nesting:queue", "-c", "1"]
    worker = subprocess.Popen(command, cwd=tmp_path)
    yield worker
    worker.terminate()
    worker.wait(timeout=30)


def test_a_worker_outlives_headers_of_many_levels(rabbit_server, worker):
    queue = mh.Queue("nesting", broker=rabbit_server.url, results="rpc://", default_queue="nesting")
    with closing(queue):
        assert queue.send_task("nesting.add", (1, 2)).get(timeout=60) == 3
        publish(rabbit_server, "nesting")
        assert queue.send_task("nesting.add", (2, 3)).get(timeout=60) == 5
    assert worker.poll() is None
