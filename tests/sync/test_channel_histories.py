"""Random histories of threads and tasks on channels, and of choices: calls one at a time explain them."""

import asyncio
import random
import sys

import pytest
from sleeping import run_callers

from linearizability import Recorder, check
from manyhands.sync import Channel, Empty, Full, aselect, select
from watching import seeds

NOTHING = "nothing"


@pytest.fixture(autouse=True)
def _many_switches():
    """Have threads interrupt each other between any two bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def channels_model(capacity):
    """Two channels as tuples of what is in them; a case is a channel's number, and an item if it is sent."""

    def done(channels, case):
        number, *item = case
        items = channels[number]
        if item and len(items) < capacity:
            return replaced(channels, number, (*items, *item)), (number, *item)
        if not item and items:
            return replaced(channels, number, items[1:]), (number, items[0])
        return None

    def model(channels, name, cases):
        ways = [way for case in cases if (way := done(channels, case))]
        yield from ways
        # One after the other is looked at: the first may be ready by the time that the last is not.
        if name == "try" and (not ways or len(cases) > 1):
            yield channels, NOTHING

    return model


def replaced(channels, number, items):
    return (items, channels[1]) if number == 0 else (channels[0], items)


class Caller:
    """Makes calls of two channels, as a thread or as a task, and has them recorded."""

    def __init__(self, recorder, channels, calls):
        self.recorder, self.channels, self.calls = recorder, channels, calls

    def chosen(self, channel, item):
        return self.channels.index(channel), item

    def read(self, cases):
        return [(self.channels[number], *item) if item else self.channels[number] for number, *item in cases]

    def at_once(self, cases, patience):
        """One case by its own method, several by a choice."""
        try:
            if len(cases) > 1:
                return self.chosen(*select(*self.read(cases), timeout=patience))
            ((number, *item),) = cases
            if item:
                self.channels[number].send(*item, timeout=patience)
                return number, *item
            return number, self.channels[number].receive(timeout=patience)
        except (Full, Empty, TimeoutError):
            return NOTHING

    def thread(self):
        for name, *cases in self.calls:
            with self.recorder.call(name, *cases) as call:
                call.result = self.at_once(cases, 0 if name == "try" else None)

    async def task(self):
        for name, *cases in self.calls:
            with self.recorder.call(name, *cases) as call:
                if name == "try":
                    call.result = self.at_once(cases, 0)
                else:
                    call.result = self.chosen(*await aselect(*self.read(cases)))
            await asyncio.sleep(0)


def waiting(chance):
    """Those who send and those who receive, by choice, as many items, wait for each other."""
    numbers = iter(range(1000))

    def send():
        cases = [(number, next(numbers)) for number in (0, 1)]
        return ("wait", *chance.sample(cases, chance.choice([1, 2])))

    def receive():
        return ("wait", (0,), (1,))

    return [[make() for _ in range(6)] for make in (send, receive, send, receive)]


def hasty(chance):
    """Calls that never wait, to send, to receive, and to do the first of several."""
    numbers = iter(range(1000))

    def call():
        cases = [(0,), (1,), (0, next(numbers)), (1, next(numbers))]
        return ("try", *chance.sample(cases, chance.choice([1, 1, 2])))

    return [[call() for _ in range(8)] for _ in range(4)]


@seeds(12)
@pytest.mark.parametrize("make_plans", [waiting, hasty])
@pytest.mark.parametrize("capacity", [1, 2])
def test_channels_answer_as_if_calls_came_one_at_a_time(capacity, make_plans, seed):
    plans = make_plans(random.Random(f"{capacity} {seed}"))
    recorder, channels = Recorder(), [Channel(capacity) for _ in range(2)]
    callers = [Caller(recorder, channels, plan) for plan in plans]
    run_callers(callers)
    check(recorder.calls, channels_model(capacity), ((), ()))
