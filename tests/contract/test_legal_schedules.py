"""No alarm in random legal schedules; set MANYHANDS_SCHEDULES for a thorough look, as many as you like."""

import os

import pytest
import schedules

import manyhands as mh
from manyhands import sync

COUNT = int(os.environ.get("MANYHANDS_SCHEDULES", "3000"))


@pytest.fixture(autouse=True)
def watched():
    sync.detect_deadlocks()
    yield
    sync.detect_deadlocks(False)


@pytest.mark.timeout(60 + COUNT / 100)
def test_legal_schedules_raise_no_alarm():
    seed = os.urandom(8).hex()
    print(f"seed {seed}")
    schedules.run(COUNT, seed)


def test_an_illegal_one_after_them_is_told_of():
    schedules.run(600, "illegal")
    world = schedules.World()
    with world.order[-1], pytest.warns(mh.LockOrderWarning, match=r"schedules\.py"), world.order[0]:
        pass
