"""How queues are declared on RabbitMQ: with priorities, as quorum queues, or as somebody else has done."""

import threading
import uuid

import pytest

import manyhands as mh
from manyhands.errors import BrokerError
from manyhands.queue import Worker
from watching import eventually

PATIENCE = 60


@pytest.fixture
def made(rabbit_server):
    """Makes applications on one queue, each with a connection of its own."""
    name, opened = uuid.uuid4().hex, []

    def make(**options):
        address = f"{rabbit_server.url}?heartbeat={60 + len(opened)}"
        queue = mh.Queue("declared", address, "", default_queue=name, **options)
        opened.append(queue)
        return queue

    yield make
    for queue in opened:
        queue.close()


def order_of(queue, priorities, before=0):
    """In which order a worker gets what is sent with those priorities, and what was sent before."""
    came, all_came = [], threading.Event()

    @queue.task(name="note")
    def note(priority):
        came.append(priority)
        if len(came) == before + len(priorities):
            all_came.set()

    for priority in priorities:
        note.apply_async((priority,), priority=priority)
    # One at a time: the server decides.
    with Worker(queue, on="thread", concurrency=1, prefetch=1):
        assert all_came.wait(PATIENCE)
    return came


def test_a_queue_with_priorities_sorts_by_them(made):
    assert order_of(made(max_priority=9), [1, 9, 5]) == [9, 5, 1]


def test_a_queue_without_priorities_does_not(made):
    assert order_of(made(), [1, 9, 5]) == [1, 9, 5]


@pytest.mark.parametrize("declared", [{"queue_type": "quorum"}, {"max_priority": 9}], ids=str)
def test_who_says_nothing_takes_a_queue_as_it_is(made, declared):
    made(**declared).send_task("note", (1,))
    ours = made()
    eventually(lambda: ours.depth() == 1)
    assert sorted(order_of(ours, [2], before=1)) == [1, 2]


def test_a_quorum_queue_is_worked_on_and_gives_back(made):
    queue = made(queue_type="quorum")
    began, gate, results = threading.Event(), threading.Event(), []

    @queue.task(name="hold")
    def hold(number):
        began.set()
        gate.wait(PATIENCE)
        results.append(number)

    for number in range(4):
        hold.delay(number)
    hold.apply_async((9,), countdown=3600)
    worker = Worker(queue, on="thread", concurrency=1).start()
    assert began.wait(PATIENCE)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    gate.set()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    eventually(lambda: len(results) + queue.depth() == 5)
    assert queue.purge() == 5 - len(results)


@pytest.mark.parametrize("declared", [{"queue_type": "quorum"}, {"max_priority": 9}], ids=str)
def test_a_queue_that_is_there_and_otherwise_is_refused_with_the_reason(made, declared):
    made().send_task("note")
    with pytest.raises(BrokerError, match=r"could not declare the queue .*: .*inequivalent arg") as raised:
        made(**declared, when_unreachable="fail").send_task("note")
    assert not raised.value.is_transient
    with (
        Worker(made(**declared), on="thread", concurrency=1) as worker,
        pytest.raises(RuntimeError, match=r"could not go on working: .*inequivalent arg"),
    ):
        worker.wait(PATIENCE)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"max_priority": 0}, "found 0, expected a number from 1 to 255"),
        ({"max_priority": 256}, "found 256"),
        ({"max_priority": "9"}, "found '9'"),
        ({"queue_type": "stream"}, 'found \'stream\', expected "classic" or "quorum"'),
        ({"queue_type": "quorum", "max_priority": 9}, "found a quorum queue, expected a classic one"),
    ],
)
def test_what_is_no_declaration_is_refused_before_anything_is_connected(options, found):
    with pytest.raises(ValueError, match=found):
        mh.Queue("declared", "amqp://nowhere.invalid//", **options)
