"""The fault contract: 20 items, 2 workers, one fault; the same eight promises on every model.

`bench/contract` asks the same of other libraries and writes what came of it into the README.
"""

import asyncio
import contextvars
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually, has_ended

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"thread": {}, "process": {}, "async": {}, "process+async": {"concurrency": 1}}
"""With what they run two items at a time: a process that dies takes with it all that it runs."""
CALLER = contextvars.ContextVar("CALLER", default="")
LOGGER = logging.getLogger("fault_contract")
BAD = 7


@pytest.fixture(params=MODELS)
def on(request):
    return request.param


@pytest.fixture
def pool(on):
    with mh.executor(on, workers=2, **MODELS[on]) as pool:
        yield pool


def runs_coroutines(pool):
    try:
        pool.submit(abs, 0)
    except mh.WrongExecutor:
        return True
    return False


def task(pool, function):
    """`function` as the pool wants it."""
    if not runs_coroutines(pool):
        return function

    async def call(item):
        return function(item)

    return call


def outcomes(pool, function, items=range(20), **options):
    return list(mh.map(task(pool, function), items, on=pool, on_error="return", **options))


def values(found):
    return [outcome.value for outcome in found if outcome.ok]


def errors(found):
    return {outcome.index: outcome.exception for outcome in found if not outcome.ok}


def kill_worker(item):
    if item == BAD:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.fixture(params=["process", "process+async"])
def killed(request):
    """What came of the items, and the pool. Threads, and event loops here, die with the program only."""
    with mh.executor(request.param, workers=2, **MODELS[request.param]) as pool:
        yield outcomes(pool, kill_worker), pool


def test_a_killed_worker_costs_the_one_item_that_it_ran(killed):
    found, _ = killed
    assert values(found) == [item for item in range(20) if item != BAD]
    assert {item: type(error) for item, error in errors(found).items()} == {BAD: mh.WorkerDied}


def test_the_pool_goes_on_after_a_killed_worker(killed):
    _, pool = killed
    assert values(outcomes(pool, abs, range(-100, 0))) == list(range(100, 0, -1))


def raise_at_bad(item):
    if item == BAD:
        raise ValueError(item)
    return item


def test_an_item_that_raises_costs_no_other(pool):
    found = outcomes(pool, raise_at_bad)
    assert values(found) == [item for item in range(20) if item != BAD]
    assert {item: type(error) for item, error in errors(found).items()} == {BAD: ValueError}


def last_5_ms(item):
    time.sleep(0.005)
    return item


def test_the_input_is_not_read_far_ahead(pool):
    pulled = 0

    def numbers():
        nonlocal pulled
        for number in range(20_000):
            pulled += 1
            yield number

    with mh.map(task(pool, last_5_ms), numbers(), on=pool) as results:
        assert next(results) == 0
        assert pulled <= 20


class Spin:
    """At item 3 it tells who runs it, and spins until it is made to stop; `stopped` says that it was."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, item):
        if item == 3:
            with self.noted():
                while True:
                    pass
        return item

    async def on_loop(self, item):
        """A coroutine that never awaits would keep its loop: this one does."""
        if item == 3:
            with self.noted():
                while True:
                    await asyncio.sleep(0)
        return item

    def noted(self):
        return Noted(self.path)


class Noted:
    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        self.path.write_text(str(os.getpid()))

    def __exit__(self, *exc_info):
        self.path.write_text("stopped")


def has_stopped(path):
    """Whether the item was interrupted, or the process that ran it is gone."""
    said = path.read_text()
    return said == "stopped" or has_ended(said)


def test_an_item_that_spins_is_stopped_at_its_limit_and_costs_no_other(pool, tmp_path):
    path = tmp_path / "spinning"
    spin = Spin(path)
    function = spin.on_loop if runs_coroutines(pool) else spin
    found = list(mh.map(function, range(8), on=pool, timeout=0.5, on_error="return"))
    assert values(found) == [item for item in range(8) if item != 3]
    assert {item: type(error) for item, error in errors(found).items()} == {3: mh.TaskTimeout}
    eventually(lambda: has_stopped(path), "the end of the item that spins")
    assert values(outcomes(pool, abs, [-1, -2])) == [1, 2]


def test_a_lambda_that_sees_variables_around_it_is_run(pool):
    offset = 1
    assert values(outcomes(pool, lambda item: item + offset)) == list(range(1, 21))


def log(item):
    LOGGER.warning("item %d", item)


def test_what_items_log_reaches_the_handlers_of_the_caller(on, caplog):
    with mh.executor(on, workers=2, **MODELS[on]) as pool:
        outcomes(pool, log, range(3))
    seen = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert sorted(seen) == ["item 0", "item 1", "item 2"]


def caller(_):
    return CALLER.get()


def test_items_see_the_context_variables_of_the_caller(pool):
    outcomes(pool, abs)
    token = CALLER.set("seen")
    try:
        assert values(outcomes(pool, caller)) == ["seen"] * 20
    finally:
        CALLER.reset(token)


@pytest.mark.skipif(
    sys.version_info[:2] > (3, 10),
    reason="no part of the package: what runs on the oldest Python runs on all",
)
def test_the_comparison_with_others_runs_each_scenario():
    command = [sys.executable, "-m", "bench.contract", "--only", "OurProcesses,OurLoopsInProcesses"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("| **manyhands**")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:]]
    assert len(cells) == 2 * 8
    assert all(cell.startswith("**") for cell in cells), printed


def test_a_library_that_the_comparison_does_not_know_is_named():
    command = [sys.executable, "-m", "bench.contract", "--only", "OurThreads,Nobody"]
    refused = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert refused.returncode != 0
    assert "found Nobody, expected some of OurProcesses" in refused.stderr


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.contract import table

    return table


def test_the_readme_shows_the_results_that_are_kept(table):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert table.rendered(page, table.load()) == page


def test_the_results_that_are_kept_have_every_model_pass_all_that_it_can_have(table):
    from bench.contract.scenarios import SCENARIOS

    cells = table.load()["cells"]
    impossible = {"OurProcesses": 0, "OurLoopsInProcesses": 0, "OurThreads": 2, "OurLoops": 2}
    for model in impossible:
        found = [(scenario, cells[model][scenario.name]) for scenario in SCENARIOS]
        passed = [scenario.passes(of) for scenario, of in found if "impossible" not in of]
        assert passed == [True] * (8 - impossible[model])
    assert json.loads(table.RESULTS.read_text())["facts"].keys() >= {"Python", "manyhands", "pebble"}
