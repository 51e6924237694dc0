"""What a worker process says, and what it begins with: output, log records, warnings, context, seeds."""

import contextlib
import contextvars
import io
import logging
import os
import random
import subprocess
import sys
import threading
import warnings

import pytest

import manyhands as mh

LOG = logging.getLogger("tests.citizen")


@pytest.fixture(scope="module")
def pool():
    # So that workers take the level: they are given their parent's when they start.
    LOG.setLevel(logging.DEBUG)
    with mh.ProcessExecutor(2) as pool:
        yield pool
    LOG.setLevel(logging.NOTSET)


def run_script(text, **options):
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50, **options)


# -- output


def say(*words, **options):
    print(*words, **options)


def say_to(stream, text):
    print(text, file=getattr(sys, stream))


def test_what_a_task_prints_is_there_before_its_result(pool, capsys):
    for number in range(50):
        pool.submit(say, "line", number).result()
        assert capsys.readouterr().out == f"line {number}\n"
    pool.submit(say_to, "stderr", "to the other").result()
    assert capsys.readouterr() == ("", "to the other\n")


def test_output_goes_to_the_streams_that_are_there_at_that_moment(pool):
    replaced = io.StringIO()
    with contextlib.redirect_stdout(replaced):
        pool.submit(say, "caught").result()
    assert replaced.getvalue() == "caught\n"


def test_lines_keep_their_order_and_are_not_torn(capsys):
    def count(task):
        for number in range(500):
            sys.stdout.write(f"{task}")
            sys.stdout.write(f" {number}\n")

    with mh.ProcessExecutor(2) as pool:
        list(pool.map(count, "ab"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1000
    for task in "ab":
        assert [line for line in lines if line[0] == task] == [f"{task} {number}" for number in range(500)]


def test_a_line_without_an_end_is_there_with_the_result(pool, capsys):
    pool.submit(say, "no end", end="").result()
    assert capsys.readouterr().out == "no end"


def test_a_long_line_and_strange_characters_arrive(pool, capsys):
    text = "é\udc80🙂\r" * 50_000
    with contextlib.redirect_stdout(io.StringIO()) as replaced:
        pool.submit(say, text).result()
    assert replaced.getvalue() == text + "\n"
    pool.submit(say, "not in utf-8: \udc80").result()
    assert capsys.readouterr().out == "not in utf-8: \\udc80\n"


def test_a_flushed_part_of_a_line_is_there_while_the_task_runs(pool):
    class Seen(io.StringIO):
        def __init__(self):
            super().__init__()
            self.event = threading.Event()

        def flush(self):
            if self.getvalue() == "half":
                self.event.set()

    seen, reader, writer = Seen(), *os.pipe()

    def tell_and_wait(path):
        print("half", end="", flush=True)
        with open(path, "rb") as pipe:  # noqa: PTH123
            pipe.read(1)
        print(" and half")

    with contextlib.redirect_stdout(seen):
        future = pool.submit(tell_and_wait, f"/proc/{os.getpid()}/fd/{reader}")
        assert seen.event.wait(30)
        os.write(writer, b"x")
        future.result()
    os.close(reader)
    os.close(writer)
    assert seen.getvalue() == "half and half\n"


def test_lines_are_prefixed_on_request(capsys):
    with mh.ProcessExecutor(1, output="prefix", name="Crew") as pool:
        pool.submit(say, "one\ntwo").result()
        pool.submit(say, "half", end="").result()
        pool.submit(say, " whole").result()
    assert capsys.readouterr().out == "[Crew_0] one\n[Crew_0] two\n[Crew_0] half whole\n"


@pytest.mark.parametrize("output", ["forward", "inherit"])
def test_descriptors_are_inherited(output):
    done = run_script(
        "import os, subprocess, sys, manyhands as mh\n"
        "def shout():\n"
        "    os.write(1, b'raw\\n')\n"
        "    subprocess.run(['echo', 'grandchild'], check=True, stdout=sys.stdout)\n"
        f"with mh.ProcessExecutor(1, output={output!r}) as pool: pool.submit(shout).result()"
    )
    assert (done.stdout, done.stderr) == ("raw\ngrandchild\n", "")


def test_inherited_output_does_not_pass_through_the_parent(capsys):
    with mh.ProcessExecutor(1, output="inherit") as pool:
        assert pool.submit(lambda: type(__import__("sys").stdout).__name__).result() == "TextIOWrapper"
        pool.submit(LOG.error, "kept").result()
    assert capsys.readouterr().out == ""


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match=r"found output='none'"):
        mh.ProcessExecutor(1, output="none")


def test_what_a_fork_of_a_task_says_goes_to_its_descriptors():
    done = run_script(
        "import logging, os, sys, manyhands as mh\n"
        "def fork():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        print('from the fork')\n"
        "        logging.error('from the fork, too')\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "with mh.ProcessExecutor(1) as pool:\n"
        "    for _ in range(20): pool.submit(fork).result()\n"
        "    print(pool.submit(abs, -1).result())"
    )
    assert done.stdout == "from the fork\n" * 20 + "1\n"
    assert done.stderr == "ERROR:root:from the fork, too\n" * 20


def test_a_reader_that_went_away_is_said_once():
    done = run_script(
        "import sys, io, manyhands as mh\n"
        "pool = mh.ProcessExecutor(1)\n"
        "pool.submit(abs, 1).result()\n"
        "complaints = []\n"
        "sys.unraisablehook = lambda note: complaints.append(type(note.exc_value).__name__)\n"
        "sys.stdout = closed = io.StringIO(); closed.close()\n"
        "for _ in range(5): pool.submit(print, 'x').result()\n"
        "sys.stdout = sys.__stdout__\n"
        "print(complaints, pool.submit(abs, -1).result())\n"
    )
    assert (done.stdout, done.stderr) == ("['ValueError'] 1\n", "")


# -- log records


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    handler = Kept()
    LOG.addHandler(handler)
    yield handler.records
    LOG.removeHandler(handler)


def log(level, message, *args, **options):
    LOG.log(level, message, *args, **options)


def test_a_record_is_handled_by_the_logger_of_its_name_before_the_result(pool, kept):
    for number in range(50):
        pool.submit(log, logging.INFO, "number %d", number, extra={"color": "red"}).result()
        record = kept.pop()
        assert not kept
        assert (record.getMessage(), record.args, record.name) == (f"number {number}", (number,), LOG.name)
        assert record.color == "red"
        assert record.process != os.getpid()
        assert record.processName.startswith("ProcessExecutor-")
        assert record.funcName == "log"


def test_a_record_below_the_parents_level_is_not_even_made():
    LOG.setLevel(logging.WARNING)
    try:
        with mh.ProcessExecutor(1) as pool:
            assert not pool.submit(lambda: LOG.isEnabledFor(logging.INFO)).result()
            assert pool.submit(lambda: LOG.isEnabledFor(logging.WARNING)).result()
    finally:
        LOG.setLevel(logging.DEBUG)


def test_a_record_that_cannot_be_pickled_comes_as_text(pool, kept):
    def log_strange_things():
        lock = threading.Lock()
        LOG.warning("has %s", lock)
        LOG.warning("has more", extra={"lock": lock})
        try:
            raise KeyError("oops")
        except KeyError:
            LOG.exception("failed")
        LOG.warning("long %s", "x" * 1_000_000)
        LOG.warning({"a": lock})

    pool.submit(log_strange_things).result()
    texts = [record.getMessage() for record in kept]
    assert "has <unlocked _thread.lock" in texts[0]
    assert "_thread.lock" in kept[1].lock
    assert "in log_strange_things" in kept[2].exc_text
    assert kept[2].exc_text.endswith("KeyError: 'oops'")
    assert texts[3].startswith("long xxx")
    assert "characters" in texts[3]
    assert texts[4].startswith("{'a': <unlocked")
    assert len(kept) == 5


def test_threads_of_a_task_may_log_and_print_at_once(pool, kept, capsys):
    def chatter():
        def talk(name):
            for number in range(300):
                LOG.info("%s %d", name, number)
                print(name, number)

        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pool.submit(chatter).result()
    printed = capsys.readouterr().out.splitlines()
    logged = [record.getMessage() for record in kept]
    for name in "abcd":
        expected = [f"{name} {number}" for number in range(300)]
        assert [line for line in logged if line[0] == name] == expected
    assert len(logged) == 1200
    assert sum(map(len, printed)) >= 1200


def test_a_flood_of_records_neither_breaks_the_pool_nor_holds_up_the_others(pool, kept):
    def flood(count):
        for number in range(count):
            LOG.info("%d", number)

    flooding = pool.submit(flood, 50_000)
    others = [pool.submit(abs, -number) for number in range(100)]
    assert [other.result() for other in others] == list(range(100))
    flooding.result()
    assert [record.args[0] for record in kept] == list(range(50_000))


def test_a_handler_that_raises_follows_the_rules_of_logging(pool, capsys):
    class Bad(logging.Handler):
        def emit(self, record):
            try:
                raise RuntimeError("bad handler")
            except RuntimeError:
                self.handleError(record)

    handler = Bad()
    LOG.addHandler(handler)
    try:
        pool.submit(log, logging.INFO, "hello").result()
    finally:
        LOG.removeHandler(handler)
    assert "bad handler" in capsys.readouterr().err
    assert pool.submit(abs, -1).result() == 1


def test_what_an_initializer_says_is_heard(capsys, kept):
    def initialize():
        print("ready")
        LOG.warning("set up")

    with mh.ProcessExecutor(1, initializer=initialize) as pool:
        assert pool.submit(abs, -1).result() == 1
    assert capsys.readouterr().out == "ready\n"
    assert [record.getMessage() for record in kept] == ["set up"]


def test_what_was_said_before_a_death_is_heard(kept, capsys):
    def last_words():
        LOG.error("goodbye")
        print("cruel world")
        os._exit(3)

    with mh.ProcessExecutor(1) as pool, pytest.raises(mh.WorkerDied):
        pool.submit(last_words).result()
    assert [record.getMessage() for record in kept] == ["goodbye"]
    assert capsys.readouterr().out == "cruel world\n"


# -- warnings


class OwnWarning(UserWarning):
    pass


def warn(category, text="mind"):
    warnings.warn(text, category, stacklevel=1)


def test_a_warning_is_shown_once_by_the_parents_machinery(pool):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for category in (OwnWarning, OwnWarning, UserWarning):
            pool.submit(warn, category).result()
    assert [(each.category, str(each.message)) for each in caught] == [
        (OwnWarning, "mind"),
        (UserWarning, "mind"),
    ]
    assert caught[0].filename == __file__


def test_a_warning_that_the_parent_ignores_is_not_seen(pool):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        pool.submit(warn, RuntimeWarning).result()
    assert caught == []


def test_a_warning_of_a_class_that_only_the_worker_has_comes_as_a_user_warning():
    def warn_of_its_own():
        class Local(UserWarning):
            pass

        warnings.warn("odd", Local, stacklevel=1)

    with mh.ProcessExecutor(1) as pool, pytest.warns(UserWarning, match="Local: odd"):
        pool.submit(warn_of_its_own).result()


# -- context variables

REQUEST = contextvars.ContextVar("request")
SESSION = contextvars.ContextVar("session", default="nobody's")


def seen():
    return REQUEST.get(None), SESSION.get()


def in_context(function, **values):
    """Call the function where the variables have these values."""

    def call():
        for name, value in values.items():
            globals()[name].set(value)
        return function()

    return contextvars.Context().run(call)


def test_a_task_sees_the_context_variables_of_whoever_submits_it(pool):
    for value in (7, True, 1, "seven", [7], [8]):
        assert in_context(lambda value=value: pool.submit(seen).result(), REQUEST=value) == (
            value,
            "nobody's",
        )
        assert type(in_context(lambda: pool.submit(seen).result()[0], REQUEST=value)) is type(value)
    assert in_context(lambda: pool.submit(seen).result(), REQUEST=1, SESSION=2) == (1, 2)
    assert pool.submit(seen).result() == (None, "nobody's")
    assert (
        in_context(lambda: list(mh.map(lambda _: seen(), "ab", on=pool)), REQUEST=9) == [(9, "nobody's")] * 2
    )


def test_a_value_that_was_changed_in_place_is_sent_as_it_is_now(pool):
    def change():
        REQUEST.get().append("more")
        return pool.submit(seen).result()[0]

    assert in_context(change, REQUEST=["some"]) == ["some", "more"]


def test_what_a_task_sets_stays_in_the_task():
    def set_and_get():
        before = REQUEST.get(None)
        REQUEST.set("mine")
        return before

    with mh.ProcessExecutor(1) as pool:
        assert [pool.submit(set_and_get).result() for _ in range(3)] == [None] * 3


def test_values_that_cannot_be_pickled_and_variables_without_a_module_are_left_out(pool):
    homeless = contextvars.ContextVar("homeless")

    def submit():
        homeless.set(1)
        return pool.submit(seen).result()

    assert in_context(submit, REQUEST=threading.Lock(), SESSION="sent") == (None, "sent")
    assert in_context(submit, REQUEST="sent", SESSION=threading.Lock()) == ("sent", "nobody's")
    assert in_context(submit, REQUEST="sent", SESSION=1) == ("sent", 1)


def test_context_variables_of_main_travel():
    done = run_script(
        "import contextvars, manyhands as mh\n"
        "user = contextvars.ContextVar('user')\n"
        "def greet(word): return f'{word} {user.get(None)}'\n"
        "def nested():\n"
        "    import manyhands\n"
        "    with manyhands.ProcessExecutor(1) as inner: return inner.submit(greet, 'inner').result()\n"
        "with mh.ProcessExecutor(1) as pool:\n"
        "    print(pool.submit(greet, 'hello').result())\n"
        "    user.set('Ada')\n"
        "    print(pool.submit(greet, 'hello').result(), pool.submit(nested).result())\n"
        "    user.set('Bob')\n"
        "    print(pool.submit(greet, 'hello').result())\n"
    )
    assert (done.stdout, done.stderr) == ("hello None\nhello Ada inner Ada\nhello Bob\n", "")


# -- randomness


def state_of_random():
    return os.getpid(), random.getstate(), random.random(), hash("a text")


def test_each_worker_draws_numbers_of_its_own():
    with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:
        drawn = [pool.submit(state_of_random).result() for _ in range(4)]
    for kind, expected in enumerate((4, 4, 4, 1)):
        assert len({each[kind] for each in drawn}) == expected
    assert random.getstate() not in {each[1] for each in drawn}


def test_a_seed_in_the_parent_does_not_reach_the_workers():
    before = random.getstate()
    random.seed(7)
    try:
        with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:
            drawn = {pool.submit(random.random).result() for _ in range(3)}
        assert len(drawn) == 3
        assert random.random() not in drawn
    finally:
        random.setstate(before)


def test_a_function_that_has_imported_a_drawing_function_draws_numbers_of_its_workers_own():
    done = run_script(
        "from random import random, randint, Random\n"
        "import manyhands as mh\n"
        "own = Random(7)\n"
        "def draw(_): return random(), randint(1, 1 << 60), own.random()\n"
        "with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:\n"
        "    drawn = [pool.submit(draw, number).result() for number in range(3)]\n"
        "print([len(set(numbers)) for numbers in zip(*drawn)], own.random() == drawn[0][2])\n"
    )
    assert (done.stdout, done.stderr) == ("[3, 3, 1] True\n", "")


def test_the_generator_that_numpy_has_for_all_is_seeded_anew_where_it_was_preloaded():
    import numpy

    with mh.ProcessExecutor(1, preload=["numpy.random"], max_tasks_per_worker=1) as pool:
        for draw in (numpy.random.rand, lambda: numpy.random.rand()):
            assert len({pool.submit(draw).result() for _ in range(3)}) == 3


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of that text, for workers to import."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text):
        name = f"made_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return make


STAND_IN = """
import sys, types
stand_in = sys.modules["numpy.random"] = types.ModuleType("numpy.random")
stand_in.seeds = []
stand_in.seed = lambda *seed: stand_in.seeds.append(seed)
"""


def test_numpys_seed_is_called_once_in_each_worker(module):
    with mh.ProcessExecutor(1, preload=[module(STAND_IN)], max_tasks_per_worker=1) as pool:
        seeds = [pool.submit(lambda: sys.modules["numpy.random"].seeds).result() for _ in range(2)]
    assert seeds == [[()], [()]]


# -- environment


def variable(name):
    return os.environ.get(name), os.getenvb(name.encode())


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_worker_has_the_environment_of_the_moment_it_starts(pool, start, monkeypatch):
    assert pool.submit(abs, -1).result() == 1, "a zygote runs"
    monkeypatch.setenv("TESTS_SET_LATER", "é\udc80")
    monkeypatch.delenv("HOME", raising=False)
    with mh.ProcessExecutor(1, start=start) as later:
        assert later.submit(variable, "TESTS_SET_LATER").result() == ("é\udc80", b"\xc3\xa9\x80")
        assert later.submit(variable, "HOME").result() == (None, None)


def test_the_threads_of_numerical_libraries_are_the_users_choice(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "11")
    with mh.ProcessExecutor(1) as pool:
        assert pool.submit(variable, "OMP_NUM_THREADS").result()[0] == "11"
        assert pool.submit(variable, "MKL_NUM_THREADS").result()[0] != "11"
    with mh.ProcessExecutor(1, threads_per_worker=3) as pool:
        assert pool.submit(variable, "OMP_NUM_THREADS").result()[0] == "3"


def test_a_library_that_is_preloaded_reads_how_many_threads_it_may_use(module):
    name = module("import os; found = os.environ['OPENBLAS_NUM_THREADS']")
    for threads in (3, 4):
        with mh.ProcessExecutor(1, preload=[name], threads_per_worker=threads) as pool:
            assert pool.submit(lambda: sys.modules[name].found).result() == str(threads)


def test_a_fresh_interpreter_may_be_given_much_to_begin_with():
    kept = []
    with mh.ProcessExecutor(1, start="spawn", initializer=kept.append, initargs=(bytes(1 << 20),)) as pool:
        assert pool.submit(abs, -1).result() == 1


def test_a_worker_has_the_arguments_of_the_program():
    done = run_script(
        "import sys\nimport manyhands as mh\n"
        "sys.argv.append('more')\n"
        "with mh.ProcessExecutor(1) as pool: print(pool.submit(lambda: sys.argv).result())\n"
    )
    assert (done.stdout, done.stderr) == ("['-c', 'more']\n", "")


def test_a_program_whose_directory_is_gone_may_have_workers(tmp_path):
    # Those cannot even import `socket` there: python/cpython#130932.
    import_earlier = (3, 13) <= sys.version_info < (3, 13, 3)
    done = run_script(
        "import os\nimport manyhands as mh\n"
        f"{import_earlier} and mh.ProcessExecutor\n"
        "os.rmdir(os.getcwd())\n"
        "with mh.ProcessExecutor(1) as pool: print(pool.submit(os.getcwd).result())\n",
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("/\n", "")
