"""Runs the interpreter's own ``test.test_concurrent_futures`` on manyhands instead of ``concurrent.futures``.

    python cpython_tests.py [--waits standard|manyhands] [CLASS[.METHOD]…]    run them; exit code 1 on failure
    python cpython_tests.py --list                                            name the test classes

The code of the tests is the interpreter's; exit code 3 says that it was installed without them.
"""

import argparse
import importlib.util
import json
import os
import pkgutil
import sys
import unittest
from pathlib import Path

import skips

HERE = Path(__file__).resolve().parent
PACKAGE = "test.test_concurrent_futures"
NOT_SHIPPED = 3


def main() -> int:
    """Run or list what the command line asks for."""
    options = argparse.ArgumentParser(prog="cpython_tests.py")
    options.add_argument("--waits", choices=("standard", "manyhands"), default="standard")
    options.add_argument("--list", action="store_true")
    options.add_argument("tests", nargs="*", metavar="CLASS[.METHOD]")
    given = options.parse_args()
    if not is_shipped():
        print(f"not run: this Python {sys.version.split()[0]} was installed without {PACKAGE}")
        return NOT_SHIPPED
    be_the_substitute(given.waits)
    classes = test_classes()
    if given.list:
        json.dump([case.__name__ for case in classes if other_model(case) is None], sys.stdout)
        return 0
    return run(classes, given.waits, given.tests)


def is_shipped() -> bool:
    """Whether the interpreter has the tests; some distributions leave them out."""
    try:
        return importlib.util.find_spec(PACKAGE) is not None
    except ModuleNotFoundError:
        return False


def be_the_substitute(waits: str) -> None:
    """Substitute here, and in every Python that the tests start."""
    stand_in = str(HERE / "stand_in")
    os.environ["MANYHANDS_WAITS"] = waits
    os.environ["PYTHONPATH"] = stand_in
    sys.path.insert(0, stand_in)
    import substitute

    substitute.install()
    # Its thread stays, and the tests look for threads that they have not seen before.
    substitute.processes.ProcessPoolExecutor(1).shutdown()

    from test.support import script_helper

    # Otherwise it would start them with -I, which ignores PYTHONPATH.
    script_helper.interpreter_requires_environment = lambda: True


def test_classes() -> list[type[unittest.TestCase]]:
    """Return every test class of the package, or of the single module that it was up to 3.11."""
    package = importlib.import_module(PACKAGE)
    modules = [package]
    for found in pkgutil.iter_modules(getattr(package, "__path__", [])):
        if found.name.startswith("test_"):
            modules.append(importlib.import_module(f"{PACKAGE}.{found.name}"))
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and has_tests(value)
        if value.__module__ == module.__name__
    ]


def has_tests(case: type) -> bool:
    return any(name.startswith("test") for name in dir(case))


def other_model(case: type[unittest.TestCase]) -> str | None:
    """Return why a class is not about threads, processes and futures, or None if it is."""
    names = [case.__name__, case.__module__, *(base.__name__ for base in case.__mro__)]
    kinds = (kind for kind in skips.OTHER_MODELS if any(kind in name for name in names))
    return next(kinds, None)


def run(classes: list[type[unittest.TestCase]], waits: str, only: list[str]) -> int:
    """Run the classes and say what was run and what was not."""
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    left_out: dict[str, int] = {}
    for case in classes:
        kind, names = other_model(case), loader.getTestCaseNames(case)
        if only and case.__name__ not in only:
            names = [name for name in names if f"{case.__name__}.{name}" in only]
        if kind is not None:
            left_out[kind] = left_out.get(kind, 0) + (0 if only else len(names))
            continue
        for name in names:
            reason = skips.reason_not_to_run(f"{case.__name__}.{name}", waits)
            test = case(name)
            if reason:
                setattr(test, name, unittest.skip(reason)(lambda: None))
            suite.addTest(test)
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    report(result, waits, left_out)
    return 0 if result.wasSuccessful() and result.testsRun else 1


def report(result: unittest.TestResult, waits: str, left_out: dict[str, int]) -> None:
    """Print the figures, and every skip with its reason."""
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    print(
        f"Python {sys.version.split()[0]}, wait and as_completed of {waits}: "
        f"{result.testsRun} tests, {passed} passed, {failed} failed, {len(result.skipped)} skipped"
    )
    for test, reason in result.skipped:
        print(f"  skipped {test.id()}: {reason}")
    for kind, number in left_out.items():
        print(f"  not run: {number} tests of {kind} executors: {skips.OTHER_MODELS[kind]}")


if __name__ == "__main__":
    sys.exit(main())
