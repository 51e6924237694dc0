"""Items that travel to worker processes many at a time: each fares as if it had travelled alone."""

import asyncio
import concurrent.futures
import contextvars
import enum
import gc
import itertools
import os
import signal
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import manyhands as mh
from watching import eventually, written


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


VARIABLE = contextvars.ContextVar("variable")


def same(value):
    return value


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20)
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=20)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(values=st.lists(VALUES, max_size=30))
def test_values_of_every_kind_come_back_as_they_were(pool, values):
    assert repr(list(pool.map(same, values))) == repr(values)
    assert repr(list(mh.map(same, values, on=pool))) == repr(values)


@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(VALUES, VALUES), max_size=30))
def test_arguments_of_every_kind_arrive_as_they_were(pool, pairs):
    def swap(one, other):
        return other, one

    expected = [(other, one) for one, other in pairs]
    firsts, seconds = [one for one, _ in pairs], [other for _, other in pairs]
    assert repr(list(pool.map(swap, firsts, seconds))) == repr(expected)
    assert repr(list(mh.starmap(swap, pairs, on=pool))) == repr(expected)


class Colour(enum.IntEnum):
    RED = 1


def test_what_inherits_from_a_simple_type_stays_what_it_is(pool):
    class Name(str):
        __slots__ = ()

    values = [Colour.RED, True, 1, 1.0, Name("x"), "x", -0.0, 2**63, -(2**63), 2**64]
    back = list(pool.map(same, values))
    assert back == values
    assert [type(value).__name__ for value in back] == [type(value).__name__ for value in values]


def test_what_an_item_shares_it_shares_in_the_worker(pool):
    shared = []
    [(one, other)] = pool.map(same, [(shared, shared)])
    assert one is other


def test_many_items_come_back_in_order(pool):
    count = 100_000
    assert list(pool.map(same, range(count))) == list(range(count))
    assert list(mh.map(same, range(count), on=pool)) == list(range(count))
    assert sorted(mh.map(same, range(count), on=pool, ordered=False)) == list(range(count))


def position(_):
    """Which one of its batch an item is, from 1: a batch has one context."""
    VARIABLE.set(VARIABLE.get(0) + 1)
    return VARIABLE.get()


def test_short_items_travel_many_at_a_time(pool):
    assert max(pool.map(position, range(20_000))) > 100
    assert max(mh.map(position, range(20_000), on=pool)) > 100
    outcomes = mh.map(position, range(20_000), on=pool, on_error="return")
    assert max(outcome.value for outcome in outcomes) > 100


@pytest.mark.parametrize(
    "options", [{"timeout": 60}, {"total_timeout": 60}, {"retries": 1}, {"rate": 1e9}, {"seed": 1}], ids=list
)
def test_items_that_need_an_account_of_their_own_travel_one_by_one(pool, options):
    assert max(mh.map(position, range(1000), on=pool, **options)) == 1


def test_large_items_travel_one_by_one(pool):
    assert max(mh.map(position, [bytes(100_000)] * 50, on=pool)) == 1


def test_short_items_travel_many_at_a_time_after_one_that_held_up_all_others(tmp_path):
    """The second worker does what comes behind the first item, which waits for that."""

    def work(number):
        if number == 0:
            eventually((tmp_path / "behind").exists)
        elif number == 50:
            (tmp_path / "behind").touch()
        return position(number)

    with mh.ProcessExecutor(2) as pool:
        assert max(itertools.islice(mh.map(work, range(20_000), on=pool), 10_000, None)) > 100


def test_long_items_do_not_wait_for_each_other(pool, tmp_path):
    """Two workers each have one of two items, or neither would end."""

    def meet(number):
        (tmp_path / str(number)).touch()
        eventually((tmp_path / str(1 - number)).exists)
        return number

    list(pool.map(same, range(5000)))
    assert list(pool.map(meet, [0, 1])) == [0, 1]


def test_items_that_turn_out_long_are_given_to_others(pool):
    def work(number):
        if number >= 3000:
            time.sleep(0.02)
        return os.getpid()

    pids = list(pool.map(work, range(3030)))
    assert len(set(pids[3000:])) == 2


@pytest.mark.parametrize("size", [9_000, 70_000, 300_000])
def test_large_results_and_arguments_travel(pool, size):
    def grow(number):
        return bytes([number]) * size

    assert list(pool.map(grow, range(40))) == [bytes([number]) * size for number in range(40)]
    texts = ["x" * (size + number) for number in range(20)]
    assert list(pool.map(len, ["short", *texts])) == [5, *map(len, texts)]
    assert list(mh.map(len, [*texts, "short"], on=pool)) == [*map(len, texts), 5]


def fail_at(number):
    if number == 700:
        raise LookupError("seven hundred")
    return number


def test_a_failure_is_raised_in_its_place_with_the_workers_traceback(pool):
    values = pool.map(fail_at, range(2000))
    assert list(itertools.islice(values, 700)) == list(range(700))
    with pytest.raises(LookupError, match="seven hundred") as caught:
        next(values)
    assert "in fail_at" in str(caught.value.__cause__)
    assert list(values) == []


def test_a_map_that_skips_leaves_out_what_failed_and_counts_it(pool):
    def fail_sometimes(number):
        if number % 100 == 0:
            raise KeyError(number)
        return number

    values = mh.map(fail_sometimes, range(5000), on=pool, on_error="skip")
    assert list(values) == [number for number in range(5000) if number % 100]
    summary = values.summary()
    assert (summary.total, summary.succeeded, summary.failed) == (5000, 4950, 50)
    assert summary.failures == {"KeyError": 50}


def test_the_costliest_items_are_known(pool):
    def work(number):
        if number == 1234:
            time.sleep(0.05)
        return number

    values = mh.map(work, range(3000), on=pool)
    assert len(list(values)) == 3000
    first, *_ = values.summary().costliest
    assert (first.index, first.input) == (1234, 1234)
    assert first.seconds >= 0.05


def test_a_result_that_cannot_be_pickled_is_an_error_of_its_item_alone(pool):
    def lock_at_five(number):
        import threading

        return threading.Lock() if number == 5 else number

    assert list(mh.map(lock_at_five, range(50), on=pool, on_error="skip")) == [
        number for number in range(50) if number != 5
    ]
    with pytest.raises(TypeError, match="could not send the result"):
        list(pool.map(lock_at_five, range(50)))


def test_an_item_that_cannot_be_pickled_is_an_error_that_names_the_function(pool):
    with pytest.raises(TypeError, match="could not send the arguments of `same`"):
        list(pool.map(same, [1, (number for number in "ab")]))


def test_an_async_function_is_refused(pool):
    async def double(number):
        return 2 * number

    with pytest.raises(mh.WrongExecutor):
        list(pool.map(double, range(10)))


def test_the_exit_of_a_program_is_an_exception_of_its_item(pool):
    def leave(number):
        raise SystemExit(number)

    with pytest.raises(SystemExit):
        list(pool.map(leave, [3]))


def noted(path):
    return [int(line) for line in Path(path).read_text().split()]


def note(path, number):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    return number


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, None])
def test_a_worker_that_dies_costs_the_item_that_it_was_at(pool, tmp_path, how):
    path = str(tmp_path / "ran")

    def die_at(number):
        note(path, number)
        if number == 2500:
            if how is None:
                os._exit(3)
            os.kill(os.getpid(), how)
        return number

    values = mh.map(die_at, range(5000), on=pool, on_error="skip")
    assert list(values) == [number for number in range(5000) if number != 2500]
    assert values.summary().failures == {"WorkerDied": 1}
    assert sorted(noted(path)) == list(range(5000))


def test_a_death_is_raised_where_its_item_stands(pool):
    def die_at(number):
        if number == 1500:
            os._exit(3)
        return number

    values = pool.map(die_at, range(3000))
    assert list(itertools.islice(values, 1500)) == list(range(1500))
    with pytest.raises(mh.WorkerDied) as caught:
        next(values)
    assert caught.value.exitcode == 3
    assert caught.value.task.endswith("die_at")


def test_under_kills_every_item_is_run_once_and_accounted_for(tmp_path):
    path = str(tmp_path / "ran")

    def work(number):
        note(path, number)
        if number % 4001 == 4000:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with mh.ProcessExecutor(2) as pool:
        values = mh.map(work, range(20_000), on=pool, on_error="skip", ordered=False)
        got = Counter(values)
        assert values.summary().failures == {"WorkerDied": 4}
        figures = pool.statistics()
    assert set(got) == {number for number in range(20_000) if number % 4001 != 4000}
    assert set(got.values()) == {1}
    assert Counter(noted(path)) == Counter(range(20_000))
    assert (figures.submitted, figures.started, figures.succeeded, figures.failed) == (
        20_000,
        20_000,
        19_996,
        4,
    )


def test_every_item_is_run_though_nobody_asks_for_the_results(tmp_path):
    path = str(tmp_path / "ran")

    def work(number):
        note(path, number)

    with mh.ProcessExecutor(2) as pool:
        pool.map(work, range(3000))
    assert sorted(noted(path)) == list(range(3000))


def test_results_can_be_taken_after_the_end_of_the_executor():
    with mh.ProcessExecutor(2) as pool:
        values = pool.map(same, range(3000))
    assert list(values) == list(range(3000))


def test_the_figures_count_items(tmp_path):
    with mh.ProcessExecutor(2) as pool:
        list(mh.map(fail_at, range(1000), on=pool, on_error="skip"))
        figures = pool.statistics()
    assert (figures.submitted, figures.started, figures.queued) == (1000, 1000, 0)
    assert (figures.succeeded, figures.failed, figures.cancelled) == (999, 1, 0)
    assert figures.run.count == figures.wait.count == 1000


def test_what_has_not_begun_can_be_cancelled(tmp_path):
    started = tmp_path / "started"

    def wait_at_first(number):
        if number == 0:
            started.touch()
            eventually(lambda: not started.exists())
        return number

    pool = mh.ProcessExecutor(1)
    values = pool.map(wait_at_first, range(1000))
    eventually(started.exists)
    pool.shutdown(wait=False, cancel_futures=True)
    started.unlink()
    got = []
    with pytest.raises(concurrent.futures.CancelledError):
        for value in values:
            got.append(value)
    assert got == list(range(len(got)))
    assert 1 <= len(got) < 1000


def test_a_map_on_a_closed_executor_is_refused():
    pool = mh.ProcessExecutor(1)
    pool.shutdown()
    with pytest.raises(mh.ExecutorClosed):
        pool.map(same, [1])
    with pytest.raises(mh.ExecutorClosed):
        list(mh.map(same, [1], on=pool))


def test_an_initializer_that_raises_fails_the_map(caplog):
    def fail():
        raise RuntimeError("not today")

    with mh.ProcessExecutor(1, initializer=fail) as pool, pytest.raises(mh.BrokenInitializer):
        list(pool.map(same, range(1000)))


def test_waiting_has_a_limit(pool):
    values = pool.map(time.sleep, [0.3], timeout=0.02)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(values)


def test_an_endless_input_is_read_only_as_far_as_needed(pool):
    read = 0

    def numbers():
        nonlocal read
        while True:
            read += 1
            yield read

    with mh.map(same, numbers(), on=pool, buffersize=10) as values:
        assert list(itertools.islice(values, 1000)) == list(range(1, 1001))
    assert 1000 <= read <= 1010


def test_an_item_is_worked_on_before_the_next_is_there(pool, tmp_path):
    """The input waits for the function to have run on what it gave before."""

    def work(number):
        (tmp_path / str(number)).touch()
        return number

    def numbers():
        for number in range(5):
            yield number
            eventually((tmp_path / str(number)).exists)

    assert list(mh.map(work, numbers(), on=pool)) == list(range(5))


def test_an_input_that_breaks_is_heard_of_after_what_came_before(pool):
    def numbers():
        yield from range(500)
        raise LookupError("the input broke")

    values = mh.map(same, numbers(), on=pool)
    assert [next(values) for _ in range(500)] == list(range(500))
    with pytest.raises(LookupError, match="the input broke"):
        next(values)
    with pytest.raises(LookupError, match="the input broke"):
        pool.map(same, numbers())


def test_leaving_early_ends_what_is_being_worked_on(tmp_path):
    def work(number):
        if number == 3:
            (tmp_path / "pid").write_text(str(os.getpid()))
            while True:
                signal.pause()
        return number

    with mh.ProcessExecutor(2) as pool:
        with mh.map(work, range(100), on=pool) as values:
            assert [next(values) for _ in range(3)] == [0, 1, 2]
            written(tmp_path / "pid")
        assert list(pool.map(same, range(100))) == list(range(100))


def test_an_event_loop_iterates_without_blocking(pool):
    async def collect():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        values = [value async for value in mh.map(same, range(3000), on=pool)]
        ticking.cancel()
        return values, ticks

    values, ticks = asyncio.run(collect())
    assert values == list(range(3000))
    assert ticks > 1


def test_nothing_is_kept_of_a_map_that_is_over():
    class Item:
        pass

    pool = mh.ProcessExecutor(1)
    item = Item()
    seen = weakref.ref(item)
    assert len(list(mh.map(type, [item], on=pool))) == 1
    del item
    values = pool.map(same, range(10))
    next(values)
    del values
    gc.collect()
    assert seen() is None
    gone = weakref.ref(pool)
    pool.shutdown()
    del pool
    gc.collect()
    assert gone() is None


def test_items_see_the_variables_of_the_submitters_context(pool):
    token = VARIABLE.set("as the submitter sees it")

    def look(_):
        return VARIABLE.get()

    assert set(pool.map(look, range(2000))) == {"as the submitter sees it"}
    assert set(mh.map(look, range(2000), on=pool)) == {"as the submitter sees it"}
    VARIABLE.reset(token)


def test_a_worker_is_replaced_after_its_share_of_items():
    with mh.ProcessExecutor(1, max_tasks_per_worker=100) as pool:
        pids = [*pool.map(lambda _: os.getpid(), range(1000))]
    assert max(Counter(pids).values()) <= 100
    assert len(set(pids)) >= 10


def test_what_items_print_comes_out(pool, capsys):
    assert list(pool.map(print, range(3000))) == [None] * 3000
    assert sorted(map(int, capsys.readouterr().out.split())) == list(range(3000))


class Referable:
    """What can be referred to weakly."""


def make(_):
    return Referable()


def test_a_map_of_an_executor_keeps_no_result_that_it_has_handed_out(pool):
    for value in pool.map(make, range(500)):
        alive = weakref.ref(value)
        del value
        assert alive() is None


@pytest.mark.parametrize("at", [0, 1, 150, 298, 299])
@pytest.mark.parametrize("how", ["executor", "map", "as finished"])
def test_no_item_waits_behind_a_long_one_while_a_worker_is_idle(pool, tmp_path, how, at):
    """The long one ends only when all others have been run."""
    path = tmp_path / "ran"

    def work(number):
        if number != at:
            note(path, number)
            return number
        eventually(lambda: path.exists() and len(noted(path)) == 299)
        return number

    # They are known to be short, and so travel many at a time.
    assert list(pool.map(same, range(3000))) == list(range(3000))
    if how == "executor":
        assert list(pool.map(work, range(300))) == list(range(300))
    else:
        is_ordered = how == "map"
        assert sorted(mh.map(work, range(300), on=pool, ordered=is_ordered)) == list(range(300))
    assert Counter(noted(path)) == Counter(number for number in range(300) if number != at)


@pytest.mark.slow
@given(longs=st.sets(st.integers(0, 1999), max_size=6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_item_is_run_once_whatever_is_taken_from_whom(pool, tmp_path, longs):
    path = tmp_path / f"{time.monotonic_ns()}"

    def work(number):
        note(path, number)
        if number in longs:
            time.sleep(0.004)
        return number

    figures = pool.statistics()
    assert list(pool.map(work, range(2000))) == list(range(2000))
    assert Counter(noted(path)) == Counter(range(2000))
    after = pool.statistics()
    assert (after.started - figures.started, after.queued) == (2000, 0)


def test_each_item_that_waits_is_counted(tmp_path):
    with mh.ProcessExecutor(1) as pool:
        blocked = pool.submit(eventually, (tmp_path / "end").exists)
        values = pool.map(same, range(1000))
        figures = pool.statistics()
        assert figures.submitted == 1001
        assert figures.queued == 1001 - figures.started
        assert figures.queued > 900
        (tmp_path / "end").touch()
        assert list(values) == list(range(1000))
        blocked.result(timeout=20)
        figures = pool.statistics()
        assert (figures.queued, figures.started) == (0, 1001)


def test_outcomes_say_what_each_item_cost(pool):
    def work(number):
        if number % 100 == 7:
            raise ValueError(number)
        until = time.thread_time() + 0.00002
        while time.thread_time() < until:
            pass
        VARIABLE.set(VARIABLE.get(0) + 1)
        return "x" * number, VARIABLE.get()

    outcomes = list(mh.map(work, range(1000), on=pool, on_error="return"))
    assert (
        [outcome.index for outcome in outcomes]
        == [outcome.input for outcome in outcomes]
        == list(range(1000))
    )
    assert [outcome.index for outcome in outcomes if not outcome.ok] == list(range(7, 1000, 100))
    assert all(type(outcome.exception) is ValueError for outcome in outcomes if not outcome.ok)
    done = [outcome for outcome in outcomes if outcome.ok]
    assert max(outcome.value[1] for outcome in done) > 10, "none travelled with others"
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert all(outcome.worker.startswith("process ") for outcome in outcomes)
    assert all(outcome.receipt.cpu >= 0.00002 for outcome in done)
    assert all(outcome.receipt.wall > 0 and outcome.receipt.waited > 0 for outcome in outcomes)
    assert all(outcome.receipt.bytes_in > 0 for outcome in outcomes)
    assert all(outcome.receipt.bytes_out >= outcome.index for outcome in done)


@pytest.mark.parametrize("options", [{}, {"timeout": 60}], ids=["many at a time", "one by one"])
def test_an_item_that_ends_its_worker_costs_what_it_took(pool, options):
    def work(number):
        if number == 40:
            began = time.monotonic()
            while time.monotonic() < began + 0.05:
                pass
            os._exit(3)

    values = mh.map(work, range(100), on=pool, on_error="return", **options)
    [died] = [outcome for outcome in values if not outcome.ok]
    assert isinstance(died.exception, mh.WorkerDied)
    assert died.receipt.wall >= 0.05
    assert values.summary().costliest[0].index == died.index == 40


@pytest.mark.parametrize("ordered", [True, False])
def test_each_item_that_is_never_run_has_an_outcome(tmp_path, ordered):
    def block(number):
        if number == 0:
            (tmp_path / "began").touch()
            eventually((tmp_path / "end").exists)
        return number

    pool = mh.ProcessExecutor(1)
    mapped = mh.map(block, range(200), on=pool, on_error="return", ordered=ordered, buffersize=200)
    end = threading.Thread(target=wait_and_close, args=(pool, tmp_path))
    end.start()
    outcomes = sorted(mapped, key=lambda outcome: outcome.index)
    end.join()
    assert [outcome.index for outcome in outcomes] == list(range(200))
    assert outcomes[0].value == 0
    dropped = [outcome for outcome in outcomes if not outcome.ok]
    assert len(dropped) > 100
    assert all(isinstance(outcome.exception, concurrent.futures.CancelledError) for outcome in dropped)
    assert {(outcome.attempts, outcome.worker) for outcome in dropped} == {(0, None)}


def wait_and_close(pool, folder):
    eventually((folder / "began").exists)
    pool.shutdown(wait=False, cancel_futures=True)
    (folder / "end").touch()
