"""Attributes of each thread's own, and of each task's own: what the guide says of them."""

import asyncio
import contextvars
import gc
import threading
import weakref

from sleeping import Background

import manyhands
from manyhands.sync import Local


class Value:
    """What can be referred to weakly."""


class Kept(Local):
    made = 0

    def __init__(self, *names, **more):
        type(self).made += 1
        self.names, self.more = names, more


def test_each_thread_has_its_own_made_with_the_same_arguments():
    kept = Kept("a", b=1)
    kept.names += ("changed",)
    assert Background(lambda: (kept.names, kept.more)).result() == (("a",), {"b": 1})
    assert kept.names == ("a", "changed")
    assert Kept.made == 2


def test_what_a_thread_kept_goes_with_it():
    kept = Local()

    def keep():
        kept.value = Value()
        return weakref.ref(kept.value)

    gone = Background(keep).result()
    gc.collect()
    assert gone() is None
    assert not hasattr(kept, "value")


def test_a_worker_finds_what_an_earlier_task_left_and_the_variables_of_its_own():
    mine, user = Local(), contextvars.ContextVar("user")

    def work():
        found = getattr(mine, "user", None)
        mine.user = user.get()
        return found, user.get()

    with manyhands.ThreadExecutor(1) as pool:
        seen = []
        for name in ("ann", "bob"):
            user.set(name)
            seen.append(pool.submit(work).result())
    assert seen == [(None, "ann"), ("ann", "bob")]


def test_tasks_of_a_loop_share_it_and_have_variables_of_their_own():
    mine, user = Local(), contextvars.ContextVar("user")

    async def request(name):
        mine.user = name
        user.set(name)
        await asyncio.sleep(0)
        return mine.user, user.get()

    async def main():
        return await asyncio.gather(request("ann"), request("bob"))

    assert asyncio.run(main()) == [("bob", "ann"), ("bob", "bob")]


def test_it_is_the_one_of_the_standard_library():
    assert Local is threading.local
