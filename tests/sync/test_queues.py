"""The queues: every item comes out once, whoever puts, takes, gives up or shuts down."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sleeping import Background, Interruption, asleep, interruption_when_asleep

from manyhands.sync import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown
from watching import seeds

KINDS = [Queue, LifoQueue, PriorityQueue]
each_kind = pytest.mark.parametrize("kind", KINDS)


class Replaced(Queue):
    """A queue that keeps its items its own way."""

    def _init(self, maxsize):
        self.kept = []

    def _qsize(self):
        return len(self.kept)

    def _put(self, item):
        self.kept.insert(0, item)

    def _get(self):
        return self.kept.pop()


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [*KINDS, Replaced])
@pytest.mark.parametrize("maxsize", [0, 1, 3])
def test_threads_and_tasks_pass_every_item_on_exactly_once(kind, maxsize):
    queue, end = kind(maxsize), (9999, None)
    taken = Counter()

    def produce(name):
        for number in range(60):
            queue.put((number, name))

    def consume():
        mine = Counter()
        while (item := queue.get()) != end:
            mine[item] += 1
            queue.task_done()
        queue.task_done()
        return mine

    async def aproduce(name):
        for number in range(30):
            await queue.aput((number, name))

    async def aconsume():
        mine = Counter()
        while (item := await queue.aget()) != end:
            mine[item] += 1
            queue.task_done()
        queue.task_done()
        return mine

    async def main():
        consumers = [asyncio.create_task(aconsume()) for _ in range(2)]
        await asyncio.gather(*(aproduce(f"task {number}") for number in range(2)))
        for thread in producers:
            await asyncio.to_thread(thread.result)
        await queue.ajoin()
        for _ in range(4):
            await queue.aput(end)
        return sum(await asyncio.gather(*consumers), Counter())

    threads = [Background(consume) for _ in range(2)]
    producers = [Background(produce, f"thread {number}") for number in range(2)]
    taken = asyncio.run(asyncio.wait_for(main(), 30))
    for thread in threads:
        taken += thread.result()
    queue.join()
    assert taken == Counter(
        [(number, f"thread {name}") for name in range(2) for number in range(60)]
        + [(number, f"task {name}") for name in range(2) for number in range(30)]
    )


@given(st.lists(st.sampled_from(["put", "get"]), max_size=40), st.integers(0, 4))
@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_is_the_model_of_itself(kind, steps, maxsize):
    queue, model = kind(maxsize), []
    for number, step in enumerate(steps):
        item = (number * 7) % 11
        if step == "put":
            if maxsize and len(model) == maxsize:
                with pytest.raises(Full):
                    queue.put_nowait(item)
            else:
                queue.put_nowait(item)
                model.append(item)
        elif not model:
            with pytest.raises(Empty):
                queue.get_nowait()
        else:
            position = {Queue: 0, LifoQueue: -1, PriorityQueue: model.index(min(model))}[kind]
            assert queue.get_nowait() == model.pop(position)
        assert (queue.qsize(), queue.empty()) == (len(model), not model)
        assert queue.full() == (0 < maxsize <= len(model))


@pytest.mark.parametrize(("maxsize", "room"), [(1.3, 2), (2.0, 2), (-0.5, None), (float("inf"), None)])
def test_a_size_that_is_no_whole_number_counts_as_the_next_one(maxsize, room):
    queue = Queue(maxsize)
    with contextlib.suppress(Full):
        for item in range(5):
            queue.put_nowait(item)
    assert queue.qsize() == (room or 5)
    assert queue.full() == (room is not None)


@each_kind
def test_a_cancelled_getter_takes_no_item_along(kind):
    queue = kind()

    async def main():
        first, second = (asyncio.create_task(queue.aget()) for _ in range(2))
        await turns()
        queue.put(1)
        first.cancel()
        assert await second == 1
        await asyncio.wait([first])
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert queue.empty()


@each_kind
def test_a_cancelled_putter_leaves_its_room_to_the_next(kind):
    queue = kind(1)
    queue.put(0)

    async def main():
        first, second = (asyncio.create_task(queue.aput(number)) for number in (1, 2))
        await turns()
        assert queue.get() == 0
        first.cancel()
        await second
        await asyncio.wait([first])
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert queue.get() == 2
    assert queue.empty()


@each_kind
def test_a_task_of_a_closed_loop_is_passed_by(kind):
    queue = kind()
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.aget())
    task._log_destroy_pending = False
    loop.run_until_complete(turns())
    loop.close()
    patient = asleep(queue.get)
    queue.put(1)
    assert patient.result() == 1


@each_kind
def test_a_signal_interrupts_the_wait_and_takes_no_item_along(kind):
    queue = kind()
    with interruption_when_asleep(), pytest.raises(Interruption):
        queue.get()
    queue.put(1)
    assert queue.get_nowait() == 1
    full = kind(1)
    full.put(1)
    with interruption_when_asleep(), pytest.raises(Interruption):
        full.put(2)
    with interruption_when_asleep(), pytest.raises(Interruption):
        full.join()
    assert full.get() == 1
    assert full.empty()


@seeds(10)
def test_items_survive_getters_and_putters_that_give_up_at_any_moment(seed):
    draw = random.Random(seed)
    queue, taken = Queue(2), []

    async def get():
        taken.append(await queue.aget())

    async def main():
        put, tasks = set(), []
        for number in range(40):
            getter = asyncio.create_task(get())
            putter = asyncio.create_task(queue.aput(number))
            tasks += [getter, putter]
            await turns(draw.randrange(3))
            for task in draw.sample(tasks, draw.randrange(3)):
                task.cancel()
            putter.add_done_callback(
                lambda done, number=number: None if done.cancelled() else put.add(number)
            )
        while any(not task.done() for task in tasks):
            await turns()
            for task in tasks:
                if draw.random() < 0.1:
                    task.cancel()
        while not queue.empty():
            taken.append(queue.get_nowait())
        await turns()
        return put

    put = asyncio.run(asyncio.wait_for(main(), 20))
    assert len(taken) == len(set(taken))
    assert set(taken) == put


@each_kind
@pytest.mark.parametrize("immediate", [False, True])
def test_a_shutdown_ends_every_wait(kind, immediate):
    empty, full = kind(), kind(1)
    full.put(1)
    threads = [asleep(empty.get), asleep(full.put, 2)]

    async def main():
        tasks = [asyncio.create_task(empty.aget()), asyncio.create_task(full.aput(2))]
        await turns()
        empty.shutdown(immediate)
        full.shutdown(immediate)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in asyncio.run(main())] == [ShutDown] * 2
    for thread in threads:
        with pytest.raises(ShutDown):
            thread.result()
    if not immediate:
        assert full.get() == 1
    with pytest.raises(ShutDown):
        full.get_nowait()


def test_many_go_in_and_come_out_at_a_time():
    queue = Queue(3)
    assert queue.put_many("abcd", block=False) == 3
    assert queue.put_many("d", timeout=0.001) == 0
    assert queue.get_many(2) == ["a", "b"]
    assert queue.get_many(5) == ["c"]
    with pytest.raises(Empty):
        queue.get_many(1, block=False)
    with pytest.raises(ValueError, match="found most=0, expected 1 or more"):
        queue.get_many(0)
    thread = Background(queue.put_many, range(10))
    got = []
    while len(got) < 10:
        got += queue.get_many(4)
    assert (got, thread.result()) == ([*range(10)], 10)


def test_many_that_are_left_come_out_before_the_news_of_a_shutdown():
    queue = Queue()
    queue.put_many([1, 2])
    queue.shutdown()
    assert queue.get_many(5) == [1, 2]
    with pytest.raises(ShutDown):
        queue.get_many(5)


def test_more_room_lets_those_through_who_wait_for_it():
    queue = Queue(1)
    queue.put(1)
    thread = asleep(queue.put, 2)
    queue.maxsize = 2
    thread.result()
    assert queue.get_many(2) == [1, 2]


def test_a_comparison_that_raises_harms_nobody_else():
    queue = PriorityQueue()
    queue.put(1)
    with pytest.raises(TypeError, match="not supported between"):
        queue.put("text")
    assert queue.unfinished_tasks == 1
    thread = Background(queue.get)
    assert thread.result() == 1


def test_a_comparison_may_let_other_threads_run():
    class Slow:
        def __lt__(self, other):
            other_thread = Background(queue.qsize)
            other_thread.join(0.01)
            waiting.append(other_thread)
            return True

    queue, waiting = PriorityQueue(), []
    queue.put_many([Slow(), Slow()])
    assert [thread.result() for thread in waiting] == [2]


def test_a_queue_that_holds_itself_is_garbage():
    import gc
    import weakref

    for kind in KINDS:
        queue = kind()
        queue.put((1, queue))
        remembered = weakref.ref(queue)
        del queue
        gc.collect()
        assert remembered() is None


def test_join_waits_for_what_was_taken():
    queue = Queue()
    queue.put(1)
    queue.get()
    thread = asleep(queue.join)
    queue.task_done()
    thread.result()
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()


def test_a_subclass_with_methods_of_its_own_is_still_a_queue_of_the_standard_kind():
    class Counting(LifoQueue):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.calls = 0

        def put(self, *arguments, **keywords):
            self.calls += 1
            super().put(*arguments, **keywords)

    queue = Counting(2)
    queue.put(1)
    queue.put(2, block=False)
    assert (queue.maxsize, queue.calls, queue.get_many(2)) == (2, 2, [2, 1])
    assert isinstance(queue, Queue)


@pytest.mark.parametrize(
    "item", [None, (), (1, 2), StopIteration(3), ValueError("no"), ValueError, 0, "text"]
)
def test_an_item_comes_out_as_it_went_in_whatever_it_is(item):
    queue = Queue()

    async def main():
        task = asyncio.create_task(queue.aget())
        await turns()
        assert await queue.aput(item) is None
        assert await task is item
        await queue.aput(item)
        return await queue.aget()

    assert asyncio.run(main()) is item
