"""`mh.map` and `mh.starmap`: laziness, order, failures, outcomes, the end."""

import asyncio
import gc
import itertools
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest

import manyhands as mh
from watching import eventually


@pytest.fixture(params=["thread", "async"])
def on(request):
    return request.param


def task(on, function):
    """`function` as the model wants it."""
    if on == "thread":
        return function

    async def call(*args):
        return function(*args)

    call.__name__ = getattr(function, "__name__", "call")
    return call


def test_values_come_in_the_order_of_the_input(on):
    assert list(mh.map(task(on, abs), range(0, -100, -1), on=on, workers=7)) == list(range(100))


def test_values_come_as_they_are_settled_if_asked(on):
    gates = [mh.Future() for _ in range(3)]

    def wait(number):
        gates[number].result()
        return number

    async def wait_on_loop(number):
        await gates[number]
        return number

    function = wait if on == "thread" else wait_on_loop
    values = mh.map(function, range(3), on=on, workers=3, ordered=False)
    order = [1, 2, 0]
    seen = []
    for number in order:
        gates[number].set_result(None)
        seen.append(next(values))
    assert seen == order
    assert next(values, "over") == "over"


def test_unordered_values_are_all_there(on):
    assert sorted(mh.map(task(on, abs), range(500), on=on, ordered=False)) == list(range(500))


def test_an_empty_input_gives_nothing(on):
    assert list(mh.map(task(on, abs), [], on=on)) == []
    assert list(mh.map(task(on, abs), iter(()), on=on, on_error="return")) == []


def test_nothing_is_pulled_and_nothing_runs_before_the_first_value_is_asked_for(on):
    pulled = []
    values = mh.map(task(on, pulled.append), (pulled.append(n) for n in range(3)), on=on)
    assert pulled == []
    values.close()
    assert pulled == []


@pytest.mark.parametrize("ordered", [True, False])
def test_the_input_is_read_no_further_ahead_than_the_buffer(on, ordered):
    pulled = 0

    def numbers():
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number

    values = mh.map(task(on, abs), numbers(), on=on, workers=2, buffersize=5, ordered=ordered)
    for taken in range(1, 200):
        next(values)
        assert pulled <= taken + 5
    values.close()


def test_without_a_buffer_the_input_is_read_twice_as_far_ahead_as_there_are_workers():
    """More only for items that take microseconds; these wait for each other."""
    pulled, step = 0, threading.Semaphore(0)

    def numbers():
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number

    def wait(number):
        step.acquire()
        time.sleep(0.006)
        return number

    with mh.map(wait, numbers(), workers=3) as values:
        for taken in range(1, 20):
            step.release(3)
            next(values)
            assert pulled <= taken + 2 * 3
        step.release(100)


def test_an_endless_input_works(on):
    values = mh.map(task(on, abs), itertools.count(), on=on)
    assert [next(values) for _ in range(3000)] == list(range(3000))
    values.close()


def test_more_items_than_the_widest_window_are_never_in_flight():
    pulled = 0

    def numbers():
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number

    values = mh.map(abs, numbers(), workers=2)
    for taken in range(1, 20_000):
        next(values)
        assert pulled <= taken + 1024
    values.close()


def test_several_iterables_give_several_arguments(on):
    assert list(mh.map(task(on, pow), [2, 3, 4], [5, 2, 0, 9], on=on)) == [32, 9, 1]
    assert list(mh.map(task(on, lambda a, b, c: (a, b, c)), "ab", [1, 2], (x for x in "xy"), on=on)) == [
        ("a", 1, "x"),
        ("b", 2, "y"),
    ]


def test_starmap_spreads_every_item(on):
    assert list(mh.starmap(task(on, pow), [(2, 5), [3, 2], iter((4, 0))], on=on)) == [32, 9, 1]


def test_starmap_with_an_item_that_cannot_be_spread_is_an_error(on):
    values = mh.starmap(task(on, abs), [(1,), 2], on=on)
    with pytest.raises(TypeError, match="iterable"):
        list(values)


def test_a_failure_is_raised_in_its_turn_and_ends_the_map(on):
    values = mh.map(task(on, lambda n: 10 // n), [5, 2, 0, 1], on=on, workers=1)
    assert [next(values), next(values)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == []


def test_failures_can_be_left_out(on):
    values = mh.map(task(on, int), ["1", "x", "3", "", "5"], on=on, on_error="skip")
    assert list(values) == [1, 3, 5]
    summary = values.summary()
    assert (summary.total, summary.succeeded, summary.failed) == (5, 3, 2)
    assert summary.failures == {"ValueError": 2}


def test_every_item_can_arrive_as_an_outcome(on):
    good, bad = mh.map(task(on, int), ["7", "x"], on=on, on_error="return")
    assert isinstance(good, mh.Outcome)
    assert (good.index, good.input, good.value, good.exception, good.attempts) == (0, "7", 7, None, 1)
    assert good.ok
    assert good.unwrap() == 7
    assert (bad.index, bad.input, bad.value, bad.attempts) == (1, "x", None, 1)
    assert not bad.ok
    assert isinstance(bad.exception, ValueError)
    with pytest.raises(ValueError, match="'x'"):
        bad.unwrap()


def test_an_outcome_names_its_worker(on):
    names = {outcome.worker for outcome in mh.map(task(on, abs), range(20), on=on, on_error="return")}
    assert names
    assert all(name.startswith("map_") for name in names)


def test_the_input_of_an_outcome_is_the_very_item(on):
    items = [object() for _ in range(5)]
    outcomes = list(mh.map(task(on, id), items, on=on, on_error="return"))
    assert all(outcome.input is item for outcome, item in zip(outcomes, items, strict=True))
    [pair] = mh.map(task(on, pow), [2], [3], on=on, on_error="return")
    assert pair.input == (2, 3)


def test_a_receipt_says_what_an_item_cost():
    both_are_queued = threading.Event()

    def items():
        yield 0.05
        yield 0.05
        both_are_queued.set()

    def work(seconds):
        assert both_are_queued.wait(30)
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        time.sleep(0.05)

    outcomes = list(mh.map(work, items(), workers=1, buffersize=3, on_error="return"))
    for outcome in outcomes:
        receipt = outcome.receipt
        assert receipt.cpu >= 0.045
        assert receipt.wall >= receipt.cpu + 0.045
        assert receipt.waited >= 0
        assert (receipt.bytes_in, receipt.bytes_out) == (0, 0)
        assert "Receipt(" in repr(receipt)
    # The second waited in the queue while the first ran.
    assert outcomes[1].receipt.waited >= 0.09


def test_the_receipt_of_a_coroutine_has_no_processor_time():
    async def nap(_):
        await asyncio.sleep(0.05)

    [outcome] = mh.map(nap, [1], on_error="return")
    assert outcome.receipt.cpu is None
    assert outcome.receipt.wall >= 0.05


def test_a_receipt_counts_all_attempts(on):
    calls = []

    def slow_failure(_):
        calls.append(1)
        time.sleep(0.03)
        raise OSError

    [outcome] = mh.map(task(on, slow_failure), [1], on=on, retries=2, backoff=0, on_error="return")
    assert outcome.attempts == len(calls) == 3
    assert outcome.receipt.wall >= 0.09


@pytest.mark.parametrize("on", mh.executors.MODELS)
def test_attempts_that_are_stopped_cost_what_they_took(on):
    def work(number):
        while number == 1:
            time.sleep(0.001)

    async def work_on_loop(number):
        while number == 1:
            await asyncio.sleep(0.001)

    function = work_on_loop if on.endswith("async") else work
    options = {"timeout": 0.1, "retries": 1, "backoff": 0, "on_error": "return"}
    values = mh.map(function, range(3), on=on, workers=2, **options)
    outcomes = list(values)
    assert isinstance(outcomes[1].exception, mh.TaskTimeout)
    assert outcomes[1].attempts == 2
    assert outcomes[1].receipt.wall >= 0.2
    assert [outcome.receipt.wall < outcomes[1].receipt.wall for outcome in outcomes] == [True, False, True]
    assert values.summary().costliest[0].index == 1


@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
def test_the_summary_counts(on, on_error):
    def work(number):
        if number in (3, 5):
            raise OSError
        if number == 7 and on_error != "raise":
            raise LookupError
        return number

    items = [n for n in range(10) if on_error != "raise" or n not in (3, 5)]
    values = mh.map(task(on, work), items, on=on, on_error=on_error, workers=2)
    list(values)
    summary = values.summary()
    failures = {} if on_error == "raise" else {"OSError": 2, "LookupError": 1}
    assert summary.failures == failures
    assert (summary.total, summary.failed) == (len(items), sum(failures.values()))
    assert summary.succeeded == summary.total - summary.failed
    assert summary.seconds > 0


def test_the_summary_names_the_ten_items_that_cost_most():
    def nap(number):
        time.sleep(0.1 if number in (4, 11) else 0)

    values = mh.map(nap, range(30), workers=4)
    list(values)
    costliest = values.summary().costliest
    assert len(costliest) == 10
    assert {(cost.index, cost.input) for cost in costliest[:2]} == {(4, 4), (11, 11)}
    assert [cost.seconds for cost in costliest] == sorted((cost.seconds for cost in costliest), reverse=True)
    assert costliest[0].seconds >= 0.1


def test_the_summary_can_be_asked_for_at_any_time(on):
    values = mh.map(task(on, abs), range(10), on=on, workers=1)
    assert values.summary().total == 0
    for _ in range(3):
        next(values)
    assert values.summary().total == 3
    values.close()
    assert values.summary().total == 3


def test_the_summary_counts_retries(on):
    calls = []

    def flaky(number):
        calls.append(number)
        if calls.count(number) <= number:
            raise OSError

    values = mh.map(task(on, flaky), range(3), on=on, retries=5, backoff=0)
    list(values)
    assert values.summary().retried == 0 + 1 + 2


def test_retries_are_made_where_they_are_worth_it(on):
    calls = []

    def fail(error):
        calls.append(error)
        raise error

    outcomes = list(
        mh.map(
            task(on, fail),
            [OSError(), LookupError()],
            on=on,
            retries=2,
            retry_on=OSError,
            backoff=0,
            on_error="return",
        )
    )
    assert [outcome.attempts for outcome in outcomes] == [3, 1]


def test_a_time_limit_is_kept(on):
    async def sleep_for_ever(_):
        await asyncio.sleep(3600)

    def spin(_):
        while True:
            pass

    began = time.monotonic()
    outcomes = list(
        mh.map(
            spin if on == "thread" else sleep_for_ever,
            range(4),
            on=on,
            workers=2,
            timeout=0.1,
            on_error="return",
        )
    )
    assert [type(outcome.exception) for outcome in outcomes] == [mh.TaskTimeout] * 4
    assert time.monotonic() - began < 10


def test_a_rate_is_kept(on):
    starts = []
    began = time.monotonic()
    list(mh.map(task(on, lambda _: starts.append(time.monotonic())), range(20), on=on, rate="50/s"))
    for number, start in enumerate(sorted(starts)):
        assert start - began >= number / 50 - 1e-3


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
def test_when_the_input_fails_what_came_before_is_handed_out_first(on, ordered, on_error):
    def numbers():
        yield 1
        yield 2
        raise LookupError("the input broke")

    values = mh.map(task(on, abs), numbers(), on=on, ordered=ordered, on_error=on_error)
    seen = [next(values), next(values)]
    plain = [outcome.value if on_error == "return" else outcome for outcome in seen]
    assert sorted(plain) == [1, 2]
    with pytest.raises(LookupError, match="the input broke"):
        next(values)
    assert list(values) == []
    assert values.summary().total == 2


def test_an_input_that_is_interrupted_interrupts_at_once():
    def numbers():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(mh.map(abs, numbers(), workers=1))


def test_the_executor_of_a_map_ends_with_it(on):
    list(mh.map(task(on, abs), range(10), on=on))
    eventually(lambda: not any(thread.name.startswith("map_") for thread in threading.enumerate()))


def test_close_is_refused_while_another_thread_fetches():
    began, may_end = threading.Semaphore(0), threading.Event()

    def work(number):
        began.release()
        assert may_end.wait(30)
        return number

    values = mh.map(work, range(2), workers=2)
    fetched = []
    fetching = threading.Thread(target=lambda: fetched.append(next(values)))
    fetching.start()
    for _ in range(2):
        assert began.acquire(timeout=30)
    with pytest.raises(ValueError, match="another thread"):
        values.close()
    may_end.set()
    fetching.join(30)
    assert fetched == [0]
    assert list(values) == [1]


class Endless:
    """Item 0 is done at once, others run until they are stopped; semaphores count their begins and ends."""

    def __init__(self):
        self.began, self.ended = threading.Semaphore(0), threading.Semaphore(0)

    def spin(self, number):
        if number == 0:
            return 0
        try:
            self.began.release()  # in here: from now on it may be stopped
            while True:
                pass
        finally:
            self.ended.release()

    async def wait(self, number):
        if number == 0:
            return 0
        try:
            self.began.release()
            await asyncio.sleep(3600)
        finally:
            self.ended.release()


def test_leaving_the_block_stops_what_is_running(on):
    endless = Endless()
    with mh.map(endless.spin if on == "thread" else endless.wait, range(3), on=on, workers=3) as values:
        assert next(values) == 0
        for _ in range(2):
            assert endless.began.acquire(timeout=30)
    for _ in range(2):
        assert endless.ended.acquire(timeout=30)


def test_leaving_the_loop_early_stops_what_is_running_when_the_map_is_forgotten():
    endless = Endless()

    def first():
        values = mh.map(endless.spin, range(3), workers=3)
        value = next(values)
        for _ in range(2):
            assert endless.began.acquire(timeout=30)
        return value

    assert first() == 0
    gc.collect()
    for _ in range(2):
        assert endless.ended.acquire(timeout=30)


def test_closing_a_map_begins_nothing_in_the_places_that_it_frees(our_model, gate):
    begun = []

    async def work_on_loop(number):
        begun.append(number)
        await gate.pass_through_on_loop()

    def work(number):
        begun.append(number)
        gate.pass_through()

    with our_model.make(workers=1) as pool, gate:
        items = itertools.count()
        values = mh.map(work_on_loop if our_model.is_async else work, items, on=pool, buffersize=20)

        async def fetch():
            async for _ in values:
                pass

        async def begin():
            fetching = asyncio.ensure_future(fetch())
            await asyncio.get_running_loop().run_in_executor(None, gate.wait_for, 1)
            fetching.cancel()
            await asyncio.wait([fetching])

        asyncio.run(begin())
        assert next(items) == 20
        assert begun == [0]


def test_a_failure_stops_what_is_running():
    began, ended = threading.Event(), threading.Event()

    def work(number):
        if number == 0:
            began.wait()
            raise OSError
        began.set()
        try:
            while True:
                pass
        finally:
            ended.set()

    with pytest.raises(OSError):
        list(mh.map(work, range(2), workers=2))
    assert ended.wait(30)


def test_a_map_that_is_over_stays_over(on):
    values = mh.map(task(on, abs), range(3), on=on)
    assert list(values) == [0, 1, 2]
    assert list(values) == []
    values.close()
    values.close()
    with values:
        assert next(values, None) is None


def test_a_closed_map_gives_nothing_more(on):
    values = mh.map(task(on, abs), range(10), on=on)
    next(values)
    values.close()
    assert list(values) == []


def test_a_map_on_an_executor_of_ones_own_leaves_it_open(our_model):
    with our_model.make(workers=2) as pool:
        for _ in range(3):
            assert list(mh.map(our_model.task(abs), range(5), on=pool)) == list(range(5))
        values = mh.map(our_model.task(abs), itertools.count(), on=pool)
        next(values)
        values.close()
        assert pool.submit(our_model.task(abs), -1).result() == 1


def test_workers_and_an_executor_together_are_refused(our_model):
    with our_model.make() as pool, pytest.raises(ValueError, match="workers"):
        mh.map(our_model.task(abs), [1], on=pool, workers=2)


def test_a_coroutine_function_runs_on_loops_by_itself():
    async def name(_):
        return type(asyncio.get_running_loop()).__name__

    [loop] = mh.map(name, [1])
    assert "Loop" in loop


def test_a_plain_function_is_refused_by_the_async_model():
    with pytest.raises(mh.WrongExecutor, match="`abs`") as caught:
        mh.map(abs, [1], on="async")
    assert 'on="thread"' in caught.value.hint


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"speed": 3}, TypeError, "'speed', expected one of on, workers"),
        ({"on": "moon"}, ValueError, "found 'moon'"),
        ({"on_error": "ignore"}, ValueError, "on_error='ignore'"),
        ({"workers": 0}, ValueError, "workers=0"),
        ({"buffersize": 0}, ValueError, "buffersize=0"),
        ({"retries": -1}, ValueError, "`retries`: found -1"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"rate": "often"}, ValueError, "often"),
        ({"retry_on": 3}, TypeError, "retry_on"),
        ({"seed": "x"}, TypeError, "str"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_nonsense_is_refused_before_anything_runs(options, error, text):
    pulled = []
    with pytest.raises(error, match=text):
        mh.map(abs, (pulled.append(n) for n in range(3)), **options)
    assert pulled == []


def test_what_cannot_be_mapped_is_refused():
    with pytest.raises(TypeError, match="no iterables"):
        mh.map(abs)
    with pytest.raises(TypeError, match="not callable"):
        mh.map(3, [1])
    with pytest.raises(TypeError, match="iterable"):
        mh.map(abs, 3)


def test_async_for(on):
    async def main():
        return [value async for value in mh.map(task(on, abs), range(200), on=on)]

    assert asyncio.run(main()) == list(range(200))


@pytest.mark.parametrize("ordered", [True, False])
def test_async_for_lets_the_loop_run(gate, ordered):
    async def main():
        asyncio.get_running_loop().call_soon(gate.open)
        return [value async for value in mh.map(gate.pass_through, range(3), workers=3, ordered=ordered)]

    assert sorted(asyncio.run(main())) == [0, 1, 2]


def test_async_for_raises_and_skips_and_returns(on):
    async def main(on_error):
        return [value async for value in mh.map(task(on, int), ["1", "x", "3"], on=on, on_error=on_error)]

    with pytest.raises(ValueError, match="'x'"):
        asyncio.run(main("raise"))
    assert asyncio.run(main("skip")) == [1, 3]
    assert [outcome.ok for outcome in asyncio.run(main("return"))] == [True, False, True]


def test_anext(on):
    async def main():
        values = mh.map(task(on, abs), [-1, -2], on=on)
        return [await anext(values), await anext(values), await anext(values, "over")]

    assert asyncio.run(main()) == [1, 2, "over"]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_cancelled_anext_leaves_the_map_as_it_is(gate, ordered):
    async def main():
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        with mh.map(gate.pass_through, range(2), workers=2, ordered=ordered) as values:
            waiting = asyncio.ensure_future(anext(values))
            await asyncio.sleep(0)  # it waits
            waiting.cancel()
            await asyncio.wait([waiting])
            gate.open()
            return waiting.cancelled(), sorted([value async for value in values]), problems

    assert asyncio.run(main()) == (True, [0, 1], [])


def test_a_cancelled_async_for_stops_what_is_running():
    began, ended = threading.Event(), mh.Future()

    async def wait(_):
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set_result("stopped")

    async def main():
        async def consume():
            async for _ in mh.map(wait, [1]):
                pass

        consuming = asyncio.ensure_future(consume())
        await asyncio.get_running_loop().run_in_executor(None, began.wait)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming

    asyncio.run(main())
    assert ended.result(timeout=30) == "stopped"


def test_the_default_number_of_coroutines_in_flight():
    arrived, everybody = [], mh.Future()

    async def meet(number):
        arrived.append(number)
        if len(arrived) == 100:
            everybody.set_result(None)
        await asyncio.wait([asyncio.wrap_future(everybody)])
        return number

    assert list(mh.map(meet, range(100))) == list(range(100))


def draw(_):
    stream = mh.item_random()
    return [stream.random() for _ in range(3)]


def test_seeded_items_draw_the_same_for_any_number_of_workers(on):
    runs = [
        list(mh.map(task(on, draw), range(100), on=on, workers=workers, seed=42)) for workers in (1, 2, 16)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len({tuple(values) for values in runs[0]}) == 100


def test_seeded_items_draw_the_same_in_any_order_and_on_any_model():
    ordered = list(mh.map(draw, range(100), seed=7))
    unordered = mh.map(draw, range(100), seed=7, ordered=False, on_error="return", workers=8)
    by_index = {outcome.index: outcome.value for outcome in unordered}
    assert [by_index[index] for index in range(100)] == ordered
    assert list(mh.map(task("async", draw), range(100), on="async", seed=7)) == ordered


def test_seeded_items_draw_the_same_in_every_attempt(on):
    calls = []

    def flaky(number):
        values = draw(number)
        calls.append((number, tuple(values)))
        if len([call for call in calls if call[0] == number]) < 3:
            raise OSError
        return values

    values = list(mh.map(task(on, flaky), range(20), on=on, seed=1, retries=2, backoff=0))
    assert values == list(mh.map(task(on, draw), range(20), on=on, seed=1))
    assert len(set(calls)) == 20


def test_another_seed_draws_otherwise():
    assert list(mh.map(draw, range(5), seed=1)) != list(mh.map(draw, range(5), seed=2))
    for seed in (-1, 1 << 70, True):
        assert list(mh.map(draw, range(5), seed=seed)) == list(mh.map(draw, range(5), seed=seed))


def test_the_seed_of_an_item_is_a_number_of_64_bits():
    seeds = list(mh.map(lambda _: mh.item_seed(), range(1000), seed=0))
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    assert random.Random(seeds[0]).random() == next(mh.map(lambda _: mh.item_random().random(), [0], seed=0))


def test_without_a_seed_there_is_no_stream():
    with pytest.raises(LookupError):
        mh.item_seed()
    with pytest.raises(LookupError):
        list(mh.map(draw, [1]))


def test_two_threads_may_not_fetch_from_one_map_at_once(gate):
    values = mh.map(gate.pass_through, range(3), workers=1)
    first = mh.Future()
    with gate:
        threading.Thread(target=lambda: first.set_result(next(values)), daemon=True).start()
        gate.wait_for(1)
        with pytest.raises(ValueError, match="another thread is fetching"):
            next(values)
    assert first.result(timeout=30) == 0
    assert list(values) == [1, 2]


def test_several_threads_may_fetch_in_turns():
    values, lock, seen = mh.map(abs, range(300), workers=4), threading.Lock(), []

    def consume():
        while True:
            with lock:
                value = next(values, None)
            if value is None:
                return
            seen.append(value)

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(300))


def test_a_map_in_a_circle_is_collected():
    class Owner:
        def __init__(self):
            self.values = mh.map(self.work, [1, 2, 3])
            next(self.values)

        def work(self, number):
            return number

    owner = Owner()
    alive = weakref.ref(owner)
    owner.values.close()
    del owner
    gc.collect()
    assert alive() is None


def test_a_map_lets_go_of_what_it_handed_out():
    class Item:
        pass

    alive = []

    def items():
        for _ in range(50):
            item = Item()
            alive.append(weakref.ref(item))
            yield item

    values = mh.map(lambda item: None, items(), workers=1, buffersize=2, on_error="skip")
    for _ in values:
        pass
    gc.collect()
    # The summary keeps the ten that cost most.
    assert sum(reference() is not None for reference in alive) <= 10
    del values
    gc.collect()
    assert sum(reference() is not None for reference in alive) == 0


FLAT = """
    import gc, itertools, resource, sys
    import manyhands as mh
    def current():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    values = mh.map(abs, itertools.count(), {options})
    for _ in itertools.islice(values, 20_000):
        pass
    before = current()
    for _ in itertools.islice(values, 300_000):
        pass
    gc.collect()
    print((current() - before) // 1024)
    values.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", ["workers=2", "workers=4, ordered=False, on_error='return'"])
def test_memory_stays_flat_over_an_endless_input(options):
    program = textwrap.dedent(FLAT.format(options=options))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 8 * 1024, f"grew by {ended.stdout} KiB over 300,000 items"
