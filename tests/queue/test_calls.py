"""Any function by its name: what is sent, what a worker calls, and what it refuses to."""

import functools
import os
import os.path as imported_module
import subprocess
import uuid
from collections import OrderedDict as ImportedClass

import pytest

import manyhands as mh
from manyhands.errors import CallRefused
from manyhands.queue import _calls
from manyhands.queue._calls import CALL, reference


def double(n):
    return 2 * n


async def double_later(n):
    return 2 * n


class Shop:
    @staticmethod
    def price(n):
        return 3 * n


def test_a_function_is_sent_by_its_name():
    assert reference(double) == f"{__name__}:double"
    assert reference(Shop.price) == f"{__name__}:Shop.price"
    assert reference(os.path.join) == "posixpath:join"


def nested():
    def inner():
        pass

    return inner


@pytest.mark.parametrize(
    "function", [lambda: None, nested(), functools.partial(double, 1), [].append, Shop().__init__, 5]
)
def test_what_has_no_name_of_its_own_is_not_sent(function):
    with pytest.raises(TypeError, match="could not send a call"):
        reference(function)


def call(wanted, *args, accepted=(__name__,), **kwargs):
    return _calls.caller(accepted)(wanted, args, kwargs)


def test_a_worker_calls_what_is_accepted():
    assert call(f"{__name__}:double", 4) == 8
    assert call(f"{__name__}:double", n=4) == 8
    assert call(f"{__name__}:Shop.price", 4) == 12
    assert call(f"{__name__}:double_later", 4) == 8
    assert call(f"{__name__}:double", 4, accepted=["*:double"]) == 8
    assert call(f"{__name__}:double", 4, accepted=["test_*"]) == 8


@pytest.mark.parametrize(
    "wanted",
    [
        "os:system",
        "posix:system",
        "builtins:eval",
        f"{__name__}:os.system",
        f"{__name__}:subprocess.run",
        f"{__name__}:imported_module.join",
        f"{__name__}:ImportedClass",
        f"{__name__}:Shop",
        f"{__name__}:nobody",
        f"{__name__}:double.__globals__",
        f"{__name__}:double.__call__",
        f"{__name__}:",
        __name__,
        "",
        ":",
    ],
)
def test_a_worker_calls_nothing_else(wanted):
    with pytest.raises(CallRefused, match="could not call"):
        call(wanted, "true")
    assert subprocess.run is not None
    assert ImportedClass is not None
    assert imported_module is not None


def test_a_queue_calls_nothing_unless_it_was_told_to():
    assert CALL not in mh.Queue("shop").tasks
    assert CALL in mh.Queue("shop", accept_calls=[__name__]).tasks


@pytest.mark.parametrize("address", ["redis://", "rediss://", "amqp://", "sqlite:///calls.db", "memory://"])
def test_an_address_is_an_executor(address):
    pool = mh.executor(address if address.endswith((".db", "memory://")) else f"{address}host:1")
    assert (pool.model, pool.capacity) == ("queue", 256)
    pool.shutdown()


def test_a_function_without_a_name_is_refused_at_once():
    with mh.executor("memory://") as pool, pytest.raises(TypeError, match="sends names and no code"):
        pool.submit(lambda: 1)


def test_the_executor_needs_a_place_for_results():
    with pytest.raises(ValueError, match="results"):
        mh.executor("memory://", results="")


@pytest.fixture
def workers():
    """A worker that calls functions of this module."""
    from manyhands.queue.worker import Worker

    address = f"memory://{uuid.uuid4().hex}"
    app = mh.Queue("calls", broker=address, accept_calls=[__name__])
    with Worker(app, on="thread", concurrency=2):
        yield address
    app.close()


def test_a_map_runs_on_the_workers(workers):
    assert list(mh.map(double, range(20), on=workers)) == [2 * n for n in range(20)]
    with mh.executor(workers) as pool:
        assert pool.submit(double, n=4).result() == 8
        assert pool.submit(double_later, 5).result() == 10
        with pytest.raises(TypeError):
            pool.submit(double, "a", 2).result()
        with pytest.raises(CallRefused, match=r"os\.path|posixpath"):
            pool.submit(os.path.join, "a").result()


def test_items_draw_the_numbers_of_their_seeds(workers):
    there = list(mh.map(lambda_free, range(5), on=workers, seed=7))
    assert there == list(mh.map(lambda_free, range(5), on="thread", seed=7))
    assert len(set(there)) == 5


def lambda_free(_):
    return mh.item_seed()
