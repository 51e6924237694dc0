"""The tests of CPython that are not run against manyhands, each with its reason. There are no others."""

from typing import NamedTuple


class Skip(NamedTuple):
    """A test that is not run."""

    test: str
    """Class and method, as CPython names them."""
    waits: str | None
    """Only when `wait` and `as_completed` are these; None: always."""
    reason: str


CANCELLED_IS_DONE = (
    "manyhands.wait counts a cancelled future as done, as its done() does; the standard library's wait calls "
    "it pending until a worker has come across it"
)

SKIPS = (
    Skip("ThreadPoolWaitTests.test_first_completed", "manyhands", CANCELLED_IS_DONE),
    Skip("ThreadPoolWaitTests.test_first_exception_some_already_complete", "manyhands", CANCELLED_IS_DONE),
)

OTHER_MODELS = {
    "Process": "it tests ProcessPoolExecutor, which manyhands has no counterpart of yet",
    "Interpreter": "it tests InterpreterPoolExecutor, which manyhands has no counterpart of",
}
"""What the names of the test classes of other executors contain."""


def reason_not_to_run(test: str, waits: str) -> str | None:
    """Return why "Class.method" is not run, or None if it is."""
    found = (skip.reason for skip in SKIPS if skip.test == test and skip.waits in (None, waits))
    return next(found, None)
