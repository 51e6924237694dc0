"""What became of a task: results, states, errors, and waiting for them."""

import asyncio
import concurrent.futures
import json
import threading
import uuid

import pytest

import manyhands as mh
from manyhands.errors import ContentRefused, RemoteTraceback, TaskRevoked
from manyhands.queue import _outcomes
from manyhands.queue.worker import Worker


@pytest.fixture
def queue():
    made = mh.Queue("shop", broker=f"memory://{uuid.uuid4().hex}")
    yield made
    made.close()


def finish(queue, id, state, result, **more):
    """Store an outcome as a worker does."""
    document = _outcomes.document(id, state, result, **more)
    queue._results.put(id, state, json.dumps(document).encode())


def test_an_unknown_task_is_pending(queue):
    result = queue.result("nobody")
    assert (result.state, result.status, result.result, result.traceback) == (
        "PENDING",
        "PENDING",
        None,
        None,
    )
    assert not result.ready()
    assert not result.successful()
    assert not result.failed()


def test_a_result_that_is_there(queue):
    finish(queue, "a", "SUCCESS", {"x": [1, 2]})
    result = queue.result("a")
    assert result.get(timeout=5) == {"x": [1, 2]}
    assert result.successful()
    assert result.ready()


def test_a_result_that_is_waited_for(queue):
    result = queue.result("a")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(result.get, 30)
        finish(queue, "a", "STARTED", None)
        finish(queue, "a", "SUCCESS", 5)
        assert waiting.result() == 5


def test_giving_up_waits_no_longer(queue):
    with pytest.raises(concurrent.futures.TimeoutError):
        queue.result("a").get(timeout=0.01)


def test_a_result_is_awaited_by_many(queue):
    async def main():
        results = [queue.result(str(n)) for n in range(50)]

        async def one(result):
            return await result

        waiting = [asyncio.ensure_future(one(result)) for result in results]
        await asyncio.sleep(0)
        finishing = threading.Thread(target=lambda: [finish(queue, str(n), "SUCCESS", n) for n in range(50)])
        finishing.start()
        gathered = await asyncio.gather(*waiting)
        finishing.join()
        return gathered

    assert asyncio.run(main()) == list(range(50))


def test_an_await_that_is_cancelled_ends(queue):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_of(queue.result("a")), 0.01)
        finish(queue, "a", "SUCCESS", 1)
        return await queue.result("a")

    async def _of(result):
        return await result

    assert asyncio.run(main()) == 1


class OrderError(Exception):
    """An error of the user's, whose constructor asks for more than its arguments."""

    def __init__(self, order, *, why):
        super().__init__(order, why)


def test_an_error_comes_as_what_it_was_with_the_workers_traceback(queue):
    record = _outcomes.error_record(OrderError(7, why="late"))
    finish(queue, "a", "FAILURE", record, traceback="Traceback ... there\n")
    result = queue.result("a")
    with pytest.raises(OrderError) as raised:
        result.get(timeout=5)
    assert raised.value.args == (7, "late")
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert result.failed()
    assert result.traceback == "Traceback ... there\n"
    assert isinstance(result.get(propagate=False), OrderError)
    assert isinstance(result.result, OrderError)


@pytest.mark.parametrize(
    "record",
    [
        {"exc_type": "NoSuchError", "exc_message": ["boom"], "exc_module": "nobody.imported.this"},
        {"exc_type": "system", "exc_message": ["boom"], "exc_module": "os"},
        {"exc_type": "SystemExit", "exc_message": ["boom"], "exc_module": "builtins"},
        {"exc_type": "path.join", "exc_message": "boom", "exc_module": "os"},
    ],
)
def test_what_is_no_exception_here_becomes_one_like_it(record):
    error = _outcomes.error_of({"status": "FAILURE", "result": record})
    assert type(error).__name__ == record["exc_type"].rpartition(".")[2]
    assert isinstance(error, Exception)
    assert error.args == ("boom",)


@pytest.mark.parametrize("record", [None, 5, "text", [], {"exc_type": 5}, {"exc_message": "x"}])
def test_a_broken_record_is_an_error_nevertheless(record):
    assert isinstance(_outcomes.error_of({"status": "FAILURE", "result": record}), RuntimeError)


def test_a_revoked_task_says_so_in_celerys_words_and_ours(queue):
    record = _outcomes.error_record(TaskRevoked("expired"))
    assert record == {
        "exc_type": "TaskRevokedError",
        "exc_message": ["expired"],
        "exc_module": "celery.exceptions",
    }
    finish(queue, "a", "REVOKED", record)
    with pytest.raises(TaskRevoked, match="expired"):
        queue.result("a").get(timeout=5)


def test_a_retry_is_no_end(queue):
    finish(queue, "a", "RETRY", _outcomes.error_record(ValueError("not yet")))
    result = queue.result("a")
    assert (result.state, result.ready()) == ("RETRY", False)
    assert isinstance(result.result, ValueError)
    finish(queue, "a", "SUCCESS", 1)
    assert result.state == "SUCCESS"


def test_a_state_of_the_tasks_own(queue):
    finish(queue, "a", "PROGRESS", {"done": 3})
    assert (queue.result("a").state, queue.result("a").info) == ("PROGRESS", {"done": 3})


def test_what_is_forgotten_is_pending(queue):
    finish(queue, "a", "SUCCESS", 1)
    result = queue.result("a")
    assert result.get(timeout=5) == 1
    result.forget()
    assert result.state == "PENDING"


def test_two_of_one_id_are_equal(queue):
    assert queue.result("a") == queue.result("a") != queue.result("b")
    assert len({queue.result("a"), queue.result("a")}) == 1


def test_a_queue_without_results_says_so():
    queue = mh.Queue("shop", results="")
    with pytest.raises(mh.BrokerError, match="keeps none"):
        queue.result("a").get(timeout=1)


def test_a_task_that_no_worker_knew_is_told_with_the_way_out():
    record = {"exc_type": "NotRegistered", "exc_message": ["shop.chrage"], "exc_module": "celery.exceptions"}
    error = _outcomes.error_of({"status": "FAILURE", "result": record})
    assert error.args == ("shop.chrage",)
    assert str(error).startswith("shop.chrage\nhint: the worker that took it knows no task of that name")


@pytest.mark.parametrize(
    ("name", "said", "shown"),
    [
        ("TimeLimitExceeded", [1], "the task ran longer than its limit of 1 s and was stopped"),
        ("TimeLimitExceeded", [], ""),
        ("TimeLimitExceeded", ["1 s", 2], "1 s"),
        ("WorkerLostError", ["Worker exited prematurely: signal 9"], "Worker exited prematurely: signal 9"),
        ("WorkerLostError", [9], "9"),
    ],
)
def test_the_end_of_a_task_is_told_and_has_its_fields(name, said, shown):
    record = {"exc_type": name, "exc_message": said, "exc_module": "billiard.exceptions"}
    error = _outcomes.error_of({"status": "FAILURE", "result": record})
    assert (str(error), error.task) == (shown, "")
    if name == "WorkerLostError":
        assert (error.pid, error.exitcode, error.peak_memory) == (None, None, None)
    else:
        assert (error.limit == 1, error.attempts) == (said == [1], 1)


@pytest.mark.parametrize("document", [b"[]", b"{", b"5", b"\xff"])
def test_a_document_that_is_none_is_an_error(queue, document):
    queue._results.put("a", "SUCCESS", document)
    with pytest.raises(ContentRefused):
        queue.result("a").get(timeout=5)


def test_a_revoked_task_is_not_run(queue):
    ran = []
    run = queue.task(name="run")(ran.append)
    first, second = run.delay(1), run.delay(2)
    first.revoke()
    with Worker(queue, on="thread", concurrency=1):
        with pytest.raises(TaskRevoked):
            first.get(timeout=30)
        assert second.get(timeout=30) is None
    assert ran == [2]
    assert first.state == "REVOKED"


def test_a_task_says_how_far_it_is(queue):
    seen = threading.Event()

    @queue.task(bind=True)
    def work(self):
        self.update_state("PROGRESS", {"done": 3})
        assert seen.wait(30)
        return "done"

    with Worker(queue, on="thread", concurrency=1):
        result = work.delay()
        while result.state != "PROGRESS":
            assert not result.ready()
        assert result.info == {"done": 3}
        seen.set()
        assert result.get(timeout=30) == "done"
