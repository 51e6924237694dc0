"""The end of an executor: what still runs, what does not, and who is told."""

import concurrent.futures
import gc
import threading
import weakref

import pytest

import manyhands as mh


def threads_named(prefix):
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_leaving_the_block_waits_for_every_task(model):
    seen = []
    with model.make(workers=2) as pool:
        for number in range(100):
            pool.submit(model.task(seen.append), number)
    assert sorted(seen) == list(range(100))


def test_shutdown_ends_the_threads(our_model):
    pool = our_model.make(name=f"ending-{our_model.name}")
    pool.submit(our_model.task(abs), -1).result()
    assert threads_named(f"ending-{our_model.name}")
    pool.shutdown()
    assert not threads_named(f"ending-{our_model.name}")


def test_submit_after_shutdown_is_an_error(model):
    pool = model.make()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(model.task(abs), -1)
    with pytest.raises(RuntimeError):
        pool.map(model.task(abs), [-1])


def test_the_error_of_a_closed_executor_says_what_to_do(our_model):
    pool = our_model.make()
    pool.shutdown()
    with pytest.raises(mh.ExecutorClosed) as caught:
        pool.submit(our_model.task(abs), -1)
    assert "make a new executor" in caught.value.hint
    assert str(caught.value).endswith(f"\nhint: {caught.value.hint}")


def test_shutdown_may_be_called_again(model):
    pool = model.make()
    pool.submit(model.task(abs), -1)
    for _ in range(3):
        pool.shutdown()
        pool.shutdown(wait=False)


def test_shutdown_of_an_executor_that_was_never_used(model):
    model.make().shutdown()


def test_shutdown_without_waiting_returns_at_once_and_the_tasks_still_run(model, gate):
    pool = model.make(workers=1)
    running = pool.submit(model.wait_at(gate), "running")
    gate.wait_for(1)
    queued = pool.submit(model.task(abs), -1)
    pool.shutdown(wait=False)
    assert running.running()
    assert not queued.done()
    gate.open()
    assert running.result(timeout=30) == "running"
    assert queued.result(timeout=30) == 1
    pool.shutdown()


def test_shutdown_can_cancel_what_has_not_begun(model, gate):
    pool = model.make(workers=1)
    running = pool.submit(model.wait_at(gate), "running")
    gate.wait_for(1)
    queued = [pool.submit(model.task(abs), -1) for _ in range(20)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    assert running.running()
    gate.open()
    pool.shutdown()
    assert running.result() == "running"


def test_those_who_wait_for_cancelled_tasks_are_told(our_model, gate):
    pool = our_model.make(workers=1)
    pool.submit(our_model.wait_at(gate))
    gate.wait_for(1)
    queued = [pool.submit(our_model.task(abs), -1) for _ in range(3)]
    done = []
    waiting = threading.Thread(target=lambda: done.extend(concurrent.futures.wait(queued).done), daemon=True)
    waiting.start()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    waiting.join()
    assert set(done) == set(queued)
    pool.shutdown()


def test_a_task_may_shut_its_own_executor_down(model):
    pool = model.make(workers=1)

    def close():
        pool.shutdown(wait=False)

    pool.submit(model.task(close)).result(timeout=30)
    with pytest.raises(RuntimeError):
        pool.submit(model.task(abs), -1)
    pool.shutdown()


def test_a_task_of_ours_may_even_wait_for_the_shutdown():
    with mh.ThreadExecutor(2) as pool:
        assert pool.submit(lambda: pool.shutdown(wait=True) or "alive").result(timeout=30) == "alive"


def test_an_executor_that_is_forgotten_finishes_its_queue_and_ends(model, gate):
    name = f"forgotten-{model.name}"
    options = {"name": name} if model.is_ours else {"thread_name_prefix": name}
    pool = model.make(workers=1, **options)
    running = pool.submit(model.wait_at(gate), "running")
    gate.wait_for(1)
    queued = pool.submit(model.task(abs), -1)
    threads = threads_named(name)
    assert threads
    del pool
    gc.collect()
    gate.open()
    assert (running.result(timeout=30), queued.result(timeout=30)) == ("running", 1)
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_an_idle_executor_that_is_forgotten_ends_its_threads(our_model):
    name = f"idle-{our_model.name}"
    pool = our_model.make(name=name)
    pool.submit(our_model.task(abs), -1).result()
    threads = threads_named(name)
    del pool
    gc.collect()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_nothing_is_left_of_an_executor_that_is_gone(our_model):
    class Setup:
        def __call__(self):
            pass

    setup = Setup()
    pool = our_model.make(name=f"gone-{our_model.name}", initializer=setup)
    pool.submit(our_model.task(abs), -1).result()
    [thread] = threads_named(f"gone-{our_model.name}")
    things = [weakref.ref(pool), weakref.ref(setup), weakref.ref(thread)]
    pool.shutdown()
    del pool, setup, thread
    gc.collect()
    assert [thing() for thing in things] == [None, None, None]


def test_an_executor_in_a_circle_is_collected(our_model):
    class Client:
        def __init__(self):
            self.pool = our_model.make()
            self.patient = self.pool.with_policy(retries=2, retry_on=self.is_transient)
            self.future = self.patient.submit(our_model.task(self.work))

        def is_transient(self, error):
            return False

        def work(self):
            return self

    client = Client()
    client.future.result()
    client.pool.shutdown()
    alive = weakref.ref(client)
    del client
    gc.collect()
    assert alive() is None


def test_map_gives_values_in_order(model):
    with model.make() as pool:
        assert list(pool.map(model.task(pow), range(10), [2] * 5)) == [0, 1, 4, 9, 16]


def test_map_raises_at_the_item_that_failed(model):
    with model.make() as pool:
        values = pool.map(model.task(divmod), [4, 6, 8], [2, 0, 2])
        assert next(values) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            next(values)


def test_map_gives_up_in_time(model, gate):
    with model.make() as pool, gate:
        values = pool.map(model.wait_at(gate), [1], timeout=0.05)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(values)


def test_map_submits_at_once_and_goes_on_when_its_results_are_dropped(model):
    seen = []
    with model.make(workers=1) as pool:
        pool.map(model.task(seen.append), range(10))
    assert seen == list(range(10))


def test_map_with_a_buffer_reads_no_further_ahead(our_model):
    pulled = []

    def numbers():
        for number in range(100):
            pulled.append(number)
            yield number

    with our_model.make(workers=1) as pool:
        values = pool.map(our_model.task(abs), numbers(), buffersize=4)
        assert len(pulled) == 4
        assert next(values) == 0
        assert len(pulled) <= 5
        assert list(values) == list(range(1, 100))


def test_map_with_a_buffer_takes_an_endless_input(our_model):
    import itertools

    with our_model.make() as pool:
        values = pool.map(our_model.task(abs), itertools.count(), buffersize=2)
        assert [next(values) for _ in range(50)] == list(range(50))
        values.close()


@pytest.mark.parametrize(
    ("options", "error"), [({"buffersize": 0}, ValueError), ({"buffersize": "2"}, TypeError)]
)
def test_map_refuses_a_nonsensical_buffer(our_model, options, error):
    with our_model.make() as pool, pytest.raises(error, match="buffersize"):
        pool.map(our_model.task(abs), [1], **options)


def test_an_error_of_the_input_of_map_is_raised_at_once(model):
    def broken():
        yield 1
        raise LookupError("input")

    with model.make() as pool, pytest.raises(LookupError, match="input"):
        pool.map(model.task(abs), broken())


def test_the_results_of_map_do_not_keep_the_executor(our_model):
    pool = our_model.make(name=f"mapped-{our_model.name}")
    values = pool.map(our_model.task(abs), range(10))
    threads = threads_named(f"mapped-{our_model.name}")
    del pool
    gc.collect()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert list(values) == list(range(10))
