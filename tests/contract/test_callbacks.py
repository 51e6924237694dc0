"""Done callbacks: when, where, in which order, and what becomes of their mistakes."""

import gc
import logging
import threading
import weakref

import manyhands as mh


def test_callbacks_are_called_in_the_order_in_which_they_were_added(model, gate):
    order = []
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate))
        for number in range(20):
            future.add_done_callback(lambda _, number=number: order.append(number))
        gate.open()
    assert order == list(range(20))


def test_who_gives_up_waiting_does_not_change_the_order(model, gate):
    order = []
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate))
        future.add_done_callback(lambda _: order.append(0))
        waiting = mh.as_completed([future])
        for number in range(1, 10):
            future.add_done_callback(lambda _, number=number: order.append(number))
        del waiting
        gate.open()
    assert order == list(range(10))


def test_a_callback_gets_the_future_when_it_is_done(model, gate):
    seen = []
    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate), 5)
        future.add_done_callback(lambda done: seen.append((done, done.done(), done.result())))
        gate.open()
    assert seen == [(future, True, 5)]


def test_a_callback_of_a_done_future_is_called_at_once_in_this_thread(model):
    with model.make() as pool:
        future = pool.submit(model.task(abs), -1)
        future.result()
        called_in = []
        future.add_done_callback(lambda _: called_in.append(threading.current_thread()))
        assert called_in == [threading.current_thread()]


def test_a_callback_of_a_cancelled_future_is_called_by_who_cancels(model, gate):
    with model.make(workers=1) as pool, gate:
        pool.submit(model.wait_at(gate))
        gate.wait_for(1)
        pending = pool.submit(model.task(abs), -1)
        called_in = []
        pending.add_done_callback(
            lambda done: called_in.append((done.cancelled(), threading.current_thread()))
        )
        assert pending.cancel()
        assert called_in == [(True, threading.current_thread())]
        gate.open()


def test_a_callback_that_raises_is_logged_and_the_next_one_called(model, gate, caplog):
    order = []

    def raising(_):
        raise RuntimeError("in the callback")

    with caplog.at_level(logging.ERROR, logger="concurrent.futures"), model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate), 1)
        future.add_done_callback(raising)
        future.add_done_callback(lambda _: order.append("next"))
        gate.open()
        assert future.result() == 1
    assert order == ["next"]
    [record] = caplog.records
    assert record.name == "concurrent.futures"
    assert "exception calling callback for <Future" in record.getMessage()
    assert str(record.exc_info[1]) == "in the callback"


def test_a_callback_that_raises_does_not_hurt_the_worker(model, gate, caplog):
    def raising(_):
        raise RuntimeError("in the callback")

    with model.make(workers=1) as pool, gate:
        future = pool.submit(model.wait_at(gate), 1)
        future.add_done_callback(raising)
        gate.open()
        future.result()
        assert pool.submit(model.task(abs), -3).result() == 3
    assert len(caplog.records) == 1


def test_a_callback_may_add_another(model, gate):
    order = []

    def first(done):
        order.append("first")
        done.add_done_callback(lambda _: order.append("second"))

    with model.make() as pool, gate:
        future = pool.submit(model.wait_at(gate))
        future.add_done_callback(first)
        gate.open()
    assert order == ["first", "second"]


def test_a_callback_may_submit_and_ask_for_results(model, gate):
    seen = []
    with model.make() as pool, gate:

        def follow(done):
            seen.append(pool.submit(model.task(abs), -done.result()))

        future = pool.submit(model.wait_at(gate), 4)
        future.add_done_callback(follow)
        gate.open()
        future.result()
        pool.submit(model.task(abs), 0).result()
    [following] = seen
    assert following.result() == 4


def test_the_same_callback_added_twice_is_called_twice(model):
    calls = []
    with model.make() as pool:
        future = pool.submit(model.task(abs), -1)
        future.add_done_callback(calls.append)
        future.add_done_callback(calls.append)
    assert calls == [future, future]


def test_a_future_lets_go_of_its_callbacks_when_they_were_called():
    class Callback:
        def __call__(self, _):
            pass

    callback = Callback()
    alive = weakref.ref(callback)
    future = mh.Future()
    future.add_done_callback(callback)
    del callback
    assert alive() is not None
    future.set_result(1)
    gc.collect()
    assert alive() is None
