"""Producers whose broker is away: they wait, keep messages or fail, as they were told, and say so."""

import concurrent.futures
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from servers import Redis, running

import manyhands as mh
from manyhands import _core

NOWHERE = "redis://:hunter2@127.0.0.1:1/0"
"""Nobody listens on this port."""


@pytest.fixture
def server(tmp_path):
    """A Redis that may be killed."""
    with running(Redis, tmp_path) as started:
        yield started


def task_of(queue):
    return queue.task(name="shop.charge")(lambda order: None)


def test_who_is_to_fail_fails_at_once_and_shows_no_password():
    task = task_of(mh.Queue("shop", broker=NOWHERE, when_unreachable="fail"))
    for publish in (lambda: task.delay(1), lambda: task.delay_many([(1,), (2,)])):
        with pytest.raises(mh.BrokerError, match=r"could not reach redis://:\*\*\*@127") as raised:
            publish()
        assert raised.value.is_transient
        assert raised.value.confirmed == 0
        assert isinstance(raised.value, ConnectionError)


def test_one_call_may_fail_at_once_where_others_wait():
    task = task_of(mh.Queue("shop", broker=NOWHERE, patience=3600))
    with pytest.raises(mh.BrokerError):
        task.apply_async((1,), retry=False)


def test_who_waits_gives_up_when_the_time_is_over_and_says_that_he_waits(caplog):
    task = task_of(mh.Queue("shop", broker=NOWHERE, patience=0.2))
    with pytest.raises(mh.BrokerError):
        task.delay(1)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "manyhands.queue"]
    assert "trying again for up to 200ms" in told
    assert "hunter2" not in told


def test_who_waits_goes_on_when_the_broker_is_back(server, caplog):
    caplog.set_level(logging.WARNING, "manyhands.queue")
    queue = mh.Queue("shop", broker=server.url, patience=3600)
    task = task_of(queue)
    task.delay(0)
    server.kill()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(task.delay, n) for n in range(1, 4)]
        while not caplog.records:
            concurrent.futures.wait(waiting, 0.01)
        server.start()
        ids = {each.result().id for each in waiting}
    assert len(ids) == 3
    assert queue.depth() == 4
    assert any("reached" in record.getMessage() for record in caplog.records)


def test_what_is_kept_is_sent_in_order_when_the_broker_is_back(server):
    server.kill()
    queue = mh.Queue("shop", broker=server.url, when_unreachable="buffer", buffer=5)
    task = task_of(queue)
    results = [task.delay(n) for n in range(3)]
    assert len({result.id for result in results}) == 3
    assert queue._broker.kept == 3
    with pytest.raises(mh.BrokerError, match="3 messages are kept for it already") as raised:
        task.delay_many([(n,) for n in range(3)])
    assert raised.value.confirmed == 0
    task.delay_many([(3,), (4,)])
    server.start()
    assert _core.flush_queues(3600) == (0, 0)
    assert queue.depth() == 5
    assert task.delay(5).id
    assert queue.depth() == 6


def test_what_is_lost_at_exit_is_said_aloud():
    program = textwrap.dedent(f"""
        import manyhands as mh
        queue = mh.Queue("shop", broker={NOWHERE!r}, when_unreachable="buffer", patience=0.1)
        task = queue.task(name="shop.charge")(lambda order: None)
        for order in range(3):
            task.delay(order)
    """)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "manyhands: lost 3 tasks" in run.stderr
    assert "hunter2" not in run.stderr


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_does_not_send_what_its_parent_keeps(server):
    server.kill()
    queue = mh.Queue("shop", broker=server.url, when_unreachable="buffer")
    task = task_of(queue)
    task.delay(1)
    child = os.fork()
    if child == 0:
        os._exit(0 if queue._broker.kept == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    server.start()
    assert _core.flush_queues(3600) == (0, 0)
    assert queue.depth() == 1


def test_who_sends_to_a_server_that_froze_gives_up(server):
    queue = mh.Queue("shop", broker=server.url, connect_timeout=0.3, when_unreachable="fail")
    task = task_of(queue)
    task.delay(0)
    with server.paused(), pytest.raises(mh.BrokerError, match=r"could not reach .* no answer within 300ms"):
        task.delay(1)
    task.delay(2)
    queue.close()


def test_a_signal_interrupts_who_waits_for_a_server_that_froze(server):
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    queue = mh.Queue("shop", broker=server.url, connect_timeout=3600)
    task = task_of(queue)
    task.delay(0)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with server.paused(), pytest.raises(Alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            task.delay(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # What it was to be told may have arrived; what follows certainly does.
    depth = queue.depth()
    task.delay(2)
    assert queue.depth() == depth + 1
    queue.close()


def test_threads_and_children_send_beside_each_other(server):
    queue = mh.Queue("shop", broker=server.url)
    task = task_of(queue)
    task.delay(0)

    def send():
        for _ in range(200):
            task.delay(1)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if child == 0:
        try:
            send()
        except BaseException:
            os._exit(1)
        os._exit(0)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert queue.depth() == 1 + 5 * 200
    queue.close()
