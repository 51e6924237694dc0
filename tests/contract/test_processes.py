"""Tasks on worker processes: what can be sent, what comes back, where a task runs, and how a pool ends."""

import functools
import gc
import logging
import operator
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, has_ended

MIB = 1 << 20
RING = MIB // 2
INLINE = (RING - 256) // 2 - 8


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


def add(left, right=0, *, third=0):
    return left + right + third


def fail_with(kind, *args):
    raise kind(*args)


def chain():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def variables(*names):
    return [os.environ.get(name) for name in names]


def announce_and_wait(fifo):
    """Tell whoever reads the fifo that this runs; then last until the worker is ended."""
    with Path(fifo).open("w") as out:
        out.write(str(os.getpid()))
    while True:
        signal.pause()


def read_once(fifo):
    """Wait for a task that announces itself; return its pid."""
    return int(Path(fifo).read_text())


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def run_script(text, *, stdin=False, timeout=50, **options):
    """Run a program in a fresh interpreter; from its standard input if `stdin`, else with `-c`."""
    arguments = [sys.executable, "-"] if stdin else [sys.executable, "-c", text]
    return subprocess.run(
        arguments, input=text if stdin else None, capture_output=True, text=True, timeout=timeout, **options
    )


def wait_for_end(*pids, seconds=10):
    """Fail unless all of them end; a process that is nobody's child here can only be looked at."""
    eventually(lambda: all(map(has_ended, pids)), "the end of processes", seconds)


# -- calls and outcomes


def test_a_call_gets_its_arguments_and_returns_its_value(pool):
    assert pool.submit(add, 1, 2, third=3).result() == 6
    assert pool.submit(os.getpid).result() != os.getpid()


def test_arguments_may_bear_any_name(pool):
    assert pool.submit(dict, function=1, self=2, fn=3).result() == {"function": 1, "self": 2, "fn": 3}


def test_an_exception_arrives_as_itself_with_the_workers_traceback_as_its_cause(pool):
    future = pool.submit(chain)
    with pytest.raises(ValueError, match="outer") as caught:
        future.result()
    assert type(caught.value.__cause__).__name__ == "RemoteTraceback"
    text = str(caught.value.__cause__)
    assert "in chain" in text
    assert "KeyError: 'inner'" in text
    assert future.exception() is caught.value


def test_the_exit_of_a_program_is_an_exception_of_the_task(pool):
    assert isinstance(pool.submit(sys.exit, 3).exception(), SystemExit)
    assert isinstance(pool.submit(fail_with, KeyboardInterrupt).exception(), KeyboardInterrupt)
    assert pool.submit(abs, -1).result() == 1


def test_lambdas_closures_partials_and_bound_methods_can_be_sent(pool):
    offset = 10
    assert pool.submit(lambda value: value + offset, 1).result() == 11
    assert pool.submit(functools.partial(add, third=5), 1).result() == 6
    assert pool.submit("a-b".split, "-").result() == ["a", "b"]
    assert pool.submit(operator.itemgetter(1), [1, 2]).result() == 2


def test_a_result_may_be_a_closure(pool):
    made = pool.submit(lambda by: lambda value: value * by, 3).result()
    assert made(4) == 12


def test_a_class_made_in_a_function_can_be_sent_both_ways(pool):
    class Pair:
        def __init__(self, left, right):
            self.left, self.right = left, right

    swapped = pool.submit(lambda pair: type(pair)(pair.right, pair.left), Pair(1, 2)).result()
    assert (swapped.left, swapped.right) == (2, 1)


MAIN_SCRIPT = """
import manyhands as mh

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Point and other.x == self.x
class Wrong(Exception): pass
def move(point): return Point(point.x + 1)
def refuse(): raise Wrong("no")

if __name__ == "__main__":
    with mh.ProcessExecutor(2) as pool:
        assert pool.submit(move, Point(1)).result() == Point(2)
        assert [p.x for p in mh.map(move, map(Point, range(50)), on=pool)] == list(range(1, 51))
        assert pool.submit(lambda: [Point(3)]).result() == [Point(3)]
        try:
            pool.submit(refuse).result()
        except Wrong as error:
            print("caught", error)
"""


@pytest.mark.parametrize("stdin", [False, True], ids=["-c", "stdin"])
def test_functions_and_classes_of_main_travel_both_ways(stdin):
    done = run_script(MAIN_SCRIPT, stdin=stdin)
    assert (done.stdout, done.stderr) == ("caught no\n", "")


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import manyhands as mh\nprint('begun')\n"
        "def double(x): return 2 * x\n"
        "with mh.ProcessExecutor(2) as pool: print(list(pool.map(double, range(3))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("begun\n[0, 2, 4]\n", "")


def test_an_argument_that_cannot_be_pickled_is_refused_at_submit(pool):
    with pytest.raises(TypeError, match=r"arguments of `abs`.*cannot pickle '_thread.lock' object"):
        pool.submit(abs, threading.Lock())
    assert pool.submit(abs, -1).result() == 1


def test_a_result_that_cannot_be_pickled_is_an_error_of_its_task_alone(pool):
    with pytest.raises(TypeError, match=r"could not send the result, a .*lock, back"):
        pool.submit(lambda: __import__("threading").Lock()).result()
    assert pool.submit(abs, -1).result() == 1


class RaisesInPickle:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        raise self.kind("not to be sent")


@pytest.mark.parametrize("kind", [pickle.PicklingError, SystemExit])
def test_what_is_raised_in_pickling_keeps_its_kind(pool, kind):
    with pytest.raises(kind, match="not to be sent"):
        pool.submit(id, RaisesInPickle(kind))
    with pytest.raises(kind, match="not to be sent"):
        pool.submit(RaisesInPickle, kind).result()


class Counted:
    def method(self):
        return 7


def test_a_bound_method_does_not_keep_its_object_alive(pool):
    counted = Counted()
    alive = weakref.ref(counted)
    assert pool.submit(counted.method).result() == 7
    del counted
    gc.collect()
    assert alive() is None


def test_a_function_in_the_place_of_another_is_not_taken_for_it(pool):
    for number in range(50):
        assert pool.submit(functools.partial(abs, -number)).result() == number


SHARING = """
from multiprocessing import Manager
import manyhands as mh

if __name__ == "__main__":
    with Manager() as manager, mh.ProcessExecutor(2{start}) as pool:
        shared = manager.dict()
        list(pool.map(shared.__setitem__, range(5), "abcde"))
        print(dict(shared) == dict(enumerate("abcde")))
"""


@pytest.mark.parametrize("start", ["", ', start="spawn"'])
def test_what_a_manager_of_multiprocessing_shares_can_be_used_in_workers(start, tmp_path):
    script = tmp_path / "sharing.py"
    script.write_text(SHARING.format(start=start))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("True\n", "")


class Unpicklable(Exception):
    def __init__(self, text, _need_a_second):
        super().__init__(text)


class HoldsALock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


@pytest.mark.parametrize(("kind", "args"), [(Unpicklable, ("bad", 2)), (HoldsALock, ("bad",))])
def test_an_exception_that_cannot_be_sent_is_described(pool, kind, args):
    with pytest.raises(mh.UnsendableError) as caught:
        pool.submit(fail_with, kind, *args).result()
    assert (caught.value.kind.rpartition(".")[2], caught.value.message) == (kind.__name__, "bad")
    assert "in fail_with" in str(caught.value.__cause__)


def test_an_async_function_is_refused_clearly(pool):
    async def hello():
        pass

    with pytest.raises(mh.WrongExecutor, match="async def"):
        pool.submit(hello).result()


# -- large arguments and results


@pytest.mark.parametrize(
    "size", [0, 1, INLINE - 100, INLINE, INLINE + 1, RING - 300, RING, RING + 1, 8 * MIB]
)
def test_bytes_of_any_size_travel_unchanged(pool, size):
    data = random.Random(size).randbytes(size)
    assert pool.submit(bytes, data).result() == data


@pytest.mark.parametrize("base", [INLINE, RING])
def test_every_size_around_a_limit_of_the_ring_travels(pool, base):
    sizes = range(base - 120, base + 24)
    futures = [pool.submit(len, bytes(size)) for size in sizes]
    assert [future.result() for future in futures] == list(sizes)
    futures = [pool.submit(bytes, size) for size in sizes]
    assert [len(future.result()) for future in futures] == list(sizes)
    # Single values of such sizes lie elsewhere; those of a map are in the message.
    assert list(mh.map(len, map(bytes, sizes), on=pool)) == list(sizes)
    assert [len(value) for value in mh.map(bytes, sizes, on=pool)] == list(sizes)


def test_many_large_messages_are_in_flight_at_once(pool):
    sizes = [MIB // 5, 8 * MIB, 10, MIB // 3] * 12
    futures = [pool.submit(bytes, bytes(size)) for size in sizes]
    assert [len(future.result()) for future in futures] == sizes


def test_large_messages_leave_no_descriptor_behind(pool):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    pool.submit(bytes, 8 * MIB).result()
    before = descriptors()
    for future in [pool.submit(bytes, bytes(2 * MIB)) for _ in range(50)]:
        future.result()
    # A worker keeps the last answers until it looks again; the parent keeps nothing.
    assert descriptors() <= before
    assert max(pool.submit(descriptors).result() for _ in range(4)) < 30


# -- where a task runs


def test_a_worker_has_the_directory_and_the_path_of_its_parent(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def where():\n    import os\n    return os.getcwd()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with mh.ProcessExecutor(1) as pool:
        assert pool.submit(only_here.where).result() == str(tmp_path)
        assert pool.submit(lambda: __import__("sys").path).result() == sys.path


def test_the_package_may_be_found_by_the_path_alone(tmp_path):
    package = Path(mh.__file__).resolve().parent.parent
    done = run_script(
        f"import sys; sys.path[:0] = {[str(package)]!r}\nimport manyhands as mh\n"
        "with mh.ProcessExecutor(1) as pool: print(pool.submit(abs, -1).result())",
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_numerical_libraries_are_given_their_share_of_the_processors():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with mh.ProcessExecutor(1, threads_per_worker=3) as pool:
        assert pool.submit(variables, *names).result() == ["3"] * 3
    with mh.ProcessExecutor(500) as pool:
        assert pool.submit(variables, *names).result() == ["1"] * 3
    assert os.environ.get("OMP_NUM_THREADS") != "3"


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_workers_start_either_way(start):
    state = []
    with mh.ProcessExecutor(2, start=start, initializer=state.append, initargs=("here",)) as pool:
        assert list(pool.map(add, range(20), range(20))) == list(range(0, 40, 2))
    assert state == []


def test_preloaded_modules_are_there_before_the_first_task(tmp_path, monkeypatch):
    (tmp_path / "preloaded_once.py").write_text("import os\nIN = os.getpid()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with mh.ProcessExecutor(2, preload=["preloaded_once"]) as pool:
        seen = [
            pool.submit(lambda: (__import__("preloaded_once").IN, __import__("os").getpid())).result()
            for _ in range(4)
        ]
    assert len({imported for imported, _ in seen}) == 1
    assert all(imported != worker for imported, worker in seen)


def test_a_module_that_cannot_be_preloaded_is_not_fatal():
    done = run_script(
        "import manyhands as mh\n"
        "with mh.ProcessExecutor(1, preload=['no_such_module']) as pool: print(pool.submit(abs, -1).result())"
    )
    assert done.stdout == "1\n"
    assert "No module named 'no_such_module'" in done.stderr


def test_workers_do_not_share_their_random_numbers():
    with mh.ProcessExecutor(2) as pool:
        meet = [
            pool.submit(lambda: (__import__("os").getpid(), __import__("random").random())) for _ in range(40)
        ]
        first = {}
        for pid, number in (future.result() for future in meet):
            first.setdefault(pid, number)
    assert len(set(first.values())) == len(first)


def test_an_executor_inside_a_worker_works(pool):
    def nested(count):
        import manyhands

        with manyhands.ProcessExecutor(2) as inner:
            return sum(inner.map(abs, range(-count, 0)))

    assert pool.submit(nested, 10).result() == 55


# -- initializers


def test_the_initializer_runs_once_in_each_worker_with_its_arguments(tmp_path):
    def note(directory):
        (Path(directory) / str(os.getpid())).touch()

    with mh.ProcessExecutor(2, initializer=note, initargs=(str(tmp_path),)) as pool:
        workers = {future.result() for future in [pool.submit(os.getpid) for _ in range(50)]}
    assert {path.name for path in tmp_path.iterdir()} >= {str(pid) for pid in workers}
    assert len(list(tmp_path.iterdir())) <= 2


def test_an_initializer_may_bring_megabytes():
    with mh.ProcessExecutor(2, initializer=len, initargs=(bytes(8 * MIB),)) as pool:
        assert pool.submit(abs, -1).result() == 1


def test_an_initializer_that_raises_breaks_the_executor_once(caplog):
    with mh.ProcessExecutor(2, initializer=fail_with, initargs=(ValueError, "unfit")) as pool:
        futures = [pool.submit(abs, -1)]
        with pytest.raises(mh.BrokenInitializer):
            futures[0].result()
        with pytest.raises(mh.BrokenInitializer):
            pool.submit(abs, -1)
    assert [record.getMessage().count("ValueError: unfit") for record in caplog.records] == [1]


def test_an_initializer_that_ends_its_worker_breaks_the_executor_without_a_storm(caplog, tmp_path):
    starts = tmp_path / "starts"

    def end(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"x")
        os._exit(7)

    pool = mh.ProcessExecutor(2, initializer=end, initargs=(str(starts),))
    with pytest.raises(mh.BrokenInitializer), pool:
        pool.submit(abs, -1).result()
    assert 1 <= len(starts.read_bytes()) <= 6
    [record] = caplog.records
    assert "exit code 7" in record.getMessage()


def test_a_slow_initializer_does_not_count_against_the_limit_of_a_task():
    with mh.ProcessExecutor(1, initializer=time.sleep, initargs=(0.6,)) as pool:
        assert pool.with_policy(timeout=0.3).submit(abs, -1).result() == 1
        assert pool.statistics().timed_out == 0


# -- policies


def test_a_task_that_passes_its_limit_is_ended_and_the_next_one_runs(pool, fifo):
    future = pool.with_policy(timeout=0.3).submit(announce_and_wait, fifo)
    pid = read_once(fifo)
    with pytest.raises(mh.TaskTimeout, match=r"`announce_and_wait` ran longer than its limit of 0.3 s"):
        future.result()
    wait_for_end(pid)
    assert pool.submit(abs, -1).result() == 1


def flaky(path, failures):
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"x")
    tries = os.fstat(descriptor).st_size
    os.close(descriptor)
    if tries <= failures:
        raise ConnectionError(tries)
    return tries


INITIALIZED = """
import manyhands as mh

rebound, filled = None, {}

def begin(value):
    global rebound, new
    rebound, new = value, -value
    filled["value"] = value

def look(number):
    return number, rebound, new, filled, kept, indirectly()

def indirectly():
    return rebound

class Looker:
    def look(self):
        return rebound

async def look_on_loop():
    return rebound

for options in {}, {"start": "spawn"}:
    kept = "as sent"
    with mh.ProcessExecutor(1, initializer=begin, initargs=(7,), **options) as pool:
        expected = (1, 7, -7, {"value": 7}, "as sent", 7)
        assert pool.submit(look, 1).result() == expected, pool.submit(look, 1).result()
        assert list(pool.map(look, [1, 1])) == [expected, expected]
        assert (pool.submit(Looker().look).result(), pool.submit(lambda: new).result()) == (7, -7)
        kept = "as sent later"
        assert pool.submit(lambda: (kept, rebound)).result() == ("as sent later", 7)
with mh.ProcessExecutor(1, concurrency=2, initializer=begin, initargs=(8,)) as pool:
    assert pool.submit(look_on_loop).result() == 8
with mh.ProcessExecutor(1) as pool:
    assert pool.submit(lambda: (rebound, filled)).result() == (None, {})
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_functions_of_main_find_what_the_initializer_has_made_of_its_names(stdin):
    done = run_script(INITIALIZED, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")


def test_retries_run_until_the_task_succeeds(pool, tmp_path):
    patient = pool.with_policy(retries=3, backoff=0.001)
    assert patient.submit(flaky, tmp_path / "three", 3).result() == 4
    with pytest.raises(ConnectionError, match="4"):
        patient.submit(flaky, tmp_path / "nine", 9).result()


def die_first(path):
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_task_whose_worker_died_is_retried_if_its_policy_says_so(pool, tmp_path):
    patient = pool.with_policy(retries=1, retry_on=mh.WorkerDied, backoff=0.001)
    assert patient.submit(die_first, tmp_path / "died").result() == "alive"


def test_a_concurrency_limit_holds_across_workers(tmp_path):
    def alone(path):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL)
        os.close(descriptor)
        Path(path).unlink()

    with mh.ProcessExecutor(4) as pool:
        single = pool.with_policy(concurrency=1)
        for future in [single.submit(alone, tmp_path / "lock") for _ in range(100)]:
            future.result()


def test_the_place_behind_a_limit_is_given_back_by_every_kind_of_end(fifo):
    with mh.ProcessExecutor(2) as pool:
        single = pool.with_policy(concurrency=1, timeout=20)
        stopped = single.submit(announce_and_wait, fifo)
        read_once(fifo)
        assert stopped.cancel(force=True)
        assert isinstance(single.submit(os._exit, 3).exception(timeout=20), mh.WorkerDied)
        assert isinstance(single.submit(fail_with, KeyError).exception(timeout=20), KeyError)
        assert single.submit(abs, -1).result(timeout=20) == 1


def test_a_rate_spreads_calls():
    with mh.ProcessExecutor(2) as pool:
        slow = pool.with_policy(rate=50)
        pool.submit(abs, 1).result()
        began = time.monotonic()
        futures = [slow.submit(time.monotonic) for _ in range(6)]
        ran = sorted(future.result() for future in futures)
    assert ran[-1] - began >= 5 / 50 * 0.9


def test_more_urgent_tasks_run_first(fifo, tmp_path):
    order = tmp_path / "order"

    def note(text):
        with order.open("a") as out:
            out.write(text)

    def hold(path):
        Path(path).read_text()

    with mh.ProcessExecutor(1) as pool:
        holder = pool.submit(hold, fifo)
        urgent, lazy = pool.with_policy(priority=-1), pool.with_policy(priority=1)
        futures = [lazy.submit(note, "c"), pool.submit(note, "b"), urgent.submit(note, "a")]
        fifo.write_text("go")
        for future in [holder, *futures]:
            future.result()
    assert order.read_text() in ("abc", "cba")
    assert order.read_text()[1] == "b"


# -- cancelling


def test_a_running_task_is_ended_by_a_forced_cancellation_with_what_it_has_started(pool, fifo):
    def start_and_wait(path):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        with Path(path).open("w") as out:
            out.write(str(child.pid))
        child.wait()

    future = pool.submit(start_and_wait, fifo)
    child = read_once(fifo)
    assert future.running()
    assert not future.cancel()
    assert future.cancel(force=True)
    assert future.cancelled()
    wait_for_end(child)
    assert pool.submit(abs, -1).result() == 1


def test_a_forced_cancellation_hits_no_other_task(fifo):
    with mh.ProcessExecutor(1) as pool:
        for future in [pool.submit(abs, -1) for _ in range(300)]:
            future.result()
        running = pool.submit(announce_and_wait, fifo)
        others = [pool.submit(add, number) for number in range(50)]
        read_once(fifo)
        assert running.cancel(force=True)
        assert [other.result() for other in others] == list(range(50))


def test_a_task_that_no_worker_has_begun_can_be_cancelled_by_force_without_harm(fifo, tmp_path):
    with mh.ProcessExecutor(1) as pool:
        for future in [pool.submit(abs, -1) for _ in range(300)]:
            future.result()
        worker = pool.submit(os.getpid).result()
        holder = pool.submit(lambda path: Path(path).read_text(), fifo)
        waiting = [pool.submit((tmp_path / str(number)).touch) for number in range(10)]
        assert all(future.cancel(force=True) for future in waiting)
        fifo.write_text("go")
        assert holder.result() == "go"
        assert pool.submit(os.getpid).result() == worker
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo"]


# -- map and groups


def test_map_gives_results_in_order_or_as_they_come():
    numbers = list(range(500))
    assert list(mh.map(add, numbers, on="process", workers=2)) == numbers
    assert sorted(mh.map(add, numbers, on="process", workers=2, ordered=False)) == numbers


def half(number):
    if number % 5 == 0:
        raise ValueError(number)
    return number / 2


def test_map_keeps_failures_as_asked(pool):
    assert list(mh.map(half, range(7), on=pool, on_error="skip")) == [0.5, 1.0, 1.5, 2.0, 3.0]
    outcomes = list(mh.map(half, range(7), on=pool, on_error="return"))
    assert [outcome.ok for outcome in outcomes] == [False, True, True, True, True, False, True]
    assert [outcome.index for outcome in outcomes] == list(range(7))
    with pytest.raises(ValueError, match="0"):
        list(mh.map(half, range(7), on=pool))


def draw(number):
    return number, mh.item_random().random()


def test_the_numbers_of_an_item_do_not_depend_on_the_model(pool):
    on_threads = list(mh.map(draw, range(100), on="thread", seed=7))
    assert list(mh.map(draw, range(100), on=pool, seed=7)) == on_threads
    assert len({number for _, number in on_threads}) == 100


def test_map_reads_its_input_only_as_far_as_its_buffer(pool):
    read = []

    def numbers():
        for number in range(100_000):
            read.append(number)
            yield number

    with mh.map(add, numbers(), on=pool, buffersize=8) as values:
        assert next(values) == 0
    assert len(read) <= 10


def test_a_group_runs_on_processes():
    with mh.TaskGroup(on="process", workers=2) as group:
        futures = [group.submit(add, number, 1) for number in range(10)]
    assert [future.result() for future in futures] == list(range(1, 11))


# -- figures and ends


def test_the_figures_add_up():
    with mh.ProcessExecutor(2) as pool:
        futures = [pool.submit(half, number) for number in range(1000)]
        futures += [pool.submit(os._exit, 1) for _ in range(3)]
        for future in futures:
            future.exception()
        figures = pool.statistics()
    assert (figures.submitted, figures.started, figures.queued) == (1003, 1003, 0)
    assert (figures.succeeded, figures.failed, figures.cancelled) == (800, 203, 0)
    assert figures.run.count == figures.wait.count == 1003


def test_leaving_the_block_waits_for_every_task():
    with mh.ProcessExecutor(2) as pool:
        futures = [pool.submit(add, number) for number in range(2000)]
    assert all(future.done() for future in futures)
    with pytest.raises(mh.ExecutorClosed):
        pool.submit(abs, 1)


def test_shutdown_without_waiting_lets_the_queue_finish(pool):
    other = mh.ProcessExecutor(1)
    futures = [other.submit(add, number) for number in range(200)]
    other.shutdown(wait=False)
    assert [future.result() for future in futures] == list(range(200))


def test_shutdown_can_cancel_what_has_not_begun(fifo):
    pool = mh.ProcessExecutor(1)
    assert pool.submit(abs, -1).result() == 1
    holder = pool.submit(lambda path: Path(path).read_text(), fifo)
    # Opened once the task reads: before that, it could be taken back from its worker.
    with fifo.open("w") as out:
        futures = [pool.submit(add, number) for number in range(50)]
        pool.shutdown(wait=False, cancel_futures=True)
        out.write("go")
    pool.shutdown()
    assert holder.result() == "go"
    assert any(future.cancelled() for future in futures)
    assert all(future.done() for future in futures)


def test_workers_of_an_executor_that_nobody_has_any_more_end():
    pool = mh.ProcessExecutor(2)
    pids = {future.result() for future in [pool.submit(os.getpid) for _ in range(50)]}
    last = pool.submit(add, 20, 1)
    del pool
    assert last.result() == 21
    wait_for_end(*pids)


def test_work_that_is_pending_when_the_program_ends_is_done():
    done = run_script(
        "import manyhands as mh, os\n"
        "def shout(number): os.write(1, b'%d\\n' % number)\n"
        "pool = mh.ProcessExecutor(2)\n"
        "for number in range(100): pool.submit(shout, number)\n"
    )
    assert sorted(map(int, done.stdout.split())) == list(range(100))
    assert done.stderr == ""


def test_a_program_ends_without_a_warning_in_development_mode():
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            "import manyhands as mh\nprint(mh.ProcessExecutor(1).submit(abs, -1).result())",
        ],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_fork_of_the_program_is_refused_clearly_and_the_parent_is_unhurt(pool):
    assert pool.submit(abs, -1).result() == 1
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pool.submit(abs, -1)
        except mh.ExecutorClosed as error:
            os.write(writer, str(error).encode())
            pool.shutdown()
            with mh.ProcessExecutor(1) as own:
                os.write(writer, str(own.submit(abs, -7).result()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    assert "not in this fork of it" in text
    assert text.endswith("7")
    assert pool.submit(abs, -1).result() == 1


def test_errors_say_what_to_do(pool):
    error = pool.submit(os.kill, 0, 0).exception()
    assert error is None
    killed = pool.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).exception()
    assert isinstance(killed, mh.WorkerDied)
    assert killed.exitcode == -signal.SIGKILL
    assert "SIGKILL" in str(killed)
    assert "memory" in killed.hint
    crashed = pool.submit(lambda: os.kill(os.getpid(), signal.SIGSEGV)).exception()
    assert "faulthandler" in crashed.hint
    left = pool.submit(os._exit, 5).exception()
    assert (left.exitcode, left.task) == (5, "_exit")
    assert left.peak_memory > MIB


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"workers": 0}, ValueError),
        ({"threads_per_worker": 0}, ValueError),
        ({"start": "fork"}, ValueError),
        ({"initializer": 3}, TypeError),
    ],
)
def test_options_are_checked(options, kind):
    with pytest.raises(kind, match="could not make the executor"):
        mh.ProcessExecutor(**options)


def speak(number, ends_workers):
    """Give the pool everything to do that one task can: words, failure, a large answer, its worker's end."""
    if number % 7 == 0:
        print("says", number)
    if number % 11 == 0:
        raise LookupError(number)
    if number % 97 == 0 and ends_workers:
        os._exit(3)
    return bytes(2 * RING) if number % 13 == 0 else number


@pytest.mark.parametrize("ends_workers", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_of_those_who_wait_for_one_task_at_a_time_gets_its_answer(threads, ends_workers, capsys):
    answers = {}

    def use(first):
        for number in range(first, 300, threads):
            try:
                answers[number] = pool.submit(speak, number, ends_workers).result(timeout=60)
            except Exception as failure:
                answers[number] = type(failure)

    with mh.ProcessExecutor(2, max_tasks_per_worker=40) as pool:
        users = [threading.Thread(target=use, args=(first,)) for first in range(threads)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    for number in range(300):
        expected = bytes(2 * RING) if number % 13 == 0 else number
        if number % 97 == 0 and ends_workers:
            expected = mh.WorkerDied
        if number % 11 == 0:
            expected = LookupError
        assert answers[number] == expected, number
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("says")]
    assert sorted(said) == sorted(f"says {number}" for number in range(0, 300, 7))


def test_threads_may_share_an_executor(pool):
    results = []

    def use(offset):
        futures = [pool.submit(add, offset, number) for number in range(300)]
        results.extend(future.result() for future in futures)

    threads = [threading.Thread(target=use, args=(offset,)) for offset in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(o + n for o in (0, 1000, 2000) for n in range(300))
    assert logging.getLogger("concurrent.futures").level == logging.NOTSET
