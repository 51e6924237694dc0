"""A failure that nobody looks at is not lost, and one that somebody looked at is not mentioned again."""

import asyncio
import concurrent.futures
import contextlib
import gc
import subprocess
import sys
import threading
import weakref

import pytest

import manyhands as mh


def failed():
    future = mh.Future()
    try:
        raise LookupError("nobody's business")
    except LookupError as error:
        future.set_exception(error)
    return future


def test_a_failure_that_nobody_looks_at_warns_with_its_traceback(our_model, collected_warnings):
    def stumble():
        raise LookupError("in the dark")

    with our_model.make() as pool:
        future = pool.submit(our_model.task(stumble))
        mh.wait([future])
    del future
    [warning] = collected_warnings()
    assert isinstance(warning, mh.TaskFailureWarning)
    text = str(warning)
    assert "call result() or exception() on its future" in text
    assert "in stumble" in text
    assert text.endswith("LookupError: in the dark")


@pytest.mark.parametrize(
    "look",
    [
        lambda future: future.exception(),
        lambda future: future.result(),
        lambda future: asyncio.run(awaited(future)),
        lambda future: mh.gather(future, return_exceptions=True).result(),
        lambda future: asyncio.run(wrapped(future)),
    ],
    ids=["exception", "result", "await", "gather", "wrap_future"],
)
def test_a_failure_that_somebody_looked_at_does_not(look, collected_warnings):
    future = failed()
    with contextlib.suppress(LookupError):
        look(future)
    del future
    assert collected_warnings() == []


def test_who_gives_up_waiting_does_not_undo_that_somebody_else_looks(collected_warnings):
    future, seen = mh.Future(), []
    begun = threading.Event()

    def look(future):
        begun.set()
        seen.append(future.exception())

    thread = threading.Thread(target=look, args=(future,))
    thread.start()
    begun.wait()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.05)
    future.set_exception(LookupError("seen by one"))
    thread.join()
    del future, thread
    assert [type(error) for error in seen] == [LookupError]
    assert collected_warnings() == []


async def awaited(future):
    await future


async def wrapped(future):
    await asyncio.wrap_future(future)


@pytest.mark.parametrize(
    "glance",
    [
        lambda future: future.done(),
        repr,
        lambda future: mh.wait([future]),
        lambda future: concurrent.futures.wait([future]),
        lambda future: list(mh.as_completed([future])),
        lambda future: future.add_done_callback(id),
    ],
    ids=["done", "repr", "wait", "standard wait", "as_completed", "callback"],
)
def test_learning_that_it_is_done_is_not_looking(glance, collected_warnings):
    future = failed()
    glance(future)
    del future
    [warning] = collected_warnings()
    assert isinstance(warning, mh.TaskFailureWarning)


def test_giving_up_waiting_is_not_looking(collected_warnings):
    future = mh.Future()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0)
    future.set_exception(LookupError())
    del future
    assert len(collected_warnings()) == 1


def test_success_and_cancellation_are_no_failures(collected_warnings):
    good, cancelled = mh.Future(), mh.Future()
    good.set_result(1)
    cancelled.cancel()
    del good, cancelled
    assert collected_warnings() == []


def test_a_failure_in_a_circle_warns_once(collected_warnings):
    future = failed()
    circle = [future]
    circle.append(circle)
    del future, circle
    assert len(collected_warnings()) == 1
    assert collected_warnings() == []


def test_with_warnings_as_errors_nothing_escapes():
    """A warning raised in a destructor can only be reported."""
    program = "import manyhands as mh; f = mh.Future(); f.set_exception(OSError('x')); del f; print('alive')"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "alive\n"
    assert "TaskFailureWarning" in ended.stderr


AT_EXIT = """
import manyhands as mh
def stumble():
    raise LookupError("in the dark")
with mh.ThreadExecutor(1) as pool:
    kept = pool.submit(stumble)
"""


def test_a_failure_kept_until_the_program_ends_warns(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(AT_EXIT)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "TaskFailureWarning" in ended.stderr
    assert "in stumble" in ended.stderr
    assert "LookupError: in the dark" in ended.stderr


def test_a_future_in_a_circle_is_collected():
    class Owner:
        pass

    owner = Owner()
    owner.future = mh.Future()
    owner.future.set_result(owner)
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None


def test_a_pending_future_in_a_circle_through_its_callback_is_collected():
    class Owner:
        def __init__(self):
            self.future = mh.Future()
            self.future.add_done_callback(self.settled)

        def settled(self, future):
            pass

    owner = Owner()
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None


def test_a_task_in_a_circle_through_its_arguments_is_collected(our_model, gate):
    class Owner:
        pass

    with our_model.make(workers=1) as pool, gate:
        pool.submit(our_model.wait_at(gate))
        gate.wait_for(1)
        owner = Owner()
        owner.future = pool.submit(our_model.task(id), owner)
        owner.future.cancel()
        alive = weakref.ref(owner)
        del owner
        gc.collect()
        assert alive() is None


def test_a_failed_future_does_not_keep_itself_alive_through_its_traceback(our_model, collected_warnings):
    def look(pool):
        future = pool.submit(our_model.task(divmod), 1, 0)
        try:
            future.result()
        except ZeroDivisionError:
            return weakref.ref(future)

    with our_model.make() as pool:
        alive = look(pool)
    gc.collect()
    assert alive() is None
    assert collected_warnings() == []


def test_a_gathered_future_in_a_circle_is_collected():
    class Owner:
        pass

    owner = Owner()
    owner.member = mh.Future()
    owner.whole = mh.gather(owner.member)
    owner.member.owner = owner if hasattr(owner.member, "__dict__") else None
    owner.member.add_done_callback(lambda _, owner=owner: None)
    alive = weakref.ref(owner)
    del owner
    gc.collect()
    assert alive() is None
