"""Policies: retries, rates, limits on concurrency, priorities, and what they refuse."""

import itertools
import threading
import time

import pytest

import manyhands as mh
from watching import eventually


class Flaky:
    """Fails as often as told, then returns how often it was called."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0
        self.__name__ = "flaky"

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.calls


def test_a_failed_attempt_is_repeated(our_model):
    flaky = Flaky(OSError(1), OSError(2))
    with our_model.make() as pool:
        assert pool.with_policy(retries=2, backoff=0).submit(our_model.task(flaky)).result() == 3
    figures = pool.statistics()
    assert (figures.submitted, figures.started, figures.retried) == (1, 3, 2)
    assert (figures.succeeded, figures.failed) == (1, 0)


def test_the_last_failure_is_the_outcome(our_model):
    last = OSError("last")
    flaky = Flaky(OSError("first"), last, OSError("never"))
    with our_model.make() as pool:
        assert pool.with_policy(retries=1, backoff=0).submit(our_model.task(flaky)).exception() is last
    assert flaky.calls == 2
    assert pool.statistics().failed == 1


def test_without_retries_nothing_is_repeated(our_model):
    flaky = Flaky(OSError())
    with our_model.make() as pool:
        assert pool.with_policy(timeout=60).submit(our_model.task(flaky)).exception()
    assert flaky.calls == 1


@pytest.mark.parametrize(
    ("retry_on", "calls"),
    [
        (OSError, 2),
        (ConnectionError, 2),
        (ValueError, 1),
        ((ValueError, OSError), 2),
        ((ValueError, LookupError), 1),
        ((), 1),
        (lambda error: "reset" in str(error), 2),
        (lambda error: False, 1),
        (None, 2),
    ],
    ids=["base", "same", "other", "tuple", "other tuple", "empty", "yes", "no", "default"],
)
def test_what_is_worth_another_attempt(our_model, retry_on, calls):
    flaky = Flaky(ConnectionResetError("reset by peer"))
    with our_model.make() as pool:
        future = pool.with_policy(retries=3, retry_on=retry_on, backoff=0).submit(our_model.task(flaky))
        mh.wait([future])
        assert flaky.calls == calls
        assert (future.exception() is None) == (calls == 2)


def test_a_function_is_asked_about_every_failure(our_model):
    failures, asked = [OSError(n) for n in range(3)], []

    def decide(error):
        asked.append(error)
        return len(asked) < 3

    flaky = Flaky(*failures)
    with our_model.make() as pool:
        future = pool.with_policy(retries=10, retry_on=decide, backoff=0).submit(our_model.task(flaky))
        assert future.exception() is failures[2]
    assert asked == failures


def test_a_function_that_raises_when_asked_ends_the_task(our_model):
    def decide(error):
        raise LookupError("undecided")

    with our_model.make() as pool:
        future = pool.with_policy(retries=3, retry_on=decide).submit(our_model.task(Flaky(OSError())))
        assert isinstance(future.exception(), LookupError)


def test_what_is_no_exception_is_not_repeated_by_default(our_model):
    class Stop(BaseException):
        pass

    flaky = Flaky(Stop())
    with our_model.make() as pool:
        assert isinstance(pool.with_policy(retries=3).submit(our_model.task(flaky)).exception(), Stop)
    assert flaky.calls == 1


def test_backoff_doubles_up_to_its_limit(our_model):
    starts = []

    def fail():
        starts.append(time.monotonic())
        raise OSError

    with our_model.make() as pool:
        policy = pool.with_policy(retries=4, backoff=0.05, max_backoff=0.1, jitter=False)
        policy.submit(our_model.task(fail)).exception()
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    for gap, expected in zip(gaps, [0.05, 0.1, 0.1, 0.1], strict=True):
        assert expected <= gap < expected + 3


def test_jitter_shortens_the_waits(our_model):
    def fail():
        raise OSError

    began = time.monotonic()
    with our_model.make(workers=50) as pool:
        policy = pool.with_policy(retries=1, backoff=1)
        futures = [policy.submit(our_model.task(fail)) for _ in range(50)]
        waits = []
        for future in futures:
            future.add_done_callback(lambda _: waits.append(time.monotonic() - began))
        mh.wait(futures)
        for future in futures:
            future.exception()
    # Fifty waits between 0 and 1 s that were all above 0.8 s, or all within 0.2 s, would be no jitter.
    assert min(waits) < 0.8
    assert max(waits) - min(waits) > 0.2


def test_a_worker_does_other_work_while_a_retry_waits(our_model):
    failed = threading.Event()

    def fail_once():
        if not failed.is_set():
            failed.set()
            raise OSError
        return "again"

    with our_model.make(workers=1) as pool:
        patient = pool.with_policy(retries=1, backoff=60, jitter=False)
        future = patient.submit(our_model.task(fail_once))
        assert failed.wait(30)
        assert pool.submit(our_model.task(abs), -1).result(timeout=30) == 1
        assert not future.done()
        assert future.cancel()


def test_a_task_that_waits_for_its_retry_can_be_cancelled_and_nobody_waits_for_it(our_model):
    failed = threading.Event()

    def fail():
        failed.set()
        raise OSError

    pool = our_model.make(workers=1)
    future = pool.with_policy(retries=1, backoff=600, jitter=False).submit(our_model.task(fail))
    assert failed.wait(30)
    eventually(lambda: not future.running())
    assert future.cancel()
    pool.shutdown()
    assert future.cancelled()


def test_retries_keep_their_place_before_what_was_submitted_later(our_model):
    order = []

    def note(name, fails):
        order.append(name)
        if fails and order.count(name) == 1:
            raise OSError

    with our_model.make(workers=1) as pool:
        view = pool.with_policy(retries=1, backoff=0)
        block, started = threading.Event(), threading.Event()
        if our_model.is_async:
            pytest.skip("a loop gives way between attempts, so that nothing is queued when the retry comes")
        pool.submit(lambda: (started.set(), block.wait()))
        started.wait()
        futures = [view.submit(note, "a", True)] + [pool.submit(note, name, False) for name in "bcd"]
        block.set()
        mh.wait(futures)
    assert order == ["a", "a", "b", "c", "d"]


def test_higher_priority_goes_first_and_equals_in_order(our_model, gate):
    order = []
    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        for name, priority in [("a", 0), ("b", 5), ("c", -5), ("d", 5), ("e", 0), ("f", 10)]:
            pool.with_policy(priority=priority).submit(our_model.task(order.append), name)
        gate.open()
    assert order == ["f", "b", "d", "a", "e", "c"]


def test_a_limit_on_concurrency_is_kept(our_model, gate):
    with our_model.make(workers=8) as pool, gate:
        limited = pool.with_policy(concurrency=2)
        held = [limited.submit(our_model.wait_at(gate)) for _ in range(6)]
        gate.wait_for(2)
        assert not gate.arrivals.acquire(timeout=0.05)
        assert sum(future.running() for future in held) == 2
        # What is not limited passes by those who wait.
        assert pool.submit(our_model.task(abs), -1).result(timeout=30) == 1
        gate.open()
        gate.wait_for(4)


def test_a_limit_on_concurrency_is_kept_under_load(our_model):
    lock, running, most = threading.Lock(), 0, 0

    def enter():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

    def leave():
        nonlocal running
        with lock:
            running -= 1

    def work():
        enter()
        time.sleep(0.001)
        leave()

    async def work_on_loop():
        import asyncio

        enter()
        await asyncio.sleep(0.001)
        leave()

    with our_model.make(workers=16) as pool:
        limited = pool.with_policy(concurrency=3)
        task = work_on_loop if our_model.is_async else work
        mh.wait([limited.submit(task) for _ in range(200)])
    assert most == 3


def test_a_failing_cancelled_or_timed_out_task_gives_its_place_back(our_model, gate):
    with our_model.make(workers=4) as pool, gate:
        limited = pool.with_policy(concurrency=1, timeout=0.05)
        for _ in range(3):
            assert limited.submit(our_model.task(divmod), 1, 0).exception(timeout=30)
            assert isinstance(limited.submit(our_model.wait_at(gate)).exception(timeout=30), mh.TaskTimeout)
            gate.wait_for(1)
        patient = pool.with_policy(concurrency=1)
        held = patient.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        pending = patient.submit(our_model.task(abs), -1)
        following = patient.submit(our_model.task(abs), -2)
        assert pending.cancel()
        assert held.cancel(force=True)
        assert following.result(timeout=30) == 2


def assert_rate(starts, began, per_second):
    """A task notes its start later than the gate let it through, never earlier: so every bound is exact."""
    for number, start in enumerate(sorted(starts)):
        assert start - began >= number / per_second - 1e-3


@pytest.mark.parametrize("rate", ["50/s", 50, "3000/m"])
def test_a_rate_is_exactly_held(our_model, rate):
    starts = []
    with our_model.make(workers=8) as pool:
        view = pool.with_policy(rate=rate)
        began = time.monotonic()
        mh.wait([view.submit(our_model.task(lambda: starts.append(time.monotonic()))) for _ in range(40)])
    assert_rate(starts, began, 50)
    # The last of 40 is due after 0.78 s; it is late only by what the machine is.
    assert max(starts) - began < 39 / 50 + 3


def test_a_rate_holds_retries_back_too(our_model):
    starts = []

    def fail():
        starts.append(time.monotonic())
        raise OSError

    with our_model.make() as pool:
        began = time.monotonic()
        pool.with_policy(rate="20/s", retries=4, backoff=0).submit(our_model.task(fail)).exception()
    assert len(starts) == 5
    assert_rate(starts, began, 20)


def test_two_views_have_two_rates(our_model):
    with our_model.make() as pool:
        views = [pool.with_policy(rate="1/h") for _ in range(3)]
        futures = [view.submit(our_model.task(abs), -1) for view in views]
        assert [future.result(timeout=30) for future in futures] == [1, 1, 1]


def test_nobody_waits_for_cancelled_tasks_that_a_rate_holds_back(our_model):
    pool = our_model.make(workers=1)
    slow = pool.with_policy(rate="1/h")
    assert slow.submit(our_model.task(abs), -1).result(timeout=30) == 1
    before, after = slow.submit(our_model.task(abs), -1), slow.submit(our_model.task(abs), -1)
    assert before.cancel()
    pool.shutdown(wait=False)
    assert after.cancel()
    pool.shutdown(wait=True)


def test_a_rate_is_read_per_second_minute_and_hour():
    for rate in ("100/s", "6/m", "1000/h", 2.5, 10):
        assert "rate=" in repr(mh.Policy(rate=rate))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"total_timeout": 0}, ValueError, "total_timeout"),
        ({"timeout": "3"}, TypeError, "`timeout`: found '3', expected a number of seconds"),
        ({"backoff": "x"}, TypeError, "`backoff`: found 'x'"),
        ({"retries": -1}, ValueError, "`retries`: found -1, expected 0 or more"),
        ({"retries": 1.5}, TypeError, "`retries`: found 1.5, expected a whole number"),
        ({"retries": 2**40}, OverflowError, "`retries`: 1099511627776 is too large"),
        ({"retries": 2**80}, OverflowError, "`retries`: 1208925819614629174706176 is too large"),
        ({"priority": "high"}, TypeError, "`priority`: found 'high'"),
        ({"rate": ["1/s"]}, TypeError, "`rate`: found .'1/s'., expected a text"),
        ({"concurrency": -1}, ValueError, "`concurrency`: found -1, expected 1 or more"),
        ({"retry_on": 42}, TypeError, "retry_on"),
        ({"retry_on": int}, TypeError, "retry_on"),
        ({"retry_on": (OSError, int)}, TypeError, "retry_on"),
        ({"backoff": -1}, ValueError, "backoff"),
        ({"max_backoff": -1}, ValueError, "max_backoff"),
        ({"rate": "fast"}, ValueError, "fast"),
        ({"rate": "10/week"}, ValueError, "10/week"),
        ({"rate": "0/s"}, ValueError, None),
        ({"rate": 0}, ValueError, None),
        ({"rate": -5}, ValueError, None),
        ({"concurrency": 0}, ValueError, "concurrency"),
        ({"speed": 1}, TypeError, "speed"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_a_policy_refuses_nonsense(options, error, text):
    with pytest.raises(error, match=text):
        mh.Policy(**options)
    with mh.ThreadExecutor() as pool, pytest.raises(error, match=text):
        pool.with_policy(**options)


def test_a_policy_shows_its_terms():
    shown = repr(mh.Policy(timeout=1.5, total_timeout=9, retries=2, concurrency=3, priority=-1))
    assert shown == "Policy(timeout=1.5, total_timeout=9, retries=2, concurrency=3, priority=-1)"


def test_a_policy_shows_how_it_retries():
    policy = mh.Policy(retries=2, retry_on=(OSError, mh.WorkerDied), backoff=0.5, max_backoff=2, jitter=False)
    shown = "retries=2, retry_on=(OSError, WorkerDied), backoff=0.5, max_backoff=2, jitter=False"
    assert repr(policy) == f"Policy({shown})"
    assert repr(mh.Policy(retry_on=OSError, backoff=99)) == "Policy(retry_on=OSError, backoff=99)"
    assert repr(mh.Policy(retry_on=(OSError,))) == "Policy(retry_on=(OSError,))"
    assert repr(mh.Policy(retry_on=callable)) == "Policy(retry_on=<built-in function callable>)"


def test_a_policy_shows_its_rate_as_it_was_written():
    assert repr(mh.Policy(rate="100/m")) == "Policy(rate='100/m')"
    assert repr(mh.Policy(rate=2.5)) == "Policy(rate=2.5)"


def test_the_terms_of_a_policy_can_be_read():
    given = {
        "timeout": 1.5,
        "total_timeout": 9.0,
        "retries": 2,
        "retry_on": (OSError, ValueError),
        "backoff": 0.25,
        "max_backoff": 4.0,
        "jitter": False,
        "rate": "5/s burst 2",
        "concurrency": 3,
        "priority": -1,
    }
    policy = mh.Policy(**given)
    assert {name: getattr(policy, name) for name in given} == given


def test_the_terms_of_a_plain_policy_are_the_defaults():
    policy = mh.Policy()
    assert (policy.timeout, policy.total_timeout, policy.rate, policy.concurrency) == (None,) * 4
    assert (policy.retries, policy.retry_on, policy.priority, policy.jitter) == (0, Exception, 0, True)
    assert 0 < policy.backoff <= policy.max_backoff


def test_a_policy_can_be_shared(our_model):
    policy = mh.Policy(retries=1, backoff=0)
    with our_model.make() as one, our_model.make() as other:
        for pool in (one, other):
            assert pool.with_policy(policy).submit(our_model.task(Flaky(OSError()))).result() == 2
