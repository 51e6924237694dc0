"""What cannot be pickled: the error says where in the value it is, and nothing hangs."""

import collections
import copyreg
import functools
import pickle
import re
import threading

import pytest

import manyhands as mh
from manyhands.executors import _culprit
from manyhands.executors._culprit import path_to_culprit

LOCK = threading.Lock()


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(1) as pool:
        yield pool


class Thing:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def method(self):
        return self


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first, second):
        self.first, self.second = first, second


class Reducing:
    def __init__(self, lock):
        self.lock = lock

    def __reduce__(self):
        return Reducing, ("text", self.lock)


class OwnState:
    def __init__(self, *state):
        self.state = state

    def __getstate__(self):
        return self.state


class Stateful:
    def __reduce__(self):
        return Stateful, (), [LOCK]


class WithArguments:
    def __getnewargs__(self):
        return ("text", LOCK)


class List(list):
    pass


class Dict(dict):
    pass


def closing_over(value):
    def inner():
        return value

    return inner


def of_main(text, name):
    """A function or class that is sent by value, made from source."""
    space = {"__name__": "__main__", "LOCK": LOCK, "Thing": Thing}
    exec(text, space)
    return space[name]


def cycle():
    thing = Thing()
    thing.itself = thing
    thing.list = [thing, {"key": LOCK}]
    thing.list.append(thing.list)
    return thing


def default_of(value=LOCK):
    return value


FOUND = {
    "['key']['lock']": {"key": {"other": 1, "lock": LOCK}},
    "[1][0]": [1, (LOCK,)],
    "[<tuple>]": {(1, 2): LOCK},
    ".keys()": {LOCK: 1},
    ".client._lock": Thing(client=Thing(name="x", _lock=LOCK)),
    ".__dict__['no name']": Thing(**{"no name": LOCK}),
    ".second": Slotted(1, LOCK),
    ".__reduce__()[1][1]": Reducing(LOCK),
    ".__reduce__()[2][0]": Stateful(),
    ".__getstate__()[1]": OwnState(1, LOCK, 3),
    ".__reduce__()[1][1] ": WithArguments(),
    ".list[1]['key']": cycle(),
    "[2]": List([1, 2, LOCK]),
    "['k']": Dict(k=LOCK),
    ".lock": (lambda: vars(kept := List()).update(lock=LOCK) or kept)(),
    "['k'] ": collections.OrderedDict(k=LOCK),
    "[1]": collections.deque([1, LOCK]),
    ".__reduce__()[1][0].__closure__['value']": collections.defaultdict(closing_over(LOCK)),
    ".__closure__['value']": closing_over(LOCK),
    ".__closure__['value'].lock": closing_over(Thing(lock=LOCK)),
    ".__globals__['LOCK']": of_main("def use(): return LOCK", "use"),
    ".__defaults__[0]": of_main("def use(lock=LOCK): pass", "use"),
    ".__class__.lock": of_main("class Bad: lock = LOCK", "Bad")(),
    ".__class__.use.__globals__['LOCK']": of_main("class Bad:\n def use(self): return LOCK", "Bad")(),
    ".args[0]": functools.partial(print, LOCK),
    ".keywords['end']": functools.partial(print, end=LOCK),
    ".func.__closure__['value']": functools.partial(closing_over(LOCK), 1),
    ".__self__.lock": Thing(lock=LOCK).method,
    "[…]": {LOCK},
}


@pytest.mark.parametrize("path", FOUND)
def test_the_path_to_it_is_found(path):
    with pytest.raises(Exception, match="pickle"):
        mh.executors._pickling.dumps_by_value(FOUND[path])
    assert path_to_culprit(FOUND[path], "value") == f"value{path.rstrip()}"


def test_in_an_exception_it_is_one_of_its_arguments_unless_somebody_else_takes_it_to_pieces():
    class Own(Exception):
        pass

    assert path_to_culprit(Own("text", LOCK), "value") == "value.args[1]"
    copyreg.pickle(Own, lambda own: (Own.__new__, (Own, *own.args)))
    try:
        assert path_to_culprit(Own("text", LOCK), "value") == "value.__reduce__()[1][2]"
    finally:
        del copyreg.dispatch_table[Own]


def test_what_is_at_fault_itself_has_no_path():
    assert path_to_culprit(LOCK, "value") is None
    assert path_to_culprit([1, {"a": Thing()}], "value") is None


def test_the_parts_of_a_call_have_their_names():
    assert path_to_culprit(((1, Thing(lock=LOCK)), None), "args", "kwargs") == "args[1].lock"
    assert path_to_culprit(((), {"x": [LOCK]}, {}), "args", "kwargs", "context") == "kwargs['x'][0]"


class Hostile:
    """Everything that a search might call and pickling does not."""

    def fail(self, *_):
        raise AssertionError

    __eq__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = __getitem__ = fail
    calls = 0

    def __hash__(self):
        return 7

    def __reduce__(self):
        Hostile.calls += 1
        return Hostile, (), {"lock": LOCK}


def test_no_code_is_called_that_pickling_does_not_call():
    assert path_to_culprit({Hostile(): 1}, "value") == "value.keys().lock"
    assert Hostile.calls == 1
    assert path_to_culprit([{"key": Hostile()}], "value") == "value[0]['key'].lock"


def test_a_search_that_takes_long_is_given_up(monkeypatch):
    monkeypatch.setattr(_culprit, "_PATIENCE", 0)
    assert path_to_culprit([1, LOCK], "value") is None


def test_one_that_is_too_deep_is_given_up_and_a_long_path_is_shortened():
    deep = LOCK
    for _ in range(100):
        deep = [deep]
    path = path_to_culprit(deep, "value")
    assert path.startswith("value[0][0]")
    assert "…" in path
    assert len(path) < 200
    for _ in range(10_000):
        deep = [deep]
    assert path_to_culprit(deep, "value") is None


def test_an_argument_is_refused_at_submit_with_its_path(pool):
    text = r"could not send the arguments of `print` to a worker process: cannot pickle .*, found at `{}`"
    with pytest.raises(TypeError, match=text.format(r"args\[1\]\.client\._lock")) as caught:
        pool.submit(print, 1, Thing(client=Thing(_lock=LOCK)))
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(TypeError, match=text.format(r"kwargs\['file'\]\.lock")):
        pool.submit(print, file=Thing(lock=LOCK))
    with pytest.raises(TypeError, match=text.format(r"item\['key'\]")):
        pool.map(print, [{"key": LOCK}])
    with pytest.raises(TypeError, match=text.format(r"item\['key'\]")):
        list(mh.map(print, [{"key": LOCK}], on=pool))
    with pytest.raises(TypeError, match=text.format(r"args\[0\]\['key'\]")):
        list(mh.map(print, [{"key": LOCK}], on=pool, timeout=60))
    assert pool.submit(abs, -1).result() == 1


def test_a_function_is_refused_at_submit_with_its_path(pool):
    text = (
        r"could not send the function `.*inner` to a worker process: cannot pickle .*, found at `.*inner{}`"
    )
    with pytest.raises(TypeError, match=text.format(r"\.__closure__\['value'\]\.lock")):
        pool.submit(closing_over(Thing(lock=LOCK)))


def test_an_initializer_is_refused_with_its_path():
    with pytest.raises(TypeError, match=r"could not send the initializer .*found at `initargs\[0\]\.lock`"):
        mh.ProcessExecutor(1, initializer=print, initargs=(Thing(lock=LOCK),))


def make_thing(_=None):
    return Thing(client=Thing(lock=threading.Lock()))


def test_of_a_result_the_path_is_told(pool):
    text = r"could not send the result, a .*Thing, back from the worker process: .*at `result\.client\.lock`"
    with pytest.raises(TypeError, match=text) as caught:
        pool.submit(make_thing).result()
    assert "cannot pickle" in str(caught.value.__cause__)
    with pytest.raises(TypeError, match=text):
        list(mh.map(make_thing, range(100), on=pool))


class HoldsALock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.session = {"lock": threading.Lock()}


class NeedsTwo(Exception):
    def __init__(self, text, _second):
        super().__init__(text)


class RaisesInPickle(Exception):
    def __reduce__(self):
        raise SystemExit(3)


class HasNoText(Exception):
    def __init__(self):
        super().__init__(threading.Lock())

    def __str__(self):
        raise ValueError


def fail_with(kind, *args):
    raise kind(*args)


@pytest.mark.parametrize(
    ("kind", "args", "text", "reason"),
    [
        (HoldsALock, ("bad",), "bad", r"it cannot be pickled: .*, found at `exception\.session\['lock'\]`"),
        (NeedsTwo, ("bad", 2), "bad", r"it cannot be made again from its pickle: .*__init__\(\) missing 1"),
        (RaisesInPickle, ("bad",), "bad", "it cannot be pickled: 3"),
        (HasNoText, (), "?", r"it cannot be pickled: cannot pickle .*, found at `exception\.args\[0\]`"),
    ],
)
def test_an_exception_is_described(pool, kind, args, text, reason):
    error = pool.submit(fail_with, kind, *args).exception()
    assert isinstance(error, mh.UnsendableError)
    assert (error.kind.rpartition(".")[2], error.message) == (kind.__name__, text)
    assert "in fail_with" in str(error.__cause__)
    assert re.search(reason, error.reason)
    assert error.reason in str(error)
    assert pickle.loads(pickle.dumps(error)).reason == error.reason
    assert pool.submit(abs, -1).result() == 1


def test_an_exception_of_one_item_among_many_is_described(pool):
    fail_at = functools.partial(fail_at_fifty, HoldsALock)
    with pytest.raises(mh.UnsendableError, match=r"HoldsALock: 50\nhint: .*exception\.session\['lock'\]"):
        list(mh.map(fail_at, range(100), on=pool))


def fail_at_fifty(kind, number):
    if number == 50:
        raise kind(str(number))
