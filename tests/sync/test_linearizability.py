"""Random histories of threads and tasks on queues and read-write locks: calls one at a time explain them."""

import asyncio
import heapq
import random
import sys

import pytest
from sleeping import Background, run_callers

from linearizability import Call, Recorder, check, explain
from manyhands.sync import Empty, Full, LifoQueue, PriorityQueue, Queue, RWLock
from watching import seeds

EMPTY, FULL = "empty", "full"


@pytest.fixture(autouse=True)
def _many_switches():
    """Have threads interrupt each other between any two bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def queue_model(kind, maxsize):
    """A queue of that kind as a tuple of what is in it."""

    def put(items, item):
        return tuple(heapq.merge(items, (item,))) if kind is PriorityQueue else (*items, item)

    def model(items, name, arguments):
        is_full, is_empty = len(items) >= maxsize, not items
        if name.startswith("put"):
            if not is_full:
                yield put(items, *arguments), None
            elif name == "put_nowait":
                yield items, FULL
        elif name.startswith("get"):
            if not is_empty:
                yield (items[:-1], items[-1]) if kind is LifoQueue else (items[1:], items[0])
            elif name == "get_nowait":
                yield items, EMPTY
        else:
            yield items, len(items)

    return model


class Caller:
    """Makes random calls of a queue, as a thread or as a task, and has them recorded."""

    def __init__(self, recorder, queue, calls):
        self.recorder, self.queue, self.calls = recorder, queue, calls

    def at_once(self, name, arguments):
        """What a call gives that never waits."""
        try:
            return getattr(self.queue, name)(*arguments)
        except Empty:
            return EMPTY
        except Full:
            return FULL

    def thread(self):
        for name, *arguments in self.calls:
            with self.recorder.call(name, *arguments) as call:
                call.result = self.at_once(name, arguments)

    async def task(self):
        for name, *arguments in self.calls:
            with self.recorder.call(name, *arguments) as call:
                if name in ("put", "get"):
                    call.result = await getattr(self.queue, f"a{name}")(*arguments)
                else:
                    call.result = self.at_once(name, arguments)
            await asyncio.sleep(0)


def roomy(chance):
    """Calls that always find room. Everybody puts before he gets, so that nobody waits for ever."""
    numbers = iter(range(1000))
    plans = [[("put", next(numbers)), ("get",), ("put", next(numbers)), ("get",)] for _ in range(4)]
    for plan in plans:
        for _ in range(3):
            plan.insert(chance.randrange(5), chance.choice([("qsize",), ("put_nowait", next(numbers))]))
    return plans, 100


def narrow(chance):
    """Those who put and those who get, for as many items, wait for each other."""
    numbers = iter(range(1000))
    puts = [[("put", next(numbers)) for _ in range(6)] for _ in range(2)]
    plans = [*puts, [("get",)] * 6, [("get",)] * 6]
    for plan in plans:
        plan.insert(chance.randrange(7), ("qsize",))
    chance.shuffle(plans)
    return plans, 2


def hasty(chance):
    """Calls that never wait."""
    numbers = iter(range(1000))

    def call():
        return chance.choice([("put_nowait", next(numbers)), ("get_nowait",), ("qsize",)])

    return [[call() for _ in range(8)] for _ in range(4)], 2


@seeds(8)
@pytest.mark.parametrize("make_plans", [roomy, narrow, hasty])
@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_a_queue_answers_as_if_calls_came_one_at_a_time(kind, make_plans, seed):
    plans, maxsize = make_plans(random.Random(f"{kind.__name__} {seed}"))
    recorder, queue = Recorder(), kind(maxsize)
    callers = [Caller(recorder, queue, plan) for plan in plans]
    run_callers(callers)
    check(recorder.calls, queue_model(kind, maxsize), ())


def side_model(present, name, _arguments):
    """Who is there: so many readers, or -1, the writer."""
    is_free = present == 0
    if name == "read":
        if present >= 0:
            yield present + 1, True
    elif name == "write":
        if is_free:
            yield -1, True
    elif name == "try_read":
        # A writer who waits keeps readers out, and a model without a line cannot know him.
        yield from [(present + 1, True)] if present >= 0 else []
        yield present, False
    elif name == "try_write":
        yield (-1, True) if is_free else (present, False)
        yield present, False
    else:
        yield (present - 1 if present > 0 else 0), None


@seeds(12)
def test_a_read_write_lock_answers_as_if_calls_came_one_at_a_time(seed):
    chance = random.Random(seed)
    lock, recorder = RWLock(), Recorder()
    plans = [[chance.choice(["read", "write", "try_read", "try_write"]) for _ in range(6)] for _ in range(4)]

    def visit(side, name):
        with recorder.call(name) as call:
            call.result = side.acquire(blocking=not name.startswith("try"))
        return call.result

    def leave(side):
        with recorder.call("release") as call:
            call.result = side.release()

    def thread(plan):
        for name in plan:
            side = getattr(lock, name.removeprefix("try_"))
            if visit(side, name):
                leave(side)

    async def task(plan):
        for name in plan:
            side = getattr(lock, name.removeprefix("try_"))
            if name.startswith("try"):
                # As the task, which a thread's way to try would not be.
                continue
            with recorder.call(name) as call:
                call.result = await side.aacquire()
            await asyncio.sleep(0)
            leave(side)

    async def tasks():
        await asyncio.gather(*map(task, plans[2:]))

    others = [Background(thread, plan) for plan in plans[:2]] + [Background(asyncio.run, tasks())]
    for other in others:
        other.result()
    check(recorder.calls, side_model, 0)


@pytest.mark.parametrize(
    ("history", "is_explained"),
    [
        ([("put", (1,), 0, 1, None), ("get", (), 2, 3, 1)], True),
        ([("get", (), 0, 3, 1), ("put", (1,), 1, 2, None)], True),
        ([("get", (), 0, 1, 1), ("put", (1,), 2, 3, None)], False),
        ([("put", (1,), 0, 1, None), ("put", (2,), 2, 3, None), ("get", (), 4, 5, 2)], False),
        ([("put", (1,), 0, 3, None), ("put", (2,), 1, 2, None), ("get", (), 4, 5, 2)], True),
        ([("put", (1,), 0, 1, None), ("get", (), 2, 5, 1), ("get_nowait", (), 3, 4, 1)], False),
        ([("put", (1,), 0, 1, None), ("get_nowait", (), 2, 3, EMPTY)], False),
    ],
)
def test_the_check_tells_what_can_have_been_from_what_cannot(history, is_explained):
    calls = [Call(*call) for call in history]
    assert (explain(calls, queue_model(Queue, 9), ()) is not None) is is_explained


def test_a_call_that_never_ended_may_have_happened_or_not():
    put = Call("put", (1,), 0)
    for got in (1, EMPTY):
        assert explain([put, Call("get_nowait", (), 1, 2, got)], queue_model(Queue, 9), ()) is not None
