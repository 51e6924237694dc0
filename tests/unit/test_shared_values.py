"""Numbers that processes share: how they are found, how they change, when they are gone."""

import array
import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import signal
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import manyhands as mh
from watching import eventually, program

ROUNDS = 2000


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


@pytest.fixture
def name():
    return f"test-{os.getpid()}-{random.getrandbits(64):x}"


def descriptors(shared):
    """The descriptors of this process through which it has the object."""
    place = shared.__reduce__()[1][1]
    token = "{2:016x}{3:016x}".format(*(place[0] if isinstance(place[0], tuple) else place))
    found = [int(path.name) for path in Path("/proc/self/fd").iterdir() if token in os.path.realpath(path)]
    assert found
    return found


def add_often(value, number):
    for _ in range(ROUNDS):
        value.add(number)


def add_under_lock(value):
    for _ in range(ROUNDS):
        with value:
            value.value += 1


def fill(array, start, stop):
    for index in range(start, stop):
        array[index] = index * index
    return sum(memoryview(array)[start:stop])


def make_and_return():
    return mh.shared.Value(3)


@given(st.lists(st.integers(-(2**40), 2**40)))
def test_a_whole_number_adds_up(numbers):
    value = mh.shared.Value(0)
    assert [value.add(number) for number in numbers] == [
        sum(numbers[: end + 1]) for end in range(len(numbers))
    ]
    assert value.value == sum(numbers)


def test_a_float_stays_one():
    value = mh.shared.Value(0.5)
    assert (value.add(), value.add(0.25), type(value.value)) == (1.5, 1.75, float)
    value.value = 2
    assert (value.value, type(value.value)) == (2.0, float)
    assert value.compare_exchange(2, 3) and not value.compare_exchange(2, 4)
    assert (value.exchange(-0.0), value.compare_exchange(0.0, 1.0), value.value) == (3.0, True, 1.0)


def test_each_change_is_one_step_that_tells_what_was():
    value = mh.shared.Value(5)
    assert (value.exchange(7), value.fetch_max(6), value.fetch_max(9), value.fetch_min(8)) == (5, 7, 7, 9)
    assert (value.value, value.compare_exchange(8, 1), value.compare_exchange(8, 2)) == (8, True, False)
    assert repr(value) == "<Value 1>"


def test_what_does_not_fit_is_refused_and_changes_nothing():
    value = mh.shared.Value(2**63 - 1)
    with pytest.raises(OverflowError, match="could not add 1: the sum does not fit into 64 bits"):
        value.add(1)
    for wrong, error in [(2**63, OverflowError), (0.5, TypeError), ("1", TypeError)]:
        with pytest.raises(error):
            value.value = wrong
        with pytest.raises(error):
            mh.shared.Value(0).add(wrong)
    assert value.value == 2**63 - 1
    with pytest.raises(TypeError):
        mh.shared.Value("1")


def test_nothing_is_lost_that_processes_add_at_once(pool):
    whole, part, count = mh.shared.Value(0), mh.shared.Value(0.0), mh.shared.Counter(5)
    futures = [pool.submit(add_often, value, 2) for value in (whole, part, count) for _ in range(4)]
    mh.gather(*futures).result()
    assert (whole.value, part.value, count.value) == (8 * ROUNDS, 8.0 * ROUNDS, 8 * ROUNDS + 5)
    assert (int(count), repr(count)) == (count.value, f"<Counter {count.value}>")


def test_under_its_lock_a_change_of_two_steps_loses_nothing_either(pool):
    value = mh.shared.Value(0)
    futures = [pool.submit(add_under_lock, value) for _ in range(4)]
    add_under_lock(value)
    mh.gather(*futures).result()
    assert value.value == 5 * ROUNDS


def test_threads_of_one_process_keep_each_other_out():
    value = mh.shared.Value(0)
    threads = [threading.Thread(target=add_under_lock, args=[value]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.value == 4 * ROUNDS


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_multiprocessing_child_gets_it_as_an_argument(method):
    value = mh.shared.Value(1)
    process = multiprocessing.get_context(method).Process(target=add_often, args=(value, 1))
    process.start()
    process.join()
    assert value.value == ROUNDS + 1


def test_a_forked_child_has_it_and_is_a_process_of_its_own():
    text = """
import os, manyhands as mh
value, lock, tried = mh.shared.Value(1), mh.shared.Lock(), mh.shared.Event()
lock.acquire()
if not (child := os.fork()):
    value.add(1)
    if lock.acquire(blocking=False):
        value.add(100)
    tried.set()
    lock.acquire()
    value.add(1)
    os._exit(0)
value.add(1)
tried.wait()
lock.release()
os.waitpid(child, 0)
print(value.value, lock.locked())
"""
    with program(text) as process:
        assert process.communicate() == ("4 False\n", "")


def test_a_value_of_a_worker_can_be_found_as_long_as_somebody_has_it(pool):
    with pytest.raises(FileNotFoundError, match="expected its sender to keep it"):
        pool.submit(make_and_return).result()


def test_a_pickle_leads_to_those_who_still_have_it():
    text = """
import sys, pickle, manyhands as mh
value = pickle.loads(bytes.fromhex(sys.argv[1]))
print(value.add(1), flush=True)
input()
"""
    value = mh.shared.Value(1)
    pickled = pickle.dumps(value)
    with program(text, pickled.hex(), stdin=-1) as process:
        assert process.stdout.readline() == "2\n"
        del value
        gc.collect()
        assert pickle.loads(pickled).value == 2
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def test_a_name_is_anothers_way_to_it(name):
    made = mh.shared.Value(1, name=name)
    assert mh.shared.Value.open(name).add(1) == made.value == 2
    with pytest.raises(FileExistsError, match="found one of the name"):
        mh.shared.Counter(name=name)
    with pytest.raises(TypeError, match="could not open a shared Lock: found something else"):
        mh.shared.Lock.open(name)
    del made
    gc.collect()
    with pytest.raises(FileNotFoundError, match="found none of the name"):
        mh.shared.Value.open(name)
    assert mh.shared.Counter(name=name).value == 0


@pytest.mark.parametrize("wrong", ["", "a/b", "x" * 300])
def test_a_name_that_cannot_be_one_is_refused(wrong):
    with pytest.raises(ValueError, match="could not use `name`"):
        mh.shared.Value(name=wrong)


def test_only_its_user_may_open_it():
    value = mh.shared.Value()
    for descriptor in descriptors(value):
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600


def test_the_memory_goes_with_the_last_process_however_that_ends(name):
    text = """
import os, sys, manyhands as mh
value = mh.shared.Value(1, name=sys.argv[1])
array = mh.shared.Array("d", 10, name=sys.argv[1] + "-array")
os.fork()
os.write(1, b"there\\n")  # at once, or the two may mix
input()
"""
    before = set(Path("/dev/shm").iterdir())
    with program(text, name, stdin=-1) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["there\n"] * 2
        found = mh.shared.Array.open(f"{name}-array")
        os.killpg(process.pid, signal.SIGKILL)
    found[3] = 5
    assert found[2:5] == [0, 5, 0]

    def is_gone():
        try:
            mh.shared.Value.open(name)
        except FileNotFoundError:
            return True

    eventually(is_gone)
    del found
    gc.collect()
    with pytest.raises(FileNotFoundError):
        mh.shared.Array.open(f"{name}-array")
    left = set(Path("/dev/shm").iterdir()) - before
    assert not {file for file in left if name in file.name or "manyhands" in file.name}


@pytest.mark.parametrize("letter", "bBhHiIlLqQfd")
def test_an_array_has_numbers_of_its_type(letter):
    numbers = array.array(letter, [1, 2, 3, 100])
    made = mh.shared.Array(letter, numbers)
    assert (list(made), made[:], made[-1], made[1:3], len(made), made.typecode) == (
        [1, 2, 3, 100],
        [1, 2, 3, 100],
        100,
        [2, 3],
        4,
        letter,
    )
    made[0], made[1:3] = 7, (8, 9)
    view = memoryview(made)
    assert (view.format, view.itemsize, view.shape, view.strides, view.readonly, view.c_contiguous) == (
        letter,
        numbers.itemsize,
        (4,),
        (numbers.itemsize,),
        False,
        True,
    )
    assert bytes(made) == array.array(letter, [7, 8, 9, 100]).tobytes()
    assert mh.shared.Array(letter, 3)[:] == [0, 0, 0]


def test_what_an_array_cannot_do_is_an_error():
    made = mh.shared.Array("B", 3)
    for wrong, error in [((3, 1), IndexError), ((0, 256), ValueError), ((0, "x"), TypeError)]:
        with pytest.raises(error):
            made[wrong[0]] = wrong[1]
    with pytest.raises(ValueError):
        made[0:2] = [1, 2, 3]
    with pytest.raises(OverflowError):
        made[0:2] = [1, 256]
    with pytest.raises(ValueError, match="could not use `typecode`"):
        mh.shared.Array("x", 3)
    with pytest.raises(ValueError, match="expected 0 or more"):
        mh.shared.Array("d", -1)
    with pytest.raises((MemoryError, OSError)):
        mh.shared.Array("d", 2**60)
    assert (made[:], len(mh.shared.Array("d", 0)), repr(made)) == ([0, 0, 0], 0, "<Array 'B' of 3>")


def test_workers_fill_an_array_and_views_keep_its_memory(pool):
    squares = mh.shared.Array("q", 100)
    view = memoryview(squares)
    sums = mh.gather(*(pool.submit(fill, squares, start, start + 25) for start in range(0, 100, 25))).result()
    del squares
    gc.collect()
    assert view.tolist() == [number * number for number in range(100)]
    assert sum(sums) == sum(view)


def test_numpy_looks_into_the_memory_itself():
    import numpy

    made = mh.shared.Array("d", 6)
    matrix = numpy.asarray(made).reshape(2, 3)
    matrix[1, 2] = 1.5
    assert (made[5], matrix.dtype) == (1.5, numpy.float64)


MADE = [
    lambda: mh.shared.Value(1),
    lambda: mh.shared.Counter(1),
    lambda: mh.shared.Array("d", 4),
    mh.shared.Lock,
    mh.shared.RLock,
    mh.shared.RWLock,
    lambda: mh.shared.Semaphore(2),
    mh.shared.Event,
    mh.shared.Condition,
    lambda: mh.shared.Barrier(2),
]
CALLS = [
    lambda it: it.acquire(blocking=False),
    lambda it: it.acquire(timeout=0.001),
    lambda it: it.release(),
    lambda it: it.acquire_read(timeout=0.001),
    lambda it: it.acquire_write(timeout=0.001),
    lambda it: it.release_read(),
    lambda it: it.release_write(),
    lambda it: it.wait(timeout=0.001),
    lambda it: it.notify_all(),
    lambda it: it.set(),
    lambda it: it.reset(),
    lambda it: it.add(1),
    lambda it: it[:],
    lambda it: (it.value, it.was_abandoned, it.n_waiting),
    lambda it: pickle.loads(pickle.dumps(it)),
]


ERRORS = (AttributeError, TypeError, RuntimeError, ValueError, OverflowError, OSError)


@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("seed", range(4))
def test_nonsense_in_the_memory_does_no_harm_to_the_process(make, seed):
    it = make()
    chance = random.Random(seed)
    for call in CALLS:
        junk = chance.choice([chance.randbytes(4096), b"\xff" * 4096, bytes(4096), b"\1" * 4096])
        descriptor = descriptors(it)[0]
        size = os.fstat(descriptor).st_size
        # Behind the header, so that it is still found.
        start = chance.choice([128, 128 + 8 * chance.randrange((size - 128) // 8)])
        os.pwrite(descriptor, junk[: size - start], start)
        with contextlib.suppress(*ERRORS):
            call(it)
