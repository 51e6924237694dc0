"""Modules that are imported once for the workers of several pools, and those that must not be."""

import itertools
import os
import signal
import sys

import pytest

import manyhands as mh
from manyhands.executors import _branches
from watching import eventually, has_ended

NUMBERS = itertools.count()
NOTING = """
import os
with open({journal!r}, "a") as journal:
    journal.write(f"{{os.getpid()}}\\n")
"""
FUNCTIONS = """
import os
def place():
    return os.getpid(), os.getppid()
def value():
    return VALUE
"""


class Jobs:
    """A module that workers import, which notes in which processes it was."""

    def __init__(self, directory):
        self.name = f"jobs_{next(NUMBERS)}"
        self.file, self.journal = directory / f"{self.name}.py", directory / "journal"

    def write(self, text=""):
        self.file.write_text(f"{text}\n{FUNCTIONS}\n{NOTING.format(journal=str(self.journal))}")

    def importers(self):
        """The processes in which it was imported from beginning to end; not this one."""
        lines = self.journal.read_text().split() if self.journal.exists() else []
        return [int(pid) for pid in lines if int(pid) != os.getpid()]

    def call(self, function="place", **options):
        """What a function of it returns in a new pool of one worker."""
        with mh.ProcessExecutor(1, threads_per_worker=1, **options) as pool:
            return pool.submit(getattr(sys.modules[self.name], function)).result(timeout=30)

    def branch(self):
        records = [each._records for each in _branches._branches.values()]
        return next((each[self.name].branch for each in records if self.name in each), None)

    def ready_branch(self):
        branch = self.branch()
        eventually(lambda: branch.is_ready or branch.is_gone, "the end of the import")
        assert branch.is_ready
        return branch


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs = Jobs(tmp_path)
    yield jobs
    sys.modules.pop(jobs.name, None)


def begin(jobs, text="", **options):
    """Have two pools call functions of that module; the second has a branch made."""
    jobs.write(text)
    __import__(jobs.name)
    places = [jobs.call(**options)]
    assert jobs.branch() is None
    places.append(jobs.call(**options))
    return places


def test_workers_of_later_pools_find_the_module_imported(jobs):
    places = begin(jobs)
    jobs.ready_branch()
    later = [jobs.call() for _ in range(3)]
    [(_, branch)] = {(None, parent) for _, parent in later}
    assert branch not in {parent for _, parent in places}
    assert len({pid for pid, _ in later}) == 3
    assert jobs.importers().count(branch) == 1
    assert {*jobs.importers()} == {branch, *(pid for pid, _ in places)}


def test_workers_that_replace_others_find_it_too(jobs):
    jobs.write()
    place = __import__(jobs.name).place
    with mh.ProcessExecutor(1, max_tasks_per_worker=1) as pool:
        [pool.submit(place).result(timeout=30) for _ in range(2)]
        branch = eventually(jobs.branch, "a branch")
        eventually(lambda: branch.is_ready, "the end of the import")
        # One worker may have been started before.
        eventually(lambda: pool.submit(place).result(timeout=30)[1] in jobs.importers(), "a later worker")


def test_a_module_that_was_changed_is_imported_anew(jobs):
    begin(jobs, "VALUE = 1")
    jobs.ready_branch()
    assert jobs.call("value") == 1
    jobs.write("VALUE = 'another'")
    assert [jobs.call("value") for _ in range(2)] == ["another"] * 2
    jobs.ready_branch()
    assert jobs.call("value") == "another"


def test_a_module_of_which_an_import_was_changed_is_imported_anew(jobs, tmp_path):
    imported = tmp_path / f"part_of_{jobs.name}.py"
    imported.write_text("VALUE = 1")
    begin(jobs, f"from {imported.stem} import VALUE")
    jobs.ready_branch()
    assert jobs.call("value") == 1
    imported.write_text("VALUE = 'another'")
    assert [jobs.call("value") for _ in range(2)] == ["another"] * 2
    sys.modules.pop(imported.stem)


def test_a_module_is_imported_anew_for_another_environment(jobs, monkeypatch):
    monkeypatch.setenv("OF_BRANCHES", "one")
    begin(jobs, "import os; VALUE = os.environ['OF_BRANCHES']")
    jobs.ready_branch()
    assert jobs.call("value") == "one"
    monkeypatch.setenv("OF_BRANCHES", "two")
    assert jobs.call("value") == "two"


UNFIT = {
    "a thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "an open file": "opened = open(__file__)",
    "shared memory": "import mmap; memory = mmap.mmap(-1, 4096)",
    "a generator": "import random; numbers = random.Random(3)",
    "a seed": "import random; random.seed(3)",
    "a child": "import subprocess; child = subprocess.Popen(['sleep', '1000'])",
    "an executor": "import manyhands; pool = manyhands.ThreadExecutor(1)",
    "output": "print('said')",
    "a stream that is kept": "import sys; out = sys.stdout",
    "a signal handler": "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)",
    "a variable": "import os; os.environ['OF_BRANCHES'] = 'set'",
    "a path": "import sys; sys.path.append('/nonexistent')",
    # Workers have sessions of their own.
    "a failure": "import os\nif os.getsid(0) != os.getpid(): raise OSError",
    "an end": "import os\nif os.getsid(0) != os.getpid(): os._exit(3)",
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_module_whose_import_does_more_is_imported_by_each_worker(jobs, what, monkeypatch, capfd):
    monkeypatch.setattr(sys, "path", [*sys.path])
    jobs.write()
    __import__(jobs.name)
    # What it does, it does in workers alone.
    jobs.write(UNFIT[what])
    places = [jobs.call() for _ in range(2)]
    branch = jobs.branch()
    eventually(lambda: branch.is_gone, "the end of the branch")
    assert not branch.is_ready
    places += [jobs.call() for _ in range(2)]
    assert jobs.branch() is branch
    assert len({parent for _, parent in places}) == 1
    assert {pid for pid, _ in places} <= {*jobs.importers()}
    assert capfd.readouterr().out == ("said\n" * 4 if what == "output" else "")


def test_a_branch_that_hangs_holds_nobody(jobs, tmp_path):
    jobs.write()
    __import__(jobs.name)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Workers have sessions of their own.
    jobs.write(f"import os\nif os.getsid(0) != os.getpid(): open({str(gate)!r}).close()")
    places = [jobs.call() for _ in range(4)]
    branch = jobs.branch()
    assert not branch.is_ready
    assert not branch.is_gone
    assert len({parent for _, parent in places}) == 1
    branch.retire()
    eventually(lambda: branch.is_gone, "the end of the branch")


def test_a_pool_goes_on_when_its_branch_is_killed(jobs):
    begin(jobs)
    jobs.ready_branch()
    module = sys.modules[jobs.name]
    with mh.ProcessExecutor(1, threads_per_worker=1) as pool:
        pid, branch = pool.submit(module.place).result(timeout=30)
        assert branch in jobs.importers()
        os.kill(branch, signal.SIGKILL)
        eventually(lambda: has_ended(pid), "the end of its worker")
        # The first may have been given to that worker.
        pool.submit(module.place).exception(timeout=30)
        assert pool.submit(module.place).result(timeout=30)[1] != branch


def test_a_zygote_has_few_branches(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    many = [Jobs(tmp_path) for _ in range(_branches._MOST + 1)]
    branches = []
    for jobs in many:
        begin(jobs)
        branches.append(jobs.ready_branch())
    eventually(lambda: branches[0].is_gone, "the end of the oldest")
    assert [branch.is_gone for branch in branches] == [True] + [False] * _branches._MOST
    assert many[0].branch() is None
    for jobs in many:
        del sys.modules[jobs.name]


def test_fresh_interpreters_and_functions_that_go_by_value_need_no_branch(jobs):
    jobs.write()
    __import__(jobs.name)
    for _ in range(3):
        jobs.call(start="spawn")
    assert jobs.branch() is None
    for _ in range(3):
        with mh.ProcessExecutor(1) as pool:
            assert pool.submit(lambda: 3).result(timeout=30) == 3
    assert not any(__name__ in each._records for each in _branches._branches.values())


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_of_the_program_leaves_the_branch_to_its_parent(jobs):
    begin(jobs)
    branch = jobs.ready_branch()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if branch._socket.fileno() == -1 and not _branches._branches else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert jobs.call()[1] in jobs.importers()
    assert not branch.is_gone
