"""Workers in this process: what becomes of a message, on `memory://`."""

import asyncio
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest

import manyhands as mh
from manyhands import _core
from manyhands.errors import (
    MaxRetriesExceeded,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevoked,
    TaskTimeout,
    UnknownTask,
)
from manyhands.queue import Worker, current_task

PATIENCE = 60


@pytest.fixture
def queue():
    made = mh.Queue("shop", broker=f"memory://{uuid.uuid4().hex}")
    yield made
    made.close()


def working(queue, **options):
    return Worker(queue, **{"on": "thread", "concurrency": 2, **options})


def wait_until(is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def letters(queue, name="celery"):
    return queue._broker.dead_letters(name, 100)


def send(queue, task, body, **options):
    batch = _core.TaskBatch()
    id = batch.add(task, "celery", body, **options)
    queue._broker.publish(batch)
    return queue.result(id)


def test_results_come_back(queue):
    @queue.task
    def add(a, b=1):
        return {"sum": a + b}

    with working(queue):
        assert add.delay(2, b=3).get(timeout=PATIENCE) == {"sum": 5}
        results = add.delay_many((n,) for n in range(200))
        assert [result.get(timeout=PATIENCE)["sum"] for result in results] == list(range(1, 201))
    assert queue.depth() == 0


def test_plain_and_async_functions_run_in_one_worker(queue):
    @queue.task
    def plain():
        return threading.current_thread().name

    @queue.task
    async def waits(n):
        await asyncio.sleep(0)
        return n, asyncio.get_running_loop() is not None

    with working(queue):
        assert "Thread" in plain.delay().get(timeout=PATIENCE)
        assert waits.delay(4).get(timeout=PATIENCE) == [4, True]


def test_many_coroutines_wait_at_once(queue):
    met = []

    @queue.task
    async def meet():
        met.append(None)
        while len(met) < 50:
            await asyncio.sleep(0.001)

    with working(queue):
        results = meet.delay_many(() for _ in range(50))
        for result in results:
            result.get(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("told", "held"),
    [
        ({"prefetch_multiplier": 3}, 6),
        ({"prefetch_multiplier": 1}, 2),
        ({"prefetch_multiplier": 3, "prefetch": 4}, 4),
    ],
)
def test_a_worker_holds_no_more_messages_than_it_was_told(queue, told, held):
    go = threading.Event()

    @queue.task
    def wait():
        go.wait(PATIENCE)

    results = wait.delay_many(() for _ in range(20))
    with working(queue, **told):
        try:
            wait_until(lambda: queue.depth() <= 20 - held)
            assert queue.depth() == 20 - held
        finally:
            go.set()
        for result in results:
            result.get(timeout=PATIENCE)


def test_a_failure_is_told_with_its_traceback(queue):
    @queue.task
    def fail():
        raise ValueError("boom", object())

    with working(queue):
        result = fail.delay()
        with pytest.raises(ValueError, match="boom") as caught:
            result.get(timeout=PATIENCE)
    assert "in fail" in str(caught.value.__cause__)
    assert "_run.py" not in str(caught.value.__cause__)
    assert result.status == "FAILURE"


def test_what_cannot_be_written_is_a_failure(queue):
    @queue.task
    def returns_a_set():
        return {1}

    with working(queue), pytest.raises(TypeError, match="set"):
        returns_a_set.delay().get(timeout=PATIENCE)


def test_a_bound_task_knows_its_call(queue):
    @queue.task(bind=True)
    def look(self, *args):
        request = self.request
        return [request.id, request.retries, request.headers, list(request.args), request.hostname]

    with working(queue, name="w1"):
        result = look.apply_async((1,), headers={"x-tenant": "acme"})
        assert result.get(timeout=PATIENCE) == [result.id, 0, {"x-tenant": "acme"}, [1], "w1"]


def test_a_plain_task_knows_its_call_too(queue):
    @queue.task
    def look():
        task = current_task()
        request = task.request
        return [task.name, request.id, request.root_id, request.retries, request.called_directly]

    with working(queue):
        result = look.delay()
        assert result.get(timeout=PATIENCE) == [look.name, result.id, result.id, 0, False]


def test_what_a_task_sends_knows_its_parent(queue):
    @queue.task(bind=True)
    def child(self):
        return [self.request.parent_id, self.request.root_id]

    @queue.task
    def parent():
        return child.delay().id

    with working(queue):
        above = parent.delay()
        below = queue.result(above.get(timeout=PATIENCE))
        assert below.get(timeout=PATIENCE) == [above.id, above.id]


def test_a_task_is_tried_again(queue):
    @queue.task(bind=True, retries=3)
    def third_time(self, n, by="word"):
        if self.request.retries < n:
            raise self.retry(countdown=0.01, kwargs={"by": f"retry {self.request.retries + 1}"})
        return [self.request.retries, by]

    with working(queue):
        assert third_time.delay(2).get(timeout=PATIENCE) == [2, "retry 2"]


def test_a_task_tries_again_by_itself_until_it_has_been_enough(queue):
    tried = []

    @queue.task(retries=2, retry_on=KeyError, backoff=0.001)
    def stubborn():
        tried.append(current_task().request.retries)
        raise KeyError("no")

    @queue.task(bind=True, retries=0)
    def gives_up(self):
        self.retry(countdown=0)

    with working(queue):
        with pytest.raises(KeyError):
            stubborn.delay().get(timeout=PATIENCE)
        with pytest.raises(MaxRetriesExceeded):
            gives_up.delay().get(timeout=PATIENCE)
    assert tried == [0, 1, 2]


def test_an_eta_is_kept_and_others_do_not_wait_for_it(queue):
    @queue.task
    def when():
        return time.time()

    with working(queue, prefetch=1):
        eta = datetime.now(timezone.utc) + timedelta(seconds=0.3)
        later = when.apply_async(eta=eta)
        assert when.delay().get(timeout=PATIENCE) < eta.timestamp()
        assert later.get(timeout=PATIENCE) >= eta.timestamp()


def test_what_has_expired_is_not_begun(queue):
    ran = []

    @queue.task
    def run():
        ran.append(None)

    result = run.apply_async(expires=datetime.now(timezone.utc) - timedelta(seconds=1))
    # A broker that drops what has expired tells nobody.
    sent = send(queue, run.name, b"[[], {}, {}]", expires="2020-01-01T00:00:00Z")
    with working(queue):
        with pytest.raises(TaskRevoked):
            sent.get(timeout=PATIENCE)
        run.delay().get(timeout=PATIENCE)
    assert len(ran) == 1
    assert result.status in ("REVOKED", "PENDING")


def test_what_was_revoked_is_not_begun(queue):
    ran = []

    @queue.task
    def run(who):
        ran.append(who)

    dropped = run.apply_async(("dropped",), countdown=0.3)
    with working(queue) as worker:
        worker._core.revoke(dropped.id)
        with pytest.raises(TaskRevoked):
            dropped.get(timeout=PATIENCE)
        run.delay("kept").get(timeout=PATIENCE)
    assert ran == ["kept"]


def test_whoever_waits_for_a_task_with_an_eta_is_told_when_it_is_revoked(queue):
    @queue.task
    def run():
        pass

    with working(queue):
        later = run.apply_async(countdown=3600)
        wait_until(lambda: queue.depth() == 0)
        later.revoke()
        with pytest.raises(TaskRevoked, match="revoked"):
            later.get(timeout=PATIENCE)
    assert queue.depth() == 0


def test_what_runs_is_ended_when_it_is_terminated(queue):
    began, cancelled = [], []

    @queue.task
    def spins():
        began.append("thread")
        while True:
            time.sleep(0.001)

    @queue.task
    async def waits():
        began.append("coroutine")
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            cancelled.append(None)
            raise

    with working(queue):
        results = [spins.delay(), waits.delay()]
        wait_until(lambda: len(began) == 2)
        results[0].revoke()  # which does nothing to what runs
        for result in results:
            result.revoke(terminate=True)
        for result in results:
            with pytest.raises(TaskRevoked, match="terminated"):
                result.get(timeout=PATIENCE)
            assert result.status == "REVOKED"
        wait_until(lambda: cancelled)
    assert sorted(began) == ["coroutine", "thread"]
    assert queue.depth() == 0


def test_what_nobody_knows_becomes_a_dead_letter(queue):
    @queue.task
    def add(a, b):
        return a + b

    with working(queue):
        with pytest.raises(UnknownTask):
            queue.send_task("no.such.task").get(timeout=PATIENCE)
        send(queue, add.name, b"\x80\x04N.", content_type="application/x-python-serialize")
        with pytest.raises(Exception, match="could not read"):
            send(queue, add.name, b"{not json").get(timeout=PATIENCE)
        with pytest.raises(Exception, match="expected"):
            send(queue, add.name, b"[1, 2]").get(timeout=PATIENCE)
        assert add.delay(1, 2).get(timeout=PATIENCE) == 3
        wait_until(lambda: len(letters(queue)) == 4)
    reasons = " ".join(reason for _, _, reason, *_ in letters(queue))
    assert "no.such.task" in reasons
    assert "application/x-python-serialize" in reasons
    assert queue._broker.revive("celery", []) == 4
    assert queue.purge() == 4


def test_pickle_is_read_where_it_is_accepted():
    import pickle

    queue = mh.Queue("shop", f"memory://{uuid.uuid4().hex}", accept=("json", "pickle"))

    @queue.task
    def size(items):
        return len(items)

    with working(queue):
        body = pickle.dumps((({1, 2, 3},), {}, {}))
        kind = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
        assert send(queue, size.name, body, **kind).get(timeout=PATIENCE) == 3


def test_a_rejected_message_is_a_dead_letter_or_comes_again(queue):
    seen = []

    @queue.task
    def refuse(requeue):
        seen.append(requeue)
        if not requeue or len(seen) < 3:
            raise Reject("not today", requeue=requeue)
        return "at last"

    with working(queue):
        assert refuse.delay(True).get(timeout=PATIENCE) == "at last"
        refuse.delay(False)
        wait_until(lambda: letters(queue))
    assert "not today" in letters(queue)[0][2]


def test_a_hard_limit_ends_the_task(queue):
    @queue.task(timeout=0.1)
    async def waits():
        await asyncio.sleep(PATIENCE)

    @queue.task
    def sleeps():
        while True:
            time.sleep(0.01)

    with working(queue):
        for result in (waits.delay(), sleeps.apply_async(time_limit=0.1)):
            with pytest.raises(
                TaskTimeout, match=r"^the task ran longer than its limit of 0\.1 s and"
            ) as timed_out:
                result.get(timeout=PATIENCE)
            assert (timed_out.value.limit, timed_out.value.attempts) == (0.1, 1)


def test_a_soft_limit_is_raised_in_a_coroutine(queue):
    @queue.task(soft_timeout=0.05)
    async def waits():
        await asyncio.sleep(PATIENCE)

    with working(queue), pytest.raises(SoftTimeLimitExceeded, match=r"0\.05 s"):
        waits.delay().get(timeout=PATIENCE)


def test_a_coroutine_catches_its_soft_limit_and_goes_on(queue):
    @queue.task(soft_timeout=0.05)
    async def cleans_up():
        try:
            await asyncio.sleep(PATIENCE)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.001)
            return "cleaned up"

    @queue.task(soft_timeout=0.05, on="thread")
    async def on_a_thread():
        try:
            await asyncio.sleep(PATIENCE)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    @queue.task(soft_timeout=0.05)
    async def is_deaf():
        async def deaf():
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                return "kept it to itself"

        try:
            await asyncio.ensure_future(deaf())
        except SoftTimeLimitExceeded:
            return "told all the same"

    with working(queue):
        assert cleans_up.delay().get(timeout=PATIENCE) == "cleaned up"
        assert on_a_thread.delay().get(timeout=PATIENCE) == "cleaned up"
        assert is_deaf.delay().get(timeout=PATIENCE) == "told all the same"


def test_the_hard_limit_ends_who_does_not_heed_the_soft_one(queue):
    heard = []

    @queue.task(soft_timeout=0.05, timeout=0.3)
    async def waits_on():
        try:
            await asyncio.sleep(PATIENCE)
        except SoftTimeLimitExceeded:
            heard.append("coroutine")
            await asyncio.sleep(PATIENCE)

    @queue.task(soft_timeout=0.05, timeout=0.3)
    def goes_on():
        while True:
            try:
                while True:
                    time.sleep(0.005)
            except SoftTimeLimitExceeded:
                heard.append("thread")

    with working(queue):
        for result in (waits_on.delay(), goes_on.delay()):
            with pytest.raises(TaskTimeout):
                result.get(timeout=PATIENCE)
    assert sorted(heard) == ["coroutine", "thread"]


def test_a_soft_limit_is_raised_in_a_thread(queue):
    @queue.task
    def spins(catches):
        try:
            while True:
                time.sleep(0.001)
        except SoftTimeLimitExceeded:
            if not catches:
                raise
            return "cleaned up"

    with working(queue):
        send = {"soft_time_limit": 0.05}
        assert spins.apply_async((True,), **send).get(timeout=PATIENCE) == "cleaned up"
        with pytest.raises(SoftTimeLimitExceeded, match="soft limit"):
            spins.apply_async((False,), **send).get(timeout=PATIENCE)


def test_a_soft_limit_hits_no_other_call_in_the_thread():
    def last(seconds):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    for number in range(300):
        # Calls that end just before the limit, with it, and just after it.
        with suppress(SoftTimeLimitExceeded):
            _core.call_within(0.002, SoftTimeLimitExceeded, last, (0.001 + number % 20 * 0.0001,))
        for _ in range(100):
            pass
    with pytest.raises(SoftTimeLimitExceeded):
        _core.call_within(0.001, SoftTimeLimitExceeded, last, (PATIENCE,))
    last(0.005)


def test_a_rate_spaces_out_its_own_tasks_alone(queue):
    began = []

    @queue.task(rate="20/s")
    def slow():
        began.append(time.monotonic())

    @queue.task
    def quick():
        return time.monotonic()

    results = slow.delay_many(() for _ in range(5))
    last = quick.delay()
    start = time.monotonic()
    with working(queue, prefetch=2):
        for result in results:
            result.get(timeout=PATIENCE)
        assert last.get(timeout=PATIENCE) < began[-1]
    assert began[-1] - start >= 4 / 20


def test_the_more_urgent_goes_first(queue):
    order, began, gate = [], threading.Event(), threading.Event()

    @queue.task
    def note(name):
        began.set()
        gate.wait(PATIENCE)
        order.append(name)

    with working(queue, concurrency=1, prefetch=9) as worker:
        note.delay("first")
        assert began.wait(PATIENCE)
        low = note.apply_async(("low",), priority=1)
        high = note.apply_async(("high",), priority=9)
        wait_until(lambda: worker._core.load()[0] == 2)
        gate.set()
        for result in (low, high):
            result.get(timeout=PATIENCE)
    assert order == ["first", "high", "low"]


def test_an_ignored_result_is_not_stored(queue):
    done = threading.Event()

    @queue.task(ignore_result=True)
    def quiet():
        done.set()

    with working(queue):
        result = quiet.delay()
        assert done.wait(PATIENCE)
    assert result.status == "PENDING"


def test_who_wants_to_know_is_told_that_it_has_begun(queue):
    gate = threading.Event()

    @queue.task(track_started=True)
    def begun():
        gate.wait(PATIENCE)

    @queue.task(track_started=True)
    async def begins():
        await asyncio.to_thread(gate.wait, PATIENCE)

    with working(queue, name="w1"):
        results = [begun.delay(), begins.delay()]
        wait_until(lambda: all(result.status == "STARTED" for result in results))
        assert all(result.info == {"pid": os.getpid(), "hostname": "w1"} for result in results)
        gate.set()
        for result in results:
            result.get(timeout=PATIENCE)


def test_what_has_not_begun_goes_back_when_the_worker_stops(queue):
    gate, began = threading.Event(), threading.Event()

    @queue.task
    def hold():
        began.set()
        gate.wait(PATIENCE)
        return "held"

    worker = working(queue, concurrency=1, prefetch=9).start()
    running = hold.delay()
    assert began.wait(PATIENCE)
    waiting = [hold.delay(), hold.apply_async(countdown=3600)]
    wait_until(lambda: queue.depth() == 0)
    assert worker.at_work() == [(hold.name, running.id)]
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    wait_until(lambda: queue.depth() == len(waiting))
    gate.set()
    stopping.join(PATIENCE)
    assert running.get(timeout=PATIENCE) == "held"
    assert queue.depth() == len(waiting)


def test_what_does_not_end_in_time_goes_back(queue):
    gate, began = threading.Event(), threading.Event()

    @queue.task
    def hang():
        began.set()
        gate.wait(PATIENCE)

    worker = working(queue, concurrency=1).start()
    hang.delay()
    assert began.wait(PATIENCE)
    assert not worker.stop(grace=0)
    gate.set()
    assert queue.depth() == 1


def test_what_still_runs_when_the_worker_stops_can_be_terminated(queue):
    began = threading.Event()

    @queue.task
    def spins():
        began.set()
        while True:
            time.sleep(0.001)

    worker = working(queue).start()
    result = spins.delay()
    assert began.wait(PATIENCE)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    result.revoke(terminate=True)
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert result.status == "REVOKED"


def test_what_cannot_be_stored_before_the_worker_is_cut_short_goes_back():
    with socket.socket() as deaf:  # bound, that nobody else takes the port, and not listening: it refuses
        deaf.bind(("127.0.0.1", 0))
        address = f"redis://127.0.0.1:{deaf.getsockname()[1]}"
        queue = mh.Queue("shop", f"memory://{uuid.uuid4().hex}", results=address)
        gate, began, last = threading.Event(), threading.Event(), threading.Event()

        @queue.task
        def hang():
            began.set()
            gate.wait(PATIENCE)

        @queue.task
        def end():
            pass

        @queue.task(acks_late=False)
        def end_early():
            pass

        @queue.task(ignore_result=True)
        def forget():
            last.set()

        worker = working(queue).start()
        hang.delay()
        assert began.wait(PATIENCE)
        for task in (end, end, end_early, forget):
            task.delay()
        assert last.wait(PATIENCE)  # one thread runs them in turn: from here on none waits to begin
        wait_until(lambda: len(worker.at_work()) == 1)
        assert not worker.stop(grace=0)
        gate.set()
        wait_until(lambda: queue.depth() == 3)  # all but what was settled early, or has no result
        queue.close()


def test_an_early_acknowledgement_leaves_nothing_to_go_back(queue):
    gate, began = threading.Event(), threading.Event()

    @queue.task(acks_late=False)
    def hang():
        began.set()
        gate.wait(PATIENCE)

    worker = working(queue, concurrency=1).start()
    hang.delay()
    assert began.wait(PATIENCE)
    worker.stop(grace=0)
    gate.set()
    assert queue.depth() == 0


def test_results_in_another_form():
    queue = mh.Queue(
        "shop", f"memory://{uuid.uuid4().hex}", result_serializer="pickle", accept=("json", "pickle")
    )

    @queue.task
    def give(fails=False):
        if fails:
            raise ValueError("no")
        return {1, 2}

    with working(queue):
        _, document = queue._results.wait(give.delay().id, PATIENCE)
        import pickle

        assert pickle.loads(document)["result"] == {1, 2}
        _, document = queue._results.wait(give.delay(fails=True).id, PATIENCE)
        assert pickle.loads(document)["result"]["exc_type"] == "ValueError"
        _, document = queue._results.wait(queue.send_task("no.such.task").id, PATIENCE)
        assert pickle.loads(document)["result"]["exc_type"] == "NotRegistered"


def test_a_worker_that_cannot_be_made_says_why(queue):
    @queue.task
    def add():
        pass

    with pytest.raises(ValueError, match="on='nothing'"):
        working(queue, on="nothing")
    with pytest.raises(ValueError, match="application='module:queue'"):
        working(queue, on="process")

    @queue.task(rate="often")
    def rated():
        pass

    with pytest.raises(ValueError, match="often"):
        working(queue).start()
