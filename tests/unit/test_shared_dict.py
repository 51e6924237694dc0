"""A dict that processes share: a dict to each of them, and one to all."""

import contextlib
import math
import os
import pickle
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import manyhands as mh


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5).filter(
    lambda key: "nan" not in repr(key)  # which is equal to nothing
)
PICKLED = st.lists(st.integers()) | st.dictionaries(st.text(), st.integers())
VALUES = SIMPLE | PICKLED | st.tuples(SIMPLE, SIMPLE)
STEPS = st.lists(
    st.tuples(st.just("set"), KEYS, VALUES)
    | st.tuples(st.just("pop"), KEYS, st.none())
    | st.tuples(st.just("setdefault"), KEYS, VALUES)
    | st.tuples(st.just("update"), KEYS, VALUES),
    max_size=40,
)


def same(one, other):
    return repr(one) == repr(other)


@given(STEPS)
def test_it_does_what_a_dict_does(steps):
    model, shared = {}, mh.shared.Dict()
    for step, key, value in steps:
        if step == "set":
            model[key] = shared[key] = value
        elif step == "pop":
            assert same(shared.pop(key, "none"), model.pop(key, "none"))
        elif step == "setdefault":
            assert same(shared.setdefault(key, value), model.setdefault(key, value))
        else:
            shared.update({key: value, "other": 1})
            model.update({key: value, "other": 1})
        assert same(shared.get(key), model.get(key))
        assert (key in shared, len(shared)) == (key in model, len(model))
    assert set(shared) == set(model) == set(shared.keys())
    assert all(same(value, model[key]) for key, value in shared.items())
    assert same(sorted(map(repr, shared.values())), sorted(map(repr, model.values())))
    copy = shared.copy()
    assert copy.keys() == model.keys() and all(same(copy[key], model[key]) for key in model)


def test_what_is_equal_is_one_key():
    shared = mh.shared.Dict()
    shared[1], shared[2.5], shared[2**70], shared[(1, "a")] = "one", "half", "large", "pair"
    assert [shared[key] for key in (1.0, True, 2.5, float(2**70), (1.0, "a"))] == [
        "one",
        "one",
        "half",
        "large",
        "pair",
    ]
    shared[-0.0] = shared[math.inf] = 0
    assert sorted(map(repr, shared)) == ["(1, 'a')", "0", "1", "1180591620717411303424", "2.5", "inf"]


@pytest.mark.parametrize("key", [[], {}, object(), ("a", []), 1j, "\ud800"])
def test_what_cannot_be_a_key_is_refused(key):
    shared = mh.shared.Dict()
    for use in (lambda: shared[key], lambda: shared.get(key), lambda: shared.add(key), lambda: key in shared):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            use()
    with pytest.raises((TypeError, UnicodeEncodeError)):
        shared[key] = 1


def test_a_missing_key_is_an_error_unless_there_is_a_default():
    shared = mh.shared.Dict([("a", 1)])
    for use in (lambda: shared["b"], lambda: shared.pop("b"), lambda: shared.__delitem__("b")):
        with pytest.raises(KeyError, match="b"):
            use()
    assert (shared.get("b"), shared.get("b", 2), shared.pop("b", 3), shared.pop("a")) == (None, 2, 3, 1)
    with pytest.raises(TypeError, match="expected 1 or 2 arguments, got 3"):
        shared.pop("a", 1, 2)


def test_an_addition_is_of_numbers():
    shared = mh.shared.Dict({"text": "x", "large": 2**63 - 1, "huge": 2**63})
    assert (shared.add("new"), shared.add("new", 4), shared.add("new", 0.5)) == (1, 5, 5.5)
    for key, error in [("text", TypeError), ("huge", TypeError), ("large", OverflowError)]:
        with pytest.raises(error):
            shared.add(key, 1)
    for number in ("1", None, 2**63, [1]):
        with pytest.raises(TypeError, match="expected a float or a whole number of 64 bits"):
            shared.add("new", number or "none")
    assert shared.copy() == {"text": "x", "large": 2**63 - 1, "huge": 2**63, "new": 5.5}


def test_it_grows_with_what_is_put_into_it():
    shared = mh.shared.Dict()
    for number in range(20_000):
        shared[number] = number * number
        shared[str(number)] = "x" * (number % 50)
    shared["large"] = bytes(5_000_000)
    assert (len(shared), shared[19_999], shared["19999"], len(shared["large"])) == (
        40_001,
        19_999**2,
        "x" * 49,
        5_000_000,
    )
    copy = pickle.loads(pickle.dumps(shared))
    assert copy["7"] == "x" * 7
    shared.clear()
    assert (len(copy), copy.items(), copy.get(7)) == (0, [], None)


def fill(shared, start, count):
    for number in range(start, start + count):
        shared[number] = [number]
        shared.add("sum", number)
        if number % 3 == 0:
            del shared[number]
    return len(shared) > 0


def test_processes_and_threads_write_at_once_and_lose_nothing(pool):
    shared = mh.shared.Dict()
    futures = [pool.submit(fill, shared, start, 1000) for start in (0, 1000, 2000, 3000)]
    threads = [threading.Thread(target=fill, args=(shared, start, 1000)) for start in (4000, 5000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mh.gather(*futures).result()
    assert shared.pop("sum") == sum(range(6000))
    assert shared.copy() == {number: [number] for number in range(6000) if number % 3}


def read_pairs(shared, rounds):
    for _ in range(rounds):
        value = shared["pair"]
        assert value[0] == value[1] and len(set(value[2])) == 1
    return rounds


def test_a_reader_sees_a_value_as_a_whole(pool):
    shared = mh.shared.Dict({"pair": (0, 0, "0" * 100)})
    readers = [pool.submit(read_pairs, shared, 2000) for _ in range(2)]
    number = 0
    while not all(reader.done() for reader in readers):
        number += 1
        shared["pair"] = (number, number, str(number % 10) * (100 + number % 90))
    assert mh.gather(*readers).result() == [2000, 2000]


def move(shared, rounds):
    for _ in range(rounds):
        with shared:
            shared["from"] -= 1
            shared["to"] += 1


def test_several_steps_are_one_under_its_lock(pool):
    shared = mh.shared.Dict({"from": 1000, "to": 0})
    mh.gather(*(pool.submit(move, shared, 250) for _ in range(4))).result()
    assert shared.copy() == {"from": 0, "to": 1000}


def test_it_has_a_name_if_it_is_given_one():
    name = f"test-{os.getpid()}-{random.getrandbits(64):x}"
    made = mh.shared.Dict({"a": 1}, name=name)
    opened = mh.shared.Dict.open(name)
    opened["b"] = 2
    assert (made.copy(), repr(made)) == ({"a": 1, "b": 2}, "<Dict of 2>")
    with pytest.raises(FileExistsError):
        mh.shared.Dict(name=name)


def test_what_cannot_be_pickled_changes_nothing():
    shared = mh.shared.Dict({"a": 1})
    with pytest.raises(TypeError):
        shared["b"] = threading.Lock()
    with pytest.raises(TypeError):
        shared.update({"c": 1, "d": threading.Lock()})
    assert shared.copy() == {"a": 1}


@pytest.mark.parametrize("seed", range(30))
def test_nonsense_in_its_memory_does_no_harm_to_the_process(seed):
    chance, shared = random.Random(seed), mh.shared.Dict({number: str(number) for number in range(50)})
    token = "{2:016x}{3:016x}".format(*shared.__reduce__()[1][1])
    descriptors = [path for path in Path("/proc/self/fd").iterdir() if token in os.path.realpath(path)]
    descriptor = int(descriptors[0].name)
    size = os.fstat(descriptor).st_size
    for _ in range(20):
        small = bytes([chance.randrange(256), 0, 0, 0, 0, 0, 0, 0])
        junk = chance.choice([chance.randbytes(8), b"\xff" * 8, bytes(8), small])
        os.pwrite(descriptor, junk, 128 + 8 * chance.randrange(chance.choice([16, 64, (size - 128) // 8])))
        key = chance.randrange(60)
        for use in (
            lambda key=key: shared[key],
            lambda key=key: shared.update({key: "x" * 20, "new": 1}),
            lambda key=key: shared.add(key),
            lambda key=key: shared.pop(key),
            shared.items,
            lambda: len(shared),
        ):
            # What is read as a pickle is what others of the same user have written: that may raise anything.
            with contextlib.suppress(Exception):
                use()
