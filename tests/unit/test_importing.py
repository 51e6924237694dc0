"""What is imported, and started, when: a program pays for what it uses, names mean the same in any order."""

import json
import pkgutil
import subprocess
import sys

import pytest

import manyhands as mh

LARGE = (
    "_ssl",
    "asyncio",
    "cloudpickle",
    "concurrent.futures",
    "dataclasses",
    "inspect",
    "logging",
    "multiprocessing",
    "pathlib",
    "pickle",
    "re",
    "socket",
    "subprocess",
    "threading",
    "typing",
)
"""Modules that take a millisecond or more, or import others that do."""
OF_ANY_EXECUTOR = {"concurrent.futures", "logging", "re", "threading", "typing"}
"""What the base classes come from, and what their modules import."""
OF_ERRORS = {"asyncio", "inspect", "pickle", "socket", "subprocess", "_ssl"}
"""Before Python 3.11, asyncio has a timeout of its own, of which ours has to be one."""
if sys.version_info >= (3, 11):
    OF_ERRORS.clear()

PROGRAM = """
import json, sys
before = {*sys.modules}
%s
print(json.dumps(sorted({*sys.modules} - before)))
"""


def imported_by(code: str) -> set[str]:
    command = [sys.executable, "-I", "-c", PROGRAM % code]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return {*json.loads(ran.stdout)}


def test_importing_the_package_imports_no_large_module():
    imported = imported_by("import manyhands")
    assert "manyhands" in imported
    assert imported.isdisjoint(LARGE)
    assert [name for name in imported if name.startswith("manyhands.")] == ["manyhands._lazy"]


@pytest.mark.parametrize(
    "code",
    [
        "import manyhands as mh; list(mh.map(abs, [1, -2], workers=1))",
        "import manyhands as mh; mh.ThreadExecutor(1).submit(abs, -1).result()",
        "import manyhands as mh\nwith mh.TaskGroup() as group: group.submit(abs, -1)",
    ],
    ids=["map", "ThreadExecutor", "TaskGroup"],
)
def test_threads_need_no_event_loop_and_no_process(code):
    assert imported_by(code) & {*LARGE} <= OF_ANY_EXECUTOR | OF_ERRORS


def test_a_worker_of_a_queue_reads_no_metadata_of_packages():
    """Which would import parsers of mails and archives into a process that stays for long."""
    imported = imported_by(
        "import manyhands as mh\n"
        "from manyhands.cli.worker import _banner\n"
        "with mh.queue.Worker(mh.Queue(), on='thread') as worker: shown = _banner(worker)"
    )
    assert "manyhands.queue.worker" in imported
    assert imported.isdisjoint({"importlib.metadata", "email", "zipfile", "csv", "tempfile"})


@pytest.mark.parametrize(
    "module", ["manyhands", *(f"manyhands.{name}" for name in ("_core", "executors", "errors", "maps"))]
)
def test_each_module_can_be_imported_first(module):
    assert module in imported_by(f"import {module}")


def test_a_name_is_there_before_it_was_used_and_means_the_same_afterwards():
    assert {*mh.__all__} <= {*dir(mh)}
    names: dict[str, object] = {}
    exec("from manyhands import *", names)
    assert {name for name in mh.__all__ if names.get(name) is not getattr(mh, name)} == set()


@pytest.mark.parametrize("package", [mh, mh.executors], ids=["manyhands", "manyhands.executors"])
def test_no_module_is_called_like_a_name(package):
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert modules & {*package.__all__} == set()


def test_what_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'manyhands' has no attribute 'nonsense'"):
        mh.nonsense  # noqa: B018


IN_A_WORKER = """
import manyhands as mh
import posixpath
with mh.ProcessExecutor(1, initializer=posixpath.join, initargs=("a", "b")) as pool:
    %s
"""
LOG_LATE = """
import logging
logging.getLogger("late").warning("said %s", "late")
assert "SourceFileLoader" in type(logging.__loader__).__name__
assert logging.__spec__.loader is logging.__loader__
"""
IMPORT_IN_A_CHILD = """
import os
child = os.fork()
if child == 0:
    import logging
    os._exit(len(logging.root.handlers))
assert os.waitpid(child, 0)[1] == 0
"""


def result_of(code: str, setting: str = "") -> str:
    program = f"{setting}{IN_A_WORKER % code}"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return ran.stdout


def test_a_worker_imports_no_large_module_that_its_task_does_not():
    listed = "sorted(__import__('sys').modules)"
    ours = {*eval(result_of(f"print(pool.submit(eval, {listed!r}).result())"))}
    command = [sys.executable, "-I", "-c", f"import sys; print({listed})"]
    plain = {*eval(subprocess.check_output(command, text=True, timeout=60))}
    assert "manyhands._core" in ours
    assert (ours - plain) & {*LARGE} <= {"socket"}


def test_a_worker_that_imports_logging_late_sends_its_records():
    setting = "import logging, sys; logging.basicConfig(stream=sys.stdout, format='%(name)s: %(message)s')\n"
    assert result_of(f"pool.submit(exec, {LOG_LATE!r}).result()", setting) == "late: said late\n"


def test_a_child_of_a_worker_that_imports_logging_sends_no_records():
    assert result_of(f"pool.submit(exec, {IMPORT_IN_A_CHILD!r}).result()") == ""


@pytest.mark.parametrize(
    ("arguments", "is_for_processes"),
    [
        (["map", "m:f", "in", "--on", "process"], True),
        (["map", "--on=process+async", "m:f"], True),
        (["map", "process", "--on", "thread"], False),
        (["map", "m:f", "--on"], False),
        ([], False),
    ],
)
def test_the_command_begins_with_the_zygote_only_where_processes_are_asked_for(arguments, is_for_processes):
    program = (
        "import sys\nfrom manyhands.cli import __main__ as command\n"
        "from manyhands.executors import _zygote\n"
        "started = []\n_zygote.zygote = lambda preload: started.append('click' in sys.modules)\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: command.main()\nexcept SystemExit: pass\nprint(started)"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == ("[False]" if is_for_processes else "[]")
