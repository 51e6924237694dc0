"""The queue between processes: as the standard library's, whole, and bounded."""

import array
import gc
import os
import pickle
import queue
import threading

import pytest

import manyhands as mh
from watching import eventually, in_thread

SIZES = [0, 1, 7, 2040, 2041, 4096, 70_000, 3_000_001]
"""Of bytes: in a record, in pages of their own, and copied while others run."""


class Blob:
    """An object whose memory the pickler leaves out of its stream."""

    def __init__(self, content):
        self.content = content

    def __reduce_ex__(self, protocol):
        return Blob, (pickle.PickleBuffer(self.content),)

    def __eq__(self, other):
        return bytes(self.content) == bytes(other.content)

    __hash__ = None


ITEMS = [
    None,
    True,
    -5,
    10**30,
    0.5,
    "text",
    "t" * 70_000,
    (1, "a", 2.5, b"b"),
    {"a": [1, 2]},
    [bytes(100_000), bytearray(100_001), "x"],
    Blob(bytearray(b"small")),
    Blob(bytearray(os.urandom(1_000_003))),
    [Blob(bytearray(200_001)), Blob(bytearray(300_000)), bytes(70_000)],
]


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


def put_numbers(queue, name, count):
    for number in range(count):
        queue.put((name, number, "x" * (number * 37 % 5000)))


def take_numbers(queue):
    """What is taken until the queue is shut down."""
    taken = []
    while True:
        try:
            name, number, filling = queue.get()
        except mh.sync.ShutDown:
            return taken
        assert len(filling) == number * 37 % 5000
        taken.append((name, number))


def state_of(shared):
    """The descriptor of its memory."""
    _, (_, (pid, descriptor, _, _)) = shared.__reduce__()
    assert pid == os.getpid()
    return descriptor


@pytest.mark.parametrize("size", SIZES)
def test_bytes_arrive_as_they_were(size):
    shared = mh.shared.Queue()
    item = os.urandom(size)
    for sent in (item, bytearray(item), memoryview(item)):
        shared.put(sent)
    for kind in (bytes, bytearray, bytes):
        got = shared.get()
        assert (type(got), got) == (kind, item)


def test_what_can_be_pickled_arrives():
    shared = mh.shared.Queue()
    assert shared.put_many(ITEMS) == len(ITEMS)
    for item in ITEMS:
        got = shared.get()
        assert (type(got), got) == (type(item), item)
    shared.put(memoryview(array.array("h", range(10)))[::2])
    assert array.array("h", shared.get()).tolist() == [0, 2, 4, 6, 8]


def test_what_cannot_be_pickled_is_refused_and_nothing_is_put():
    shared = mh.shared.Queue()
    with pytest.raises(TypeError, match="pickle"):
        shared.put(threading.Lock())
    assert shared.empty()


def test_an_object_that_comes_out_is_its_takers_own():
    shared = mh.shared.Queue()
    blob = Blob(bytearray(100_000))
    shared.put(blob)
    got = shared.get()
    got.content[0] = 1
    assert blob.content[0] == 0


def test_of_many_processes_and_threads_none_loses_or_doubles_anything(pool):
    shared = mh.shared.Queue(10)
    takers = [pool.submit(take_numbers, shared), in_thread(take_numbers, shared)]
    putters = [in_thread(put_numbers, shared, name, 100) for name in range(2)]
    putters.append(pool.submit(put_numbers, shared, 2, 100))
    mh.gather(*putters).result()
    shared.shutdown()
    taken = mh.gather(*takers).result()
    assert sorted(taken[0] + taken[1]) == [(name, number) for name in range(3) for number in range(100)]
    for mine in taken:
        for name in range(3):
            numbers = [number for other, number in mine if other == name]
            assert numbers == sorted(numbers)


def test_it_holds_as_many_as_it_may(pool):
    shared = mh.shared.Queue(2)
    assert (shared.maxsize, shared.empty(), shared.full(), shared.qsize()) == (2, True, False, 0)
    shared.put(1)
    shared.put(b"x" * 100_000)
    assert (shared.empty(), shared.full(), shared.qsize()) == (False, True, 2)
    for item in (3, b"x" * 100_000):
        with pytest.raises(queue.Full):
            shared.put_nowait(item)
        with pytest.raises(queue.Full):
            shared.put(item, timeout=0.001)
    waiting = [pool.submit(shared.put, 3), in_thread(shared.put, b"y" * 100_000)]
    eventually(waiting[0].running)
    assert shared.get() == 1
    assert len(shared.get()) == 100_000
    mh.gather(*waiting).result()
    assert {shared.get(), shared.get()} == {3, b"y" * 100_000}


def test_who_waits_for_an_item_gets_one(pool):
    shared = mh.shared.Queue()
    for wait in (shared.get_nowait, lambda: shared.get(False), lambda: shared.get(timeout=0.001)):
        with pytest.raises(queue.Empty):
            wait()
    waiting = [pool.submit(shared.get), pool.submit(shared.get), in_thread(shared.get)]
    eventually(lambda: all(future.running() for future in waiting[:2]))
    assert shared.put_many("abc") == 3
    assert sorted(future.result() for future in waiting) == ["a", "b", "c"]


def test_many_go_in_and_out_at_a_time():
    shared = mh.shared.Queue(5)
    assert shared.put_many(range(9), timeout=0.001) == 5
    assert shared.put_many("ab", block=False) == 0
    assert shared.get_many(3) == [0, 1, 2]
    assert shared.get_many(100) == [3, 4]
    with pytest.raises(queue.Empty):
        shared.get_many(1, block=False)
    with pytest.raises(ValueError, match="found most=0, expected 1 or more"):
        shared.get_many(0)


def test_an_error_says_what_was_wrong():
    shared = mh.shared.Queue()
    for use in (lambda: shared.get(timeout=-1), lambda: shared.put(1, timeout=-1)):
        with pytest.raises(ValueError, match="non-negative"):
            use()
    with pytest.raises(ValueError, match="found a timeout of NaN"):
        shared.get(timeout=float("nan"))
    with pytest.raises(ValueError, match="could not use `maxsize`"):
        mh.shared.Queue(1 << 28)
    assert mh.shared.Queue(-1).maxsize == 0


def test_shut_down_it_gives_out_what_is_left(pool):
    shared = mh.shared.Queue()
    shared.put_many("ab")
    pool.submit(shared.shutdown).result()
    assert shared.is_shutdown
    with pytest.raises(mh.sync.ShutDown):
        shared.put("c")
    assert (shared.get(), shared.get()) == ("a", "b")
    with pytest.raises(mh.sync.ShutDown):
        shared.get()
    with pytest.raises(mh.sync.ShutDown):
        shared.get_nowait()


def test_shut_down_at_once_it_gives_out_nothing():
    shared = mh.shared.Queue()
    shared.put_many(["a", b"b" * 100_000, "c"])
    shared.shutdown(immediate=True)
    assert (shared.qsize(), shared.join()) == (0, True)
    with pytest.raises(mh.sync.ShutDown):
        shared.get()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_shutdown_ends_every_wait(pool, is_full):
    shared = mh.shared.Queue(1)
    if is_full:
        shared.put(0)
    waiting = [start(shared.put, 1) if is_full else start(shared.get) for start in (pool.submit, in_thread)]
    eventually(waiting[0].running)
    shared.shutdown()
    for future in waiting:
        assert isinstance(future.exception(), mh.sync.ShutDown)


def test_join_waits_until_all_is_done(pool):
    shared = mh.shared.Queue()
    shared.put_many(range(3))
    joined = in_thread(shared.join)
    for _ in range(3):
        assert not joined.done()
        assert shared.join(timeout=0.001) is False
        shared.get()
        pool.submit(shared.task_done).result()
    assert joined.result() is True
    with pytest.raises(ValueError, match="too many times"):
        shared.task_done()


def test_others_open_it_by_its_pickle_or_its_name():
    name = f"queue of {os.getpid()}"
    shared = mh.shared.Queue(7, name=name)
    shared.put("a")
    for opened in (pickle.loads(pickle.dumps(shared)), mh.shared.Queue.open(name)):
        assert (type(opened), opened.maxsize, opened.get()) == (mh.shared.Queue, 7, "a")
        opened.put("a")
    with pytest.raises(FileExistsError):
        mh.shared.Queue(name=name)
    with pytest.raises(TypeError, match="found something else of that name"):
        mh.shared.Lock.open(name)


def test_what_was_put_outlives_who_put_it():
    shared = mh.shared.Queue()
    with mh.ProcessExecutor(1) as short_lived:
        assert short_lived.submit(shared.put_many, ["short", b"long" * 50_000]).result() == 2
    assert shared.get_many(2) == ["short", b"long" * 50_000]


def test_closed_it_is_of_no_use_here_and_of_use_elsewhere():
    shared = mh.shared.Queue()
    other = pickle.loads(pickle.dumps(shared))
    shared.close()
    for use in (shared.get, lambda: shared.put(1), shared.qsize, lambda: pickle.dumps(shared)):
        with pytest.raises(ValueError, match="found it closed in this process"):
            use()
    assert repr(shared) == "<Queue, closed>"
    other.put(1)
    assert other.get() == 1


def test_memory_is_used_again_and_gone_with_the_queue():
    shared = mh.shared.Queue()
    descriptor = state_of(shared)
    for _ in range(50):
        shared.put_many([bytes(1_000_000), bytes(3000), 1])
        shared.get_many(3)
    assert os.fstat(descriptor).st_size < 4_000_000
    del shared
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(descriptor)


@pytest.mark.parametrize(("word", "use"), [(1, "put"), (17, "get")])
def test_nonsense_in_the_memory_is_an_error(word, use):
    """The words of tail and head, as `engine::shared::queue` places them."""
    shared = mh.shared.Queue()
    shared.put_many("ab")
    if use == "get":
        shared.put("c")
    nowhere = 2 << 36 | (1 << 36) - 1
    os.pwrite(state_of(shared), nowhere.to_bytes(8, "little"), (16 + word) * 8)
    with pytest.raises(RuntimeError, match="could not read shared memory"):
        shared.put("b") if use == "put" else shared.get()
