"""Applications and tasks: names, calls, what is refused, and what a call becomes."""

import asyncio
import inspect
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import manyhands as mh
from manyhands import _core
from manyhands.errors import MaxRetriesExceeded, Retry, UnknownTask
from manyhands.queue import Request, current_task


@pytest.fixture
def queue():
    made = mh.Queue("shop", broker=f"memory://{uuid.uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def eager():
    return mh.Queue("shop", eager=True)


def here(queue):
    """A task of this module."""

    @queue.task
    def add(a, b=1, *, c=0):
        return a + b + c

    return add


def test_a_task_is_called_like_its_module_and_function(queue):
    assert here(queue).name == f"{__name__}.add"
    assert list(queue.tasks) == [f"{__name__}.add"]


def test_a_task_is_the_function_when_it_is_called(queue):
    add = here(queue)
    assert add(1, 2, c=3) == 6
    assert add.__name__ == "add"
    assert queue.depth() == 0


def test_delay_publishes_one_message_and_says_its_id(queue):
    result = here(queue).delay(1, c=2)
    assert uuid.UUID(result.id).version == 4
    assert queue.depth() == 1


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_each_call_has_an_id_of_its_own_also_in_a_forked_child(queue):
    add = here(queue)
    ids = {add.delay(n).id for n in range(100)}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, "\n".join(add.delay(n).id for n in range(10)).encode())
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    with os.fdopen(reading) as lines:
        theirs = set(lines.read().split())
    assert len(theirs) == 10
    assert len(ids | theirs | {add.delay(n).id for n in range(100)}) == 210


def test_many_calls_are_published_in_order_and_all_of_them(queue):
    results = here(queue).delay_many((n,) for n in range(2000))
    assert len({result.id for result in results}) == 2000
    assert queue.depth() == 2000


def test_many_calls_of_which_one_cannot_be_written_publish_those_before_it(queue):
    def calls():
        yield from ((n,) for n in range(1000))
        yield (object(),)

    with pytest.raises(TypeError):
        here(queue).delay_many(calls())
    assert queue.depth() == 512


def test_calls_of_coroutines_are_awaited(queue):
    add = here(queue)

    async def main():
        return await asyncio.gather(*(add.adelay(n) for n in range(50)))

    assert len({result.id for result in asyncio.run(main())}) == 50
    assert queue.depth() == 50


@pytest.mark.parametrize(
    ("route", "option", "goes_to"),
    [
        (None, None, "of-the-task"),
        ("of-the-route", None, "of-the-route"),
        ("a", "of-the-call", "of-the-call"),
    ],
)
def test_the_queue_of_a_call(route, option, goes_to):
    routes = {"*.add": route} if route else {}
    queue = mh.Queue("shop", broker=f"memory://{uuid.uuid4().hex}", routes=routes)
    add = queue.task(queue="of-the-task")(here(queue).function)
    add.apply_async((1,), **({"queue": option} if option else {}))
    assert queue.depth(goes_to) == 1


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"d": 1}), ((1,), {"a": 1})])
def test_arguments_that_the_function_does_not_take_are_not_sent(queue, args, kwargs):
    with pytest.raises(TypeError, match=r"could not send `tests|could not send `test_app"):
        here(queue).delay(*args, **kwargs)
    assert queue.depth() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"cuontdown": 1},
        {"countdown": 1, "eta": datetime.now(timezone.utc)},
        {"headers": {"key": object()}},
    ],
)
def test_a_call_with_options_that_make_no_sense_is_not_sent(queue, options):
    with pytest.raises(TypeError):
        here(queue).apply_async((1,), **options)
    assert queue.depth() == 0


def plain(a, b=1): ...
def named(a, *, b, c=2): ...
def loose(a, *rest, **others): ...
def at_the_front(a, b, /, c=3): ...
def nothing(): ...


CALLS = st.tuples(st.integers(0, 4), st.sets(st.sampled_from("abcd")))


@pytest.mark.parametrize("function", [plain, named, loose, at_the_front, nothing])
@given(call=CALLS)
def test_a_call_is_refused_exactly_where_the_function_would_not_take_it(function, call):
    queue = mh.Queue("shop", broker="memory://refusals")
    task = queue.task(function)
    args, kwargs = tuple(range(call[0])), dict.fromkeys(call[1], 0)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match="could not send"):
            task._check(args, kwargs)
    else:
        task._check(args, kwargs)


@pytest.mark.parametrize(
    "settings",
    [
        {"broker": "carrier-pigeon://me:hunter2@host"},
        {"when_unreachable": "shrug"},
        {"results": "nowhere"},
    ],
)
def test_an_application_with_settings_that_make_no_sense_is_not_made(settings):
    with pytest.raises(ValueError, match=r"found|expected") as raised:
        mh.Queue("shop", **settings)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("options", [{"retires": 3}, {"timelimit": 1}])
def test_an_unknown_option_of_a_task_is_named(queue, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        queue.task(**options)(print)


def test_two_tasks_of_one_name_are_refused_but_a_function_defined_again_is_not(queue):
    here(queue)
    here(queue)
    with pytest.raises(ValueError, match="name="):
        queue.task(name=f"{__name__}.add")(print)


def test_the_script_is_called_like_the_module_that_it_is(tmp_path):
    script = tmp_path / "tasks.py"
    script.write_text(
        textwrap.dedent("""
            import manyhands as mh
            queue = mh.Queue("shop")
            @queue.task
            def charge(): pass
            if __name__ == "__main__":
                print(charge.name)
        """)
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["tasks.charge"]
    run = subprocess.run(
        [sys.executable, "-m", "tasks"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["tasks.charge"]


def test_an_application_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "one_shop.py").write_text(
        "import manyhands as mh\nsome = mh.Queue('one')\nclass Inner: other = mh.Queue('two')\n"
    )
    (tmp_path / "two_shops.py").write_text(
        "import manyhands as mh\na = mh.Queue('one')\nb = mh.Queue('two')\nNone\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert mh.Queue.load("one_shop").name == "one"
    assert mh.Queue.load("one_shop:Inner.other").name == "two"
    with pytest.raises(ValueError, match=r"found a, b"):
        mh.Queue.load("two_shops")
    with pytest.raises(ValueError, match="expected a Queue"):
        mh.Queue.load("two_shops:mh")


def test_a_task_is_pickled_by_name():
    assert pickle.loads(pickle.dumps(pickled)) is pickled


pickling = mh.Queue("pickling")


@pickling.task
def pickled():
    return current_task()


def test_a_signature_is_a_call_that_is_not_made_yet(eager):
    add = here(eager)
    later = add.s(2, c=5)
    assert later == {
        "task": add.name,
        "args": (2,),
        "kwargs": {"c": 5},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    assert later.delay(10).get() == 17
    assert later.clone((1,)).args == (1, 2)
    assert add.si(2).delay(10).get() == 3
    assert later() == 8
    assert eager.signature(dict(later)).delay().get() == 8
    with pytest.raises(RuntimeError, match="belongs to no queue"):
        pickle.loads(pickle.dumps(later)).delay()


def test_a_bound_task_knows_its_call(eager):
    @eager.task(bind=True)
    def look(self):
        return current_task(), self.request

    running, request = look.apply_async(headers={"tenant": "acme"}, task_id="seven").get()
    assert running is look
    assert (request.id, request.task, request.headers) == ("seven", look.name, {"tenant": "acme"})
    assert request.is_eager
    assert not request.called_directly
    running, request = look()
    assert running is None
    assert request.called_directly
    assert current_task() is None


def test_a_task_in_a_task_knows_where_it_comes_from(eager):
    @eager.task(bind=True)
    def inner(self):
        return (self.request.root_id, self.request.parent_id)

    @eager.task(bind=True)
    def outer(self):
        return inner.delay().get()

    assert outer.apply_async(task_id="top").get() == ("top", "top")


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_task_is_tried_again_as_often_as_it_may(eager, is_coroutine):
    tries = []

    @eager.task(retries=2, bind=True)
    def plain(self):
        tries.append(self.request.retries)
        raise ValueError("no")

    @eager.task(retries=2, bind=True)
    async def coroutine(self):
        tries.append(self.request.retries)
        raise ValueError("no")

    result = (coroutine if is_coroutine else plain).delay()
    assert tries == [0, 1, 2]
    assert result.status == "FAILURE"
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert 'raise ValueError("no")' in result.traceback


def test_retry_says_when_and_with_what(queue, caplog):
    @queue.task(bind=True, retries=1, backoff=8, jitter=False)
    def again(self, n):
        raise self.retry(args=(n + 1,), exc=KeyError("why"), priority=3)

    request = Request.from_headers({"id": "1", "task": again.name})
    with pytest.raises(Retry) as raised:
        again.run_request(request, (1,), {})
    assert raised.value.countdown == 8
    assert raised.value.changes == {"args": (2,)}
    assert "left out priority" in caplog.text
    request.retries = 1
    with pytest.raises(KeyError, match="why"):
        again.run_request(request, (1,), {})


def test_retry_without_a_reason_ends_with_an_error_of_its_own(queue):
    @queue.task(bind=True, retries=0)
    def again(self):
        self.retry()

    with pytest.raises(MaxRetriesExceeded, match="1 times"):
        again.run_request(Request.from_headers({"id": "1"}), (), {})


def test_the_pauses_between_attempts(queue):
    growing = queue.task(backoff=2, max_backoff=10, jitter=False)(here(queue).function)
    assert [growing.pause(n) for n in range(4)] == [2, 4, 8, 10]
    assert growing.pause(10**6) == 10
    drawn = queue.task(backoff=2)(here(queue).function)
    assert all(0 <= drawn.pause(1) <= 4 for _ in range(100))
    fixed = queue.task(backoff=0, retry_delay=7)(here(queue).function)
    assert fixed.pause(5) == 7


def test_an_unknown_task_is_named_but_may_be_sent(eager, queue):
    with pytest.raises(UnknownTask, match="nobody"):
        eager.send_task("nobody.knows")
    queue.send_task("nobody.knows", (1,), {"a": 2}, queue="elsewhere")
    assert queue.depth("elsewhere") == 1


def test_eager_tasks_run_in_coroutines_too(eager):
    @eager.task
    async def double(n):
        await asyncio.sleep(0)
        return 2 * n

    async def main():
        return await (await double.adelay(2)), double.delay(3).get()

    assert asyncio.run(main()) == (4, 6)


def test_the_times_of_a_call_have_an_offset():
    from manyhands.queue import _sending

    zone = timezone(timedelta(hours=2))
    assert _sending.not_before(None, datetime(2026, 1, 2, 3), zone) == "2026-01-02T03:00:00+02:00"
    assert _sending.not_before(None, "2026-01-02T03:00:00Z", zone) == "2026-01-02T03:00:00+00:00"
    assert _sending.not_after(None, zone) == (None, None)
    assert _sending.not_after(datetime(2000, 1, 1), zone) == ("2000-01-01T00:00:00+02:00", 0)
    expires, dropped = _sending.not_after(1.5, zone)
    assert expires.endswith("+00:00")
    assert dropped == 1500


class Rude:
    def __repr__(self):
        raise OSError("no")


@pytest.mark.parametrize(
    ("value", "size"),
    [((1, "two"), 10), (tuple(range(10**5)), 10**6), (("x" * 10**5,), 10**5), ((Rude(),), 9)],
)
def test_arguments_are_shown_in_few_characters(value, size):
    from manyhands.queue import _sending

    assert 0 < len(_sending._shown(value, size)) <= 1024


def test_a_password_is_in_no_text(caplog):
    caplog.set_level(logging.DEBUG)
    queue = mh.Queue("shop", broker="redis://:hunter2@127.0.0.1:1/0", when_unreachable="fail")
    assert "hunter2" not in repr(queue) + queue.broker + str(queue.results)
    assert _core.shown_address("amqp://me:hunter2@host/") == "amqp://me:***@host/"


def test_a_relative_file_is_the_one_of_the_directory_where_the_queue_was_made(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    first = mh.Queue("shop", broker="sqlite:///jobs.db")
    monkeypatch.chdir(elsewhere)
    second = mh.Queue("shop", broker="sqlite:///jobs.db")
    first.send_task("shop.charge", (1,))
    assert (first.depth(), second.depth()) == (1, 0)
    assert (tmp_path / "jobs.db").exists()
    assert first.broker == "sqlite:///jobs.db"
