"""CPython's own tests of its locks and queues pass on ours, on every Python that ships them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import skips

RUNNER = Path(__file__).with_name("sync_tests.py")
NOT_SHIPPED = 3
ENVIRONMENT = {**os.environ}
"""For pytest changes the process's own before each test, and threads start programs here meanwhile."""

pytestmark = pytest.mark.timeout(300)


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


@pytest.fixture(scope="module")
def runs():
    """Every class, run: they mostly wait, so several wait at the same time."""
    with ThreadPoolExecutor(4) as pool:
        yield {name: pool.submit(run, name) for name in CLASSES}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CLASSES)
def test_on_our_classes(runs, name):
    completed = runs[name].result()
    assert completed.returncode == 0, completed.stdout


def test_a_skip_names_a_class_that_is_run():
    known = {test.split(".")[0] for test in skips.SYNC_SKIPS}
    known -= {name for name, since in skips.SINCE.items() if sys.version_info < since}
    assert not CLASSES or known <= set(CLASSES)
