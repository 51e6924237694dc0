"""Random histories of processes on what they share, some of them killed: calls one at a time explain them."""

from pathlib import Path

from watching import program, seeds

PRELUDE = """
import os, pickle, random, signal, sys, tempfile, manyhands as mh
from queue import Empty, Full

sys.path.insert(0, sys.argv[2])
from linearizability import Call, check

chance = random.Random(int(sys.argv[1]))
# Who has ended a call has the lower number than who begins one after; it knows nothing of what is tested.
clock = mh.shared.Value(0)
killed = 0

def noted(file, step, who, plan, go, lives):
    while not go.value:
        pass
    # As deadly as SIGKILL, and as sudden.
    signal.setitimer(signal.ITIMER_REAL, lives)
    for name, *arguments in plan:
        os.write(file, pickle.dumps(("began", name, (who, *arguments), clock.add(1))))
        result = step(name, *arguments)
        os.write(file, pickle.dumps(("ended", result, clock.add(1))))
    signal.setitimer(signal.ITIMER_REAL, 0)

def read_back(file):
    file.seek(0)
    while True:
        try:
            _, name, arguments, began = pickle.load(file)
        except EOFError:
            return
        call = Call(name, arguments, began)
        try:
            _, call.result, call.ended = pickle.load(file)
        except EOFError:
            pass
        yield call

def history(plans, step, kills=False):
    # The calls of processes that make them at the same time, the first of which may be killed at any instant.
    go, pids, files = mh.shared.Value(0), [], [tempfile.TemporaryFile() for _ in plans]
    lives = chance.random() ** 2 / 1000 if kills else 0
    for who, (plan, file) in enumerate(zip(plans, files)):
        if pid := os.fork():
            pids.append(pid)
            continue
        try:
            noted(file.fileno(), step, who, plan, go, 0 if who else lives)
            os._exit(0)
        finally:
            os._exit(1)
    go.value = 1
    first, *others = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert first in (0, -signal.SIGALRM) and not any(others), (first, others)
    histories = [list(read_back(file)) for file in files]
    if first:
        global killed
        killed += 1
        its = histories[0]
        its.append(Call("die", (0,), its[-1].began if its else 0))
    return sum(histories, [])

def afterwards(name, step, *arguments):
    # A call when all others have ended.
    began = clock.add(1)
    result = step(name, *arguments)
    return Call(name, ("after", *arguments), began, clock.add(1), result)
"""


def explained(text, seed):
    """Run a program that checks histories; return how many processes were killed."""
    with program(PRELUDE + text + "\nprint(killed)", seed, Path(__file__).parents[1]) as process:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        return int(out)


QUEUE = """
numbers = iter(range(100_000))

def content(number):
    # In a record, in pages of their own, and more than one.
    return (number, "x" * [0, 700, 3000, 20_000][number % 4])

def step(name, *arguments):
    try:
        if name.startswith("put"):
            return getattr(queue, name)(content(*arguments))
        if not name.startswith("get"):
            return getattr(queue, name)()
        item = getattr(queue, name)()
        assert item == content(item[0])
        return item[0]
    except (Empty, Full) as why:
        return type(why).__name__

def model(items, name, arguments):
    is_full, is_empty = len(items) >= 3, not items
    if name == "qsize":
        yield items, len(items)
    elif name.startswith("put"):
        if not is_full:
            yield (*items, arguments[1]), None
        elif name == "put_nowait":
            yield items, "Full"
    elif name.startswith("get"):
        if not is_empty:
            yield items[1:], items[0]
        elif name == "get_nowait":
            yield items, "Empty"
    else:
        yield items, None
"""


@seeds(2)
def test_a_queue_of_processes_answers_as_if_calls_came_one_at_a_time(seed):
    text = """
for _ in range(15):
    queue = mh.shared.Queue(3)
    puts = [[("put", next(numbers)) for _ in range(6)] for _ in range(2)]
    plans = [*puts, [("get",)] * 6, [("get",)] * 6]
    for plan in plans:
        plan.insert(chance.randrange(7), ("qsize",))
    check(history(plans, step), model, ())
"""
    explained(QUEUE + text, seed)


@seeds(2)
def test_who_is_killed_in_a_queue_has_made_his_last_call_or_not(seed):
    text = """
def plan(length):
    calls = [("put_nowait", next(numbers)), ("get_nowait",), ("qsize",)]
    return [("put_nowait", next(numbers)) if call[0] == "put_nowait" else call
            for call in chance.choices(calls, [4, 4, 1], k=length)]
for _ in range(30):
    queue = mh.shared.Queue(3)
    calls = history([plan(12), plan(8), plan(8)], step, kills=True)
    calls += [afterwards("get_nowait", step) for _ in range(4)]
    check(calls, model, ())
"""
    explained(QUEUE + text, seed)


DICT = """
def value(number):
    return "x" * [0, 30, 3000][number % 3] + str(number)

def step(name, *arguments):
    if name == "set":
        shared[arguments[0]] = value(arguments[1])
    elif name == "pop":
        return shared.pop(arguments[0], None)
    elif name == "setdefault":
        return shared.setdefault(arguments[0], value(arguments[1]))
    elif name == "add":
        return shared.add("sum")
    elif name == "items":
        return tuple(sorted(shared.items()))
    else:
        return getattr(shared, name)(*arguments)

def changed(pairs, key, value):
    return tuple(sorted([pair for pair in pairs if pair[0] != key] + [(key, value)]))

def model(pairs, name, arguments):
    key = arguments[1] if len(arguments) > 1 else None
    there = dict(pairs)
    if name == "set":
        yield changed(pairs, key, value(arguments[2])), None
    elif name == "get":
        yield pairs, there.get(key)
    elif name == "pop":
        yield tuple(pair for pair in pairs if pair[0] != key), there.get(key)
    elif name == "setdefault":
        found = there.get(key, value(arguments[2]))
        yield changed(pairs, key, found), found
    elif name == "add":
        total = there.get("sum", 0) + 1
        yield changed(pairs, "sum", total), total
    elif name == "items":
        yield pairs, pairs
    elif name == "__len__":
        yield pairs, len(pairs)
    elif name == "clear":
        yield (), None
    else:
        yield pairs, None

def plan(length):
    names = ["set", "get", "pop", "setdefault", "add", "items", "__len__", "clear"]
    calls = []
    for name in chance.choices(names, [6, 6, 3, 3, 4, 2, 2, 1], k=length):
        arguments = [chance.choice("ab")] if name in ("set", "get", "pop", "setdefault") else []
        calls.append((name, *arguments, *([chance.randrange(1000)] if name in ("set", "setdefault") else [])))
    return calls
"""


@seeds(2)
def test_a_dict_of_processes_answers_as_if_calls_came_one_at_a_time(seed):
    text = """
for _ in range(20):
    shared = mh.shared.Dict()
    check(history([plan(10) for _ in range(3)], step), model, ())
"""
    explained(DICT + text, seed)


@seeds(2)
def test_who_is_killed_in_a_dict_has_made_his_last_call_or_not(seed):
    text = """
for _ in range(20):
    shared = mh.shared.Dict()
    calls = history([plan(14), plan(8), plan(8)], step, kills=True)
    check([*calls, afterwards("items", step)], model, ())
"""
    explained(DICT + text, seed)


RWLOCK = """
def step(name):
    return getattr(lock, name)()

def visits(length):
    calls = []
    for kind in chance.choices(["read", "write"], k=length):
        calls += [("acquire_" + kind,), ("release_" + kind,)]
    return calls

def model(present, name, arguments):
    # Who is there, and as what.
    what, _, kind = name.partition("_")
    who = arguments[0]
    if what == "die":
        yield frozenset(one for one in present if one[0] != who), None
    elif what == "release":
        yield present - {(who, kind)}, None
    elif not present or kind == "read" and all(one[1] == "read" for one in present):
        yield present | {(who, kind)}, True
"""


@seeds(2)
def test_a_read_write_lock_of_processes_answers_as_if_calls_came_one_at_a_time(seed):
    text = """
for _ in range(15):
    lock = mh.shared.RWLock()
    plans = [visits(5) for _ in range(3)]
    check(history(plans, step), model, frozenset())
"""
    explained(RWLOCK + text, seed)


@seeds(2)
def test_what_one_holds_who_is_killed_is_held_by_nobody(seed):
    text = """
for _ in range(10):
    lock = mh.shared.RWLock()
    plans = [visits(5) for _ in range(3)]
    calls = history(plans, step, kills=True)
    check([*calls, afterwards("acquire_write", step)], model, frozenset())
"""
    explained(RWLOCK + text, seed)
