"""Headers that lie deeper in each other than a thread's stack reaches harm nobody, and are told of."""

import json
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import amqp
import pytest

import manyhands as mh

APPLICATION = """
import manyhands as mh

queue = mh.Queue({name!r}, broker={url!r}, results="rpc://", default_queue={name!r})

@queue.task(name="nesting.add")
def add(a, b):
    return a + b
"""
EMBEDDED = """
import signal
import manyhands as mh
from nesting import queue

signal.signal(signal.SIGTERM, lambda *_: None)
with mh.queue.Worker(queue, on="thread"):
    signal.pause()
"""
LEVELS = 20_000
"""In less than a frame of 128 KiB."""
REASON = f"could not read the message: found headers nested {LEVELS} deep, expected at most 64"
PATIENCE = 60


@contextmanager
def channel(server):
    with amqp.Connection(server.url.rpartition("@")[2].rstrip("/")) as connection:
        channel = connection.channel()
        channel.confirm_select()
        yield channel


def publish(server, queue, body, **properties):
    """Send a message with such headers; py-amqp writes them by recursion, too."""
    headers = None
    for _ in range(LEVELS):
        headers = [headers]
    headers = {"task": "nesting.add", "id": "deep", "deep": headers}
    message = amqp.Message(body, application_headers=headers, **properties)

    def send():
        with channel(server) as open_channel:
            open_channel.basic_publish_confirm(message, routing_key=queue)

    limit, size = sys.getrecursionlimit(), threading.stack_size(256 << 20)
    sys.setrecursionlimit(10 * LEVELS)
    try:
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)


@pytest.fixture(params=["command", "embedded"])
def worker(request, rabbit_server, tmp_path):
    name = f"nesting.{request.param}"
    (tmp_path / "nesting.py").write_text(APPLICATION.format(name=name, url=rabbit_server.url))
    command = {
        "command": ["-m", "manyhands.cli", "worker", "-A", "nesting:queue", "-c", "1"],
        "embedded": ["-c", EMBEDDED],
    }
    process = subprocess.Popen([sys.executable, *command[request.param]], cwd=tmp_path)
    yield name, process
    process.terminate()
    process.wait(timeout=30)


def test_a_worker_makes_them_a_dead_letter(rabbit_server, worker):
    name, process = worker
    queue = mh.Queue(name, broker=rabbit_server.url, results="rpc://", default_queue=name)
    with closing(queue):
        assert queue.send_task("nesting.add", (1, 2)).get(timeout=PATIENCE) == 3
        publish(rabbit_server, name, b"[]")
        assert queue.send_task("nesting.add", (2, 3)).get(timeout=PATIENCE) == 5
        deadline = time.monotonic() + PATIENCE
        while not (letters := queue._broker.dead_letters(name, 10)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(letters) == 1
        assert REASON in str(letters)
        assert process.poll() is None


def test_a_producer_gets_the_result_that_they_come_with(rabbit_server):
    queue = mh.Queue("nesting", broker=rabbit_server.url, results="rpc://", default_queue="nesting.producer")
    with closing(queue), channel(rabbit_server) as open_channel:
        result = queue.send_task("nesting.add", (1, 2))
        request = open_channel.basic_get("nesting.producer", no_ack=True)
        document = {"status": "SUCCESS", "result": 3, "traceback": None, "children": [], "task_id": result.id}
        publish(
            rabbit_server,
            request.properties["reply_to"],
            json.dumps(document).encode(),
            correlation_id=result.id,
            content_type="application/json",
            content_encoding="utf-8",
        )
        assert result.get(timeout=PATIENCE) == 3
