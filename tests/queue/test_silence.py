"""Connections that fall silent without an end: a worker with nothing to do notices, and makes others."""

import threading
from contextlib import contextmanager

import pytest
from proxy import Proxy

import manyhands as mh
from manyhands.errors import BrokerError
from manyhands.queue import Worker

PATIENCE = 60
SOON = {"redis": ("", {"connect_timeout": 1}), "rabbit": ("?heartbeat=1", {"connect_timeout": 2})}
"""How to make it notice within seconds."""


@pytest.fixture(params=["redis", "rabbit"])
def broker(request):
    return request.param


@contextmanager
def idle_worker(url, broker):
    """A worker that has worked, and waits; and the event that its task sets."""
    query, options = SOON[broker]
    queue = mh.Queue("silence", broker=url + query, results="", default_queue="silence", **options)
    ran = threading.Event()
    queue.task(ran.set, name="ring")
    with Worker(queue, on="thread", concurrency=1):
        queue.send_task("ring")
        assert ran.wait(PATIENCE)
        ran.clear()
        yield ran
    queue.close()


def ring(url, ran):
    others = mh.Queue("silence", broker=url, results="", default_queue="silence")
    others.send_task("ring")
    assert ran.wait(PATIENCE)
    others.close()


def test_connections_that_swallow_everything_are_replaced(broker, request):
    server = request.getfixturevalue(f"{broker}_server")
    proxy = Proxy(server.port)
    try:
        with idle_worker(server.url.replace(str(server.port), str(proxy.port)), broker) as ran:
            proxy.swallow()
            # They stay silent for ever: only a worker that has made others can run it.
            ring(server.url, ran)
    finally:
        proxy.close()


def test_a_server_that_froze_is_worked_for_again(broker, request):
    server = request.getfixturevalue(f"{broker}_server")
    query, options = SOON[broker]
    watcher = mh.Queue("silence", broker=server.url + query, results="", **options)
    with idle_worker(server.url, broker) as ran:
        with server.paused(), pytest.raises(BrokerError):
            # As long as anybody waits for an answer.
            watcher.depth("silence")
        ring(server.url, ran)
    watcher.close()
