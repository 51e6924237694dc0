"""What is done once: by one of those who come, for all of them, and again only if it failed."""

import asyncio
import gc
import threading
import weakref

import pytest
from sleeping import Background, Interruption, asleep, forks, in_a_fork, interruption_when_asleep

from manyhands.sync import CountDownEvent, Latch, Once


async def turns(count=3):
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


class Value:
    """What can be referred to weakly."""


def test_threads_and_tasks_of_several_loops_get_the_one_value_of_the_one_call():
    once, calls, begin = Once(), [], threading.Barrier(5)

    def make(name):
        calls.append(name)
        return Value()

    async def amake(name):
        calls.append(name)
        await asyncio.sleep(0)
        return Value()

    def thread(name):
        begin.wait(20)
        return [once.call(make, name)]

    async def tasks(name):
        return await asyncio.gather(*(once.acall(amake, f"{name}.{number}") for number in range(3)))

    def loop(name):
        begin.wait(20)
        return asyncio.run(tasks(name))

    everybody = [Background(thread, name) for name in range(3)]
    everybody += [Background(loop, f"loop {number}") for number in range(2)]
    values = [value for one in everybody for value in one.result()]
    assert len(values) == 9
    assert len(calls) == 1
    assert {id(value) for value in values} == {id(once.call(make, "late"))}


def test_a_failure_reaches_its_caller_and_the_next_one_tries_again():
    once, entered, go_on = Once(), threading.Event(), threading.Event()

    def fail():
        entered.set()
        go_on.wait(20)
        raise ValueError("not today")

    first = Background(once.call, fail)
    entered.wait(20)
    waiting = [asleep(once.call, lambda: "made") for _ in range(3)]
    go_on.set()
    with pytest.raises(ValueError, match="not today"):
        first.result()
    assert [thread.result() for thread in waiting] == ["made"] * 3
    assert once.is_done()


def test_arguments_are_passed_on_and_none_is_a_value_like_any_other():
    once, calls = Once(), []
    for _ in range(2):
        assert once.call(lambda *args, **kwargs: calls.append((args, kwargs)), 1, to=2) is None
    assert calls == [((1,), {"to": 2})]
    assert asyncio.run(once.acall(calls.append, 3)) is None
    assert len(calls) == 1


def test_a_task_takes_over_from_one_that_is_cancelled_while_it_calls():
    once = Once()

    async def hang():
        await asyncio.Event().wait()

    async def value():
        return "made"

    async def main():
        first = asyncio.create_task(once.acall(hang))
        await turns()
        second, third = (asyncio.create_task(once.acall(value)) for _ in range(2))
        await turns()
        first.cancel()
        assert await asyncio.gather(second, third) == ["made", "made"]
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_who_is_cancelled_after_he_was_called_leaves_the_turn_to_the_next():
    once = Once()

    async def main():
        coroutine = once.acall(asyncio.Event().wait)
        coroutine.send(None)
        second, third = (asyncio.create_task(once.acall(str, name)) for name in ("second", "third"))
        await turns()
        coroutine.close()
        second.cancel()
        assert await third == "third"
        assert second.cancelled()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_coroutine_that_is_thrown_away_while_it_calls_leaves_the_turn_to_the_next():
    once = Once()

    async def hang():
        await asyncio.Event().wait()

    async def main():
        coroutine = once.acall(hang)
        coroutine.send(None)
        waiting = asyncio.create_task(asyncio.to_thread(once.call, lambda: "made"))
        await turns()
        coroutine.close()
        assert await waiting == "made"

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_signal_interrupts_the_wait_and_nothing_else():
    once, entered, go_on = Once(), threading.Event(), threading.Event()

    def make():
        entered.set()
        go_on.wait(20)
        return "made"

    maker = Background(once.call, make)
    entered.wait(20)
    with interruption_when_asleep(), pytest.raises(Interruption):
        once.call(lambda: "another")
    go_on.set()
    assert maker.result() == "made" == once.call(lambda: "another")


def test_who_would_wait_for_himself_is_told():
    once = Once()
    with pytest.raises(RuntimeError, match="this very thread or task"):
        once.call(lambda: once.call(int))
    with pytest.raises(RuntimeError, match="this very thread or task"):
        once.call(lambda: asyncio.run(once.acall(int)))

    async def again():
        return await once.acall(int)

    async def block():
        return once.call(int)

    async def main():
        for function in (again, block):
            with pytest.raises(RuntimeError, match="this very thread or task"):
                await once.acall(function)
        assert await once.acall(lambda: "made") == "made"

    asyncio.run(main())


def test_a_thread_that_would_wait_for_a_task_of_its_own_loop_is_told():
    once, go_on = Once(), asyncio.Event()

    async def main():
        calls = asyncio.create_task(once.acall(go_on.wait))
        await turns()
        with pytest.raises(RuntimeError, match="this very thread or task"):
            once.call(int)
        go_on.set()
        assert await calls is True

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_coroutine_is_no_value_for_everybody():
    async def value():
        return "made"

    once = Once()
    with pytest.raises(TypeError, match="`acall` awaits it"):
        once.call(value)
    assert asyncio.run(once.acall(value)) == "made"


def test_it_shows_how_far_it_is():
    once, seen = Once(), []
    seen.append(repr(once))
    once.call(lambda: seen.append(repr(once)))
    seen.append(repr(once))
    assert [text.rpartition(": ")[2] for text in seen] == ["not done>", "running>", "done>"]
    assert seen[0].startswith("<sync.Once at 0x")


def test_a_value_that_refers_to_its_once_is_garbage():
    once = Once()
    once.call(Value).once = once
    gone = weakref.ref(once.call(Value))
    del once
    gc.collect()
    assert gone() is None


@forks
def test_in_a_forked_child_a_call_of_another_thread_is_an_error_and_no_hang():
    once, entered, go_on = Once(), threading.Event(), threading.Event()

    def make():
        entered.set()
        go_on.wait(20)

    maker = Background(once.call, make)
    entered.wait(20)
    said = in_a_fork(lambda: once.call(int))
    go_on.set()
    maker.result()
    assert "left behind by a fork" in said
    assert in_a_fork(lambda: once.call(int)) == "ok"


def test_a_latch_goes_by_two_names():
    assert CountDownEvent is Latch
