"""What a type checker tells the users of the package: the types they get, and the mistakes it finds."""

import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import manyhands as mh
from manyhands.maps import _Options

PROLOGUE = """
import asyncio
import concurrent.futures
from typing_extensions import assert_type
import manyhands as mh

def size(page: str) -> int:
    return len(page)

async def fetch(url: str) -> bytes:
    return url.encode()

def add(left: int, right: int) -> int:
    return left + right

urls = ["a", "b"]
"""

RIGHT = """
for n in mh.map(size, urls, workers=2, timeout=1.5, retries=3, rate="10/s"):
    assert_type(n, int)
for page in mh.map(fetch, urls, on="async"):
    assert_type(page, bytes)
for n in mh.map(size, urls, on="dask://host:8786"):
    assert_type(n, int)
for n in mh.starmap(add, [(1, 2)], on=input("where? ")):
    assert_type(n, int)
for outcome in mh.map(size, urls, on_error="return"):
    assert_type(outcome, mh.Outcome[int])
    assert_type(outcome.value, int | None)
    assert_type(outcome.unwrap(), int)
for fetched in mh.map(fetch, urls, on_error="return", progress="pages"):
    assert_type(fetched, mh.Outcome[bytes])
for total in mh.map(add, [1, 2], [3, 4], on_error="skip"):
    assert_type(total, int)
for total in mh.starmap(add, [(1, 2)]):
    assert_type(total, int)
assert_type(mh.map(size, urls).summary(), mh.MapSummary)

with mh.ThreadExecutor(2) as threads:
    future = threads.submit(size, page="x")
    assert_type(future, mh.Future[int])
    assert_type(future.result(timeout=1), int)
    standard: concurrent.futures.Future[int] = future
    assert_type(mh.gather(future, future).result(), list[int])
    assert_type(mh.race(future).result(), int)
    for settled in mh.as_completed([future]):
        assert_type(settled, mh.Future[int])
    assert_type(mh.wait([future]).done, set[concurrent.futures.Future[int]])
    assert_type(threads.with_policy(timeout=1, priority=2), mh.ThreadExecutor)
    assert_type(list(threads.map(add, [1], [2])), list[int])

with mh.AsyncExecutor() as loops:
    assert_type(loops.submit(fetch, "x"), mh.Future[bytes])
    assert_type(list(loops.map(fetch, urls)), list[bytes])

with mh.TaskGroup() as group:
    assert_type(group.submit(size, "x"), mh.Future[int])
    assert_type(group.submit(fetch, "x"), mh.Future[bytes])

assert_type(mh.executor("thread"), mh.ThreadExecutor)
assert_type(mh.executor("process+async", concurrency=5), mh.ProcessExecutor)
assert_type(mh.executor("ray://host:10001"), mh.Executor)
assert_type(mh.TaskGroup("dask://host:8786"), mh.TaskGroup)

async def main() -> None:
    assert_type(await threads.submit(size, "x"), int)
    async for n in mh.map(size, urls):
        assert_type(n, int)
    async for settled in mh.as_completed([future]):
        assert_type(settled, mh.Future[int])
"""

WRONG = {
    "an option that does not exist": "mh.map(size, urls, retrys=3)",
    "a timeout that is a string": 'mh.map(size, urls, timeout="10s")',
    "a model that is no name": "mh.map(size, urls, on=mh.ThreadExecutor)",
    "an unknown on_error": 'mh.map(size, urls, on_error="ignore")',
    "items that do not fit the function": "mh.map(size, [1, 2])",
    "a missing argument": "threads.submit(add, 1)",
    "an argument of the wrong type": 'threads.submit(add, 1, "2")',
    "a plain function on loops": "loops.submit(size, 'x')",
    "an option of no policy": "threads.with_policy(workers=3)",
    "an unknown keyword of Policy": "mh.Policy(attempts=3)",
    "a value of the wrong type": "mh.Future[int]().set_result('x')",
}


def check(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", str(program)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_results_have_the_types_of_the_functions(tmp_path):
    checked = check(tmp_path, PROLOGUE + RIGHT)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.timeout(300)
def test_each_mistake_is_found(tmp_path):
    setting = PROLOGUE + "threads = mh.ThreadExecutor()\nloops = mh.AsyncExecutor()\n"
    before = setting.count("\n")
    checked = check(tmp_path, setting + "\n".join(WRONG.values()) + "\n")
    found = {int(line) - before for line in re.findall(r"program\.py:(\d+): error", checked.stdout)}
    assert [name for line, name in enumerate(WRONG, 1) if line not in found] == []


def test_the_options_for_type_checkers_are_those_of_map():
    source = Path(mh.map.__code__.co_filename).read_text(encoding="utf-8")
    base = Path(mh.Executor.with_policy.__code__.co_filename).read_text(encoding="utf-8")
    declared = typed_names(base, "AttemptOptions") | typed_names(source, "MapOptions") | {"on_error"}
    assert declared == set(_Options.__annotations__)


def test_the_options_for_type_checkers_are_those_of_a_policy():
    base = Path(mh.Executor.with_policy.__code__.co_filename).read_text(encoding="utf-8")
    names = typed_names(base, "AttemptOptions") | typed_names(base, "PolicyOptions")
    assert names == set(inspect.signature(mh.Policy).parameters)


def typed_names(source: str, record: str) -> set[str]:
    block = re.search(rf"^    class {record}\(.*?(?=^\S|^    \S)", source, re.MULTILINE | re.DOTALL)
    assert block, record
    return set(re.findall(r"^    (\w+): ", textwrap.dedent(block[0]), re.MULTILINE))
