"""`mh.executor`: a name becomes an executor, here and wherever else a name is taken."""

import pytest

import manyhands as mh
from manyhands.executors import MODELS

CLASSES = {
    "thread": mh.ThreadExecutor,
    "process": mh.ProcessExecutor,
    "async": mh.AsyncExecutor,
    "process+async": mh.ProcessExecutor,
}
each_name = pytest.mark.parametrize("name", MODELS)


async def double_on_loop(number):
    return 2 * number


def double(number):
    return 2 * number


def doubling(name):
    """The function in the form that the model runs."""
    return double_on_loop if name.endswith("async") else double


def test_every_model_has_a_name():
    assert {*MODELS} == {*CLASSES}


@each_name
def test_a_name_makes_the_executor_of_its_model(name):
    with mh.executor(name) as pool:
        assert type(pool) is CLASSES[name]
        assert pool.model == name.partition("+")[0]


@each_name
def test_workers_is_how_many_tasks_may_run_at_once(name):
    each = {"concurrency": 5} if name == "process+async" else {}
    with mh.executor(name, 3, **each) as pool:
        assert pool.capacity == 3 * each.get("concurrency", 1)
    with mh.executor(name, workers=2, **each) as pool:
        assert pool.capacity == 2 * each.get("concurrency", 1)


@each_name
def test_without_workers_the_class_decides(name):
    usual = {"concurrency": 100} if name == "process+async" else {}
    with mh.executor(name) as pool, CLASSES[name](**usual) as made:
        assert pool.capacity == made.capacity


@each_name
def test_what_it_makes_runs_tasks(name):
    with mh.executor(name, 1) as pool:
        assert pool.submit(doubling(name), 21).result() == 42


def test_options_are_those_of_the_class():
    with mh.executor("thread", name="crew") as pool:
        assert pool.submit(lambda: __import__("threading").current_thread().name).result() == "crew_0"
    with mh.executor("async", 5, loops=2) as pool:
        assert pool.capacity == 10


def test_an_option_that_the_class_does_not_take_is_refused():
    with pytest.raises(TypeError, match="loops"):
        mh.executor("thread", loops=2)


@pytest.mark.parametrize("name", ["threads", "", None, 3])
@pytest.mark.parametrize("take", [mh.executor, mh.TaskGroup, lambda name: mh.map(double, [1], on=name)])
def test_an_unknown_name_lists_the_known_ones(name, take):
    with pytest.raises(ValueError, match=f"found {name!r}, expected") as caught:
        take(name)
    assert all(f'"{known}"' in str(caught.value) for known in MODELS)


def test_an_unknown_address_is_refused_without_showing_the_password_in_it():
    with pytest.raises(ValueError, match=r'found an address that begins with "kafka://", expected') as caught:
        mh.executor("kafka://user:secret@host")
    assert "secret" not in str(caught.value)


@each_name
def test_maps_and_groups_take_the_same_names(name):
    function = doubling(name)
    assert list(mh.map(function, [1, 2], on=name, workers=1)) == [2, 4]
    with mh.TaskGroup(name, workers=1) as group:
        future = group.submit(function, 21)
    assert future.result() == 42


def test_an_async_function_runs_on_an_event_loop_whatever_the_name_of_this_machine():
    assert list(mh.map(double_on_loop, [1, 2], on="process")) == [2, 4]


@each_name
def test_an_executor_shows_its_kind_name_size_and_state(name):
    with mh.executor(name, 2, name="crew") as pool:
        kind = type(pool).__name__
        assert repr(pool) == f"<{kind} name='crew' capacity={pool.capacity} queued=0>"
        view = pool.with_policy(retries=1)
        assert repr(view) == f"{repr(pool)[:-1]} policy=Policy(retries=1)>"
    assert repr(pool) == f"<{kind} name='crew' capacity={pool.capacity} queued=0 closed>"
    assert repr(view).endswith(" policy=Policy(retries=1) closed>")


def test_an_executor_that_could_not_be_made_can_be_shown():
    never_made = mh.ThreadExecutor.__new__(mh.ThreadExecutor)
    assert repr(never_made) == "<ThreadExecutor not open>"
