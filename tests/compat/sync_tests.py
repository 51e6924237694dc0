"""Runs the interpreter's own tests of locks and queues, of asyncio's too, on the classes of `manyhands.sync`.

    python sync_tests.py [CLASS[.METHOD]…]    run them; exit code 1 on failure
    python sync_tests.py --list               name the test classes

The code of the tests is the interpreter's; exit code 3 says that it was installed without them.
"""

import importlib.util
import itertools
import json
import sys
import unittest
from pathlib import Path

import skips

from manyhands import sync

NOT_SHIPPED = 3


def main(arguments: list[str]) -> int:
    """Run or list what the command line asks for."""
    if not is_shipped():
        print(f"not run: this Python {sys.version.split()[0]} was installed without its tests")
        return NOT_SHIPPED
    classes = test_classes()
    if "--list" in arguments:
        json.dump([*classes], sys.stdout)
        return 0
    return run(classes, arguments)


def is_shipped() -> bool:
    """Whether the interpreter has the tests; some distributions leave them out."""
    try:
        return importlib.util.find_spec("test.lock_tests") is not None
    except ModuleNotFoundError:
        return False


def test_classes() -> dict[str, type[unittest.TestCase]]:
    """Return the test classes by their names, each bound to the class of ours that it tests."""
    from test import lock_tests

    subjects = {
        "LockTests": (lock_tests.LockTests, {"locktype": sync.Lock}),
        "RLockTests": (lock_tests.RLockTests, {"locktype": sync.RLock}),
        "ConditionAsRLockTests": (lock_tests.RLockTests, {"locktype": sync.Condition}),
        "ConditionTests": (lock_tests.ConditionTests, {"condtype": sync.Condition}),
        "EventTests": (lock_tests.EventTests, {"eventtype": sync.Event}),
        "SemaphoreTests": (lock_tests.SemaphoreTests, {"semtype": sync.Semaphore}),
        "BoundedSemaphoreTests": (lock_tests.BoundedSemaphoreTests, {"semtype": sync.BoundedSemaphore}),
        "BarrierTests": (lock_tests.BarrierTests, {"barriertype": sync.Barrier}),
    }
    classes = {
        name: type(name, (tests,), {key: staticmethod(ours) for key, ours in subject.items()})
        for name, (tests, subject) in subjects.items()
    }
    return classes | queue_classes() | asyncio_classes()


def queue_classes() -> dict[str, type[unittest.TestCase]]:
    """Return those of `test.test_queue`, with our module in the place of `queue`."""
    from test import test_queue

    names = ("QueueTest", "LifoQueueTest", "PriorityQueueTest", "FailingQueueTest")
    return {
        name: type(name, (getattr(test_queue, name), unittest.TestCase), {"queue": sync}) for name in names
    }


def asyncio_classes() -> dict[str, type[unittest.TestCase]]:
    """Return those of asyncio's locks and queues, with our methods for coroutines in the place of its own."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "stand_in"))
    import asyncio_twins

    found = [vars(asyncio_twins.load(name)).values() for name in ("test_locks", "test_queues")]
    cases = (case for case in itertools.chain(*found) if isinstance(case, type))
    tests = (case for case in cases if issubclass(case, unittest.TestCase))
    return {f"Asyncio{case.__name__}": case for case in tests if unittest.TestLoader().getTestCaseNames(case)}


def run(classes: dict[str, type[unittest.TestCase]], only: list[str]) -> int:
    """Run the classes and say what was run and what was not."""
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    for name, case in classes.items():
        methods = loader.getTestCaseNames(case)
        if only and name not in only:
            methods = [method for method in methods if f"{name}.{method}" in only]
        for method in methods:
            test = case(method)
            if reason := skips.SYNC_SKIPS.get(f"{name}.{method}"):
                setattr(test, method, unittest.skip(reason)(lambda: None))
            suite.addTest(test)
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    print(
        f"Python {sys.version.split()[0]}, locks and queues: "
        f"{result.testsRun} tests, {passed} passed, {failed} failed, {len(result.skipped)} skipped"
    )
    for test, reason in result.skipped:
        print(f"  skipped {test.id()}: {reason}")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
