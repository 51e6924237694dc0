"""Channels: every item comes out once and in order, whoever sends, receives, chooses, gives up or closes."""

import asyncio
import gc
import pickle
import random
import threading
import weakref
from collections import Counter

import pytest
from sleeping import Background, Interruption, asleep, forks, in_a_fork, interruption_when_asleep

from manyhands.sync import Channel, ChannelClosed, Empty, Full, aselect, select
from watching import seeds

each_capacity = pytest.mark.parametrize("capacity", [0, 1, 3])


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


@each_capacity
def test_threads_and_tasks_pass_every_item_on_exactly_once_and_in_order(capacity):
    channel = Channel(capacity)

    def produce(name):
        for number in range(60):
            channel.send((name, number))

    def consume():
        return list(channel)

    async def aproduce(name):
        for number in range(30):
            await channel.asend((name, number))

    async def aconsume():
        return [item async for item in channel]

    async def main():
        consumers = [asyncio.create_task(aconsume()) for _ in range(2)]
        await asyncio.gather(*(aproduce(f"task {number}") for number in range(2)))
        for thread in producers:
            await asyncio.to_thread(thread.result)
        channel.close()
        return await asyncio.gather(*consumers)

    threads = [Background(consume) for _ in range(2)]
    producers = [Background(produce, f"thread {number}") for number in range(2)]
    taken = [*run(main()), *(thread.result() for thread in threads)]
    assert Counter(item for mine in taken for item in mine) == Counter(
        [(f"thread {name}", number) for name in range(2) for number in range(60)]
        + [(f"task {name}", number) for name in range(2) for number in range(30)]
    )
    for mine in taken:
        for producer in {name for name, _ in mine}:
            numbers = [number for name, number in mine if name == producer]
            assert numbers == sorted(numbers)


def test_a_rendezvous_is_over_when_the_item_was_received():
    channel, said = Channel(), []

    def produce():
        channel.send("tea")
        said.append("received")

    producer = asleep(produce)
    assert (said, channel.qsize()) == ([], 0)
    assert channel.receive() == "tea"
    producer.result()
    assert said == ["received"]


def test_without_waiting_an_item_passes_to_one_who_waits():
    channel = Channel()
    with pytest.raises(Full):
        channel.send_nowait("tea")
    with pytest.raises(Empty):
        channel.receive_nowait()
    with pytest.raises(Full):
        channel.send("tea", timeout=0.001)
    with pytest.raises(Empty):
        channel.receive(timeout=0.001)
    receiver = asleep(channel.receive)
    channel.send_nowait("tea")
    assert receiver.result() == "tea"
    sender = asleep(channel.send, "milk")
    assert channel.receive_nowait() == "milk"
    sender.result()


def test_those_who_wait_are_served_in_order():
    channel = Channel()

    async def main():
        receivers = [asyncio.create_task(channel.areceive()) for _ in range(3)]
        await turns()
        for number in range(3):
            channel.send_nowait(number)
        assert await asyncio.gather(*receivers) == [0, 1, 2]
        senders = [asyncio.create_task(channel.asend(number)) for number in range(3)]
        await turns()
        assert [channel.receive_nowait() for _ in range(3)] == [0, 1, 2]
        await asyncio.gather(*senders)

    run(main())


@each_capacity
def test_a_closed_channel_is_drained_and_then_ends(capacity):
    channel = Channel(capacity)
    for number in range(capacity):
        channel.send(number)
    sender = asleep(channel.send, "late")
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosed, match="could not send"):
        sender.result()
    with pytest.raises(ChannelClosed, match="could not send"):
        channel.send_nowait("later")
    assert channel.is_closed
    assert channel.qsize() == capacity
    assert list(channel) == list(range(capacity))
    with pytest.raises(ChannelClosed, match="nothing left") as caught:
        channel.receive()
    assert caught.value.channel is channel
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_closing_ends_every_wait():
    empty, full = Channel(), Channel(1)
    full.send(0)

    async def collect():
        return [item async for item in empty]

    async def main():
        tasks = [empty.areceive(), full.asend(1), aselect(empty, (full, 2))]
        tasks = [asyncio.ensure_future(task) for task in tasks]
        loops = asyncio.create_task(collect())
        threads = [asleep(list, empty), asleep(empty.receive), asleep(select, empty)]
        await turns()
        empty.close()
        full.close()
        for task in tasks:
            with pytest.raises(ChannelClosed):
                await task
        assert await loops == threads[0].result() == []
        for thread in threads[1:]:
            with pytest.raises(ChannelClosed):
                thread.result()

    run(main())
    assert full.receive() == 0


def test_a_select_takes_what_is_there_and_leaves_the_rest():
    left, right = Channel(2), Channel(2)
    right.send("r")
    assert select(left, right) == (right, "r")
    left.send("l")
    assert select(right, left) == (left, "l")
    with pytest.raises(TimeoutError):
        select(left, right, timeout=0)
    with pytest.raises(TimeoutError):
        select(left, right, timeout=0.001)
    assert select((left, 1), timeout=0) == (left, 1)
    assert select((left, 2), right) == (left, 2)
    with pytest.raises(TimeoutError):
        select((left, 3), right, timeout=0.001)
    assert [left.receive_nowait() for _ in range(2)] == [1, 2]


def test_a_select_is_woken_by_whichever_is_first_and_stands_in_no_line_afterwards():
    channels = [Channel() for _ in range(3)]

    def choose():
        return [select(*channels) for _ in range(3)]

    chooser = Background(choose)
    for number in (2, 0, 1):
        channels[number].send(number)
    assert chooser.result() == [(channels[number], number) for number in (2, 0, 1)]
    for channel in channels:
        with pytest.raises(Full):
            channel.send_nowait("nobody waits")


def test_of_several_that_are_ready_none_is_preferred():
    channels = [Channel(1) for _ in range(3)]
    chosen = Counter()
    for channel in channels:
        channel.send(None)
    for _ in range(300):
        channel, _item = select(*channels)
        chosen[channels.index(channel)] += 1
        channel.send(None)
    # A fair choice falls below this once in 10^12 times.
    assert min(chosen.values()) > 40


def test_selects_that_offer_and_seek_crosswise_exchange_one_item():
    left, right = Channel(), Channel()

    async def main():
        first = asyncio.ensure_future(aselect((left, "from first"), right))
        await turns()
        second = asyncio.ensure_future(aselect((right, "from second"), left))
        outcomes = await asyncio.gather(first, second)
        assert len(set(outcomes)) == 1
        assert outcomes[0] in [(left, "from first"), (right, "from second")]

    run(main())


def test_a_select_never_exchanges_with_itself():
    channel = Channel()
    with pytest.raises(TimeoutError):
        select(channel, (channel, "mine"), timeout=0.001)
    chooser = asleep(select, channel, (channel, "mine"))
    assert channel.receive() == "mine"
    assert chooser.result() == (channel, "mine")


def test_a_closed_channel_is_ready_and_named():
    jobs, stop = Channel(), Channel()
    worker = asleep(select, jobs, stop)
    stop.close()
    with pytest.raises(ChannelClosed) as caught:
        worker.result()
    assert caught.value.channel is stop
    jobs.close()
    with pytest.raises(ChannelClosed, match="could not send") as caught:
        select((jobs, 1))
    assert caught.value.channel is jobs


@pytest.mark.parametrize("case", [1, (1, 2), (Channel(), 1, 2), None])
def test_what_is_no_case_is_refused(case):
    with pytest.raises(TypeError, match="could not select"):
        select(Channel(), case)
    with pytest.raises(TypeError, match="could not select"):
        aselect(case)
    with pytest.raises(ValueError, match="found no channels"):
        select()
    with pytest.raises(ValueError, match="capacity=-1"):
        Channel(-1)


@pytest.mark.parametrize("wait", [lambda one, other: one.areceive(), lambda one, other: aselect(other, one)])
def test_a_cancelled_receiver_takes_no_item_along(wait):
    channel, other = Channel(), Channel()

    async def main():
        first, second = (asyncio.ensure_future(wait(channel, other)) for _ in range(2))
        await turns()
        channel.send_nowait(1)
        first.cancel()
        assert await second in (1, (channel, 1))
        assert first.cancelled()
        third = asyncio.ensure_future(wait(channel, other))
        await turns()
        channel.send_nowait(2)
        third.cancel()
        await asyncio.wait([third])
        assert channel.qsize() == 1, "there is nobody else, so it waits in the channel"
        assert channel.receive() == 2

    run(main())


def test_a_cancelled_sender_has_not_sent():
    channel = Channel()

    async def main():
        sender = asyncio.ensure_future(channel.asend(1))
        await turns()
        sender.cancel()
        await asyncio.wait([sender])
        with pytest.raises(Empty):
            channel.receive_nowait()

    run(main())


def test_a_coroutine_that_is_thrown_away_gives_back_what_it_was_given():
    channel = Channel()

    async def main():
        async def wait():
            await channel.areceive()

        coroutine = wait()
        coroutine.send(None)
        channel.send_nowait("tea")
        coroutine.close()
        assert channel.receive_nowait() == "tea"

    run(main())


def test_a_task_of_a_closed_loop_is_passed_by():
    channel = Channel()
    closed = asyncio.new_event_loop()
    task = closed.create_task(channel.areceive())
    closed.run_until_complete(turns())
    closed.close()
    receiver = asleep(channel.receive)
    channel.send_nowait("tea")
    assert receiver.result() == "tea"
    task._log_destroy_pending = False


def test_a_signal_interrupts_the_wait_and_takes_no_item_along():
    channel, other = Channel(), Channel()
    for wait in (
        channel.receive,
        lambda: channel.send(1),
        lambda: select(channel, (other, 1)),
        lambda: list(channel),
    ):
        with interruption_when_asleep(), pytest.raises(Interruption):
            wait()
    with pytest.raises(Empty):
        channel.receive_nowait()
    receiver = asleep(channel.receive)
    channel.send_nowait("tea")
    assert receiver.result() == "tea"


@seeds(3)
@each_capacity
def test_items_survive_those_who_choose_and_give_up_at_any_moment(seed, capacity):
    """Threads and tasks send, receive and choose with short time limits; what went in comes out once."""
    dice = random.Random(seed)
    channels = [Channel(capacity) for _ in range(2)]
    lock, sent, received = threading.Lock(), Counter(), Counter()
    numbers = iter(range(10**6))

    def fresh():
        with lock:
            return next(numbers)

    def note(counter, item):
        with lock:
            counter[item] += 1

    def work(name):
        dice = random.Random(f"{seed} {name}")
        for _ in range(60):
            one, other = dice.sample(channels, 2)
            item = fresh()
            patience = dice.choice([0, 0.0001, 0.001])
            try:
                match dice.randrange(4):
                    case 0:
                        one.send(item, timeout=patience)
                        note(sent, item)
                    case 1:
                        note(received, one.receive(timeout=patience))
                    case 2:
                        note(received, select(one, other, timeout=patience)[1])
                    case 3:
                        channel, got = select(one, (other, item), timeout=patience)
                        note(sent if channel is other else received, got)
            except (Full, Empty, TimeoutError):
                pass

    async def awork(name):
        dice = random.Random(f"{seed} {name}")
        for _ in range(40):
            one, other = dice.sample(channels, 2)
            task = asyncio.ensure_future(dice.choice([one.areceive(), aselect(one, other)]))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                item = task.result()
                note(received, item[1] if isinstance(item, tuple) else item)

    async def main():
        await asyncio.gather(*(awork(f"task {number}") for number in range(2)))

    threads = [Background(work, f"thread {number}") for number in range(3)]
    run(main())
    for thread in threads:
        thread.result()
    for channel in dice.sample(channels, 2):
        channel.close()
        received.update(channel)
    assert received == sent
    assert set(received.values()) <= {1}


def test_a_channel_that_holds_itself_is_garbage():
    channel = Channel(1)
    channel.send([channel])
    gone = weakref.ref(channel)
    del channel
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("choose", [True, False])
def test_a_task_that_waits_for_ever_is_garbage_with_its_loop_and_its_channels(choose):
    async def wait(channel, other):
        await (aselect(channel, other, (other, channel)) if choose else channel.areceive())

    loop, channel, other = asyncio.new_event_loop(), Channel(), Channel()
    task = loop.create_task(wait(channel, other))
    task._log_destroy_pending = False
    loop.run_until_complete(turns())
    loop.close()
    gone = [weakref.ref(thing) for thing in (loop, task, channel)]
    gc.collect()
    assert all(reference() is not None for reference in gone)
    del loop, task, other
    gc.collect()
    assert gone[1]() is not None, "somebody may still send to it"
    del channel
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


@forks
def test_in_a_forked_child_those_who_waited_in_the_parent_are_forgotten():
    channel = Channel()
    receivers = [asleep(channel.receive) for _ in range(2)]

    def use():
        with pytest.raises(Full):
            channel.send_nowait("nobody waits here")
        receiver = Background(channel.receive)
        channel.send("tea")
        assert receiver.result() == "tea"

    assert in_a_fork(use) == "ok"
    for _ in receivers:
        channel.send_nowait("tea")
    assert [thread.result() for thread in receivers] == ["tea", "tea"]
