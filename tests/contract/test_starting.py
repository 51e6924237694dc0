"""Ctrl-C while a worker's thread is being started: the thread is either there, and known, or will not be."""

import threading

import pytest

import manyhands as mh

START = threading.Thread.start


async def doubled(number):
    return 2 * number


def double(number):
    return 2 * number


MODELS = {"async": (mh.AsyncExecutor, doubled), "thread": (mh.ThreadExecutor, double)}
each_model = pytest.mark.parametrize("model", MODELS)


def interrupted_by(monkeypatch, start):
    """Have the next thread that is started by `start`, which is interrupted in that."""

    def once(thread):
        monkeypatch.setattr(threading.Thread, "start", START)
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", once)


def check(executor, function, monkeypatch, start):
    """The interruption arrives, and the pool goes on with one worker, for which its end waits."""
    with executor(1) as pool:
        before = {*threading.enumerate()}
        interrupted_by(monkeypatch, start)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(function, 1)
        assert pool.submit(function, 2).result(timeout=30) == 4
        [worker] = {*threading.enumerate()} - before
    assert not worker.is_alive()


@each_model
def test_before_there_is_a_thread(model, monkeypatch):
    check(*MODELS[model], monkeypatch, lambda thread: None)


@each_model
def test_when_the_thread_has_begun(model, monkeypatch):
    executor, function = MODELS[model]
    done, has_run = [], threading.Event()

    def note(number):
        done.append(number)
        has_run.set()
        return double(number)

    async def anote(number):
        return note(number)

    def start(thread):
        START(thread)
        has_run.wait()

    check(executor, note if function is double else anote, monkeypatch, start)
    assert done == [1, 2]


@each_model
def test_when_the_thread_is_there_but_has_not_begun(model, monkeypatch):
    go_on, threads = threading.Event(), []

    def start(thread):
        live = thread._target

        def begin():
            go_on.wait()
            live()

        thread._target = begin
        threads.append(thread)
        START(thread)

    executor, function = MODELS[model]
    with executor(1) as pool:
        interrupted_by(monkeypatch, start)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(function, 1)
        go_on.set()
        [revoked] = threads
        revoked.join()
        assert pool.submit(function, 2).result(timeout=30) == 4
