"""CPython's own tests of ``concurrent.futures`` pass on manyhands, on every Python that ships them.

Each class runs in a process of its own, where manyhands takes the place of a part of the standard library.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import skips

RUNNER = Path(__file__).with_name("cpython_tests.py")
NOT_SHIPPED = 3
ENVIRONMENT = {**os.environ}
"""For pytest changes the process's own before each test, and threads start programs here meanwhile."""


def run(*arguments):
    command = [sys.executable, str(RUNNER), *arguments]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, env=ENVIRONMENT, stdout=pipe, stderr=both, text=True, check=False)


def classes():
    listed = run("--list")
    if listed.returncode == NOT_SHIPPED:
        return []
    assert listed.returncode == 0, listed.stdout
    return json.loads(listed.stdout)


CLASSES = classes()
WAITING = [name for name in CLASSES if "Wait" in name or "AsCompleted" in name]


pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def runs():
    """Every class, run: they mostly wait for seconds, so many wait at the same time, the longest first."""
    every = [("standard", name) for name in CLASSES] + [("manyhands", name) for name in WAITING]
    every.sort(key=lambda one: (one[1] != "FutureTests", "Wait" not in one[1]))
    with ThreadPoolExecutor(8) as pool:
        started = {(waits, name): pool.submit(run, "--waits", waits, name) for waits, name in every}
        yield started
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CLASSES)
def test_with_the_waiting_functions_of_the_standard_library(runs, name):
    completed = runs["standard", name].result()
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("name", WAITING)
def test_with_our_own_waiting_functions(runs, name):
    completed = runs["manyhands", name].result()
    assert completed.returncode == 0, completed.stdout


@pytest.mark.skipif(not CLASSES, reason="this Python was installed without test.test_concurrent_futures")
def test_the_classes_about_threads_processes_and_futures_are_all_there():
    expected = {"FutureTests", "ThreadPoolExecutorTest", "ThreadPoolShutdownTest", "ThreadPoolWaitTests"}
    assert expected <= set(CLASSES)
    for method in ("Fork", "Forkserver", "Spawn"):
        for subject in ("ProcessPoolExecutor", "ProcessPoolShutdown", "ExecutorDeadlock"):
            assert f"ProcessPool{method}{subject}Test" in CLASSES


def test_a_skip_names_a_test_of_a_class_that_is_run():
    known = {skip.test.split(".")[0] for skip in skips.SKIPS}
    assert not CLASSES or known <= set(CLASSES)
    assert all(skip.reason for skip in skips.SKIPS)
