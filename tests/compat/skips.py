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

MEMBERS = "it looks at private members of ProcessPoolExecutor: {}"
BREAKS = "it asserts that the whole pool breaks when {}, which here fails the one task"

PROCESS_SKIPS = {
    "ProcessPoolExecutorTest.test_killed_child": BREAKS.format("a worker is killed"),
    "ProcessPoolExecutorTest.test_python_finalization_error": BREAKS.format("its second thread cannot start"),
    "ProcessPoolExecutorTest.test_saturation": MEMBERS.format("_processes"),
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": MEMBERS.format("_processes"),
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": MEMBERS.format("_processes"),
    "ProcessPoolExecutorTest.test_max_tasks_per_child": MEMBERS.format("_processes"),
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": MEMBERS.format(
        "_mp_context"
    ),
    "ExecutorDeadlockTest.test_error_at_task_unpickle": BREAKS.format("a worker cannot read arguments"),
    "ExecutorDeadlockTest.test_exit_at_task_unpickle": BREAKS.format("reading arguments raises SystemExit"),
    "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler": BREAKS.format(
        "a result cannot be read"
    ),
    "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler": BREAKS.format(
        "reading a result raises SystemExit"
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": MEMBERS.format("_executor_manager_thread"),
    "ProcessPoolShutdownTest.test_processes_terminate": MEMBERS.format("_processes"),
    "ProcessPoolShutdownTest.test_context_manager_shutdown": MEMBERS.format("_processes"),
    "ProcessPoolShutdownTest.test_del_shutdown": MEMBERS.format("_processes, _call_queue"),
    "ProcessPoolShutdownTest.test_shutdown_no_wait": MEMBERS.format("_processes, _call_queue"),
}
"""For each of the ways in which CPython starts processes."""

METHODS = ("Fork", "Forkserver", "Spawn")

SKIPS = (
    *(
        Skip(f"{case}.{test}", "manyhands", CANCELLED_IS_DONE)
        for case in ("ThreadPoolWaitTests", *(f"ProcessPool{method}WaitTest" for method in METHODS))
        for test in ("test_first_completed", "test_first_exception_some_already_complete")
    ),
    *(
        Skip(f"ProcessPool{method}{test}", None, reason)
        for method in METHODS
        for test, reason in PROCESS_SKIPS.items()
    ),
)

OTHER_MODELS = {
    "Interpreter": "it tests InterpreterPoolExecutor, which manyhands has no counterpart of",
}
"""What the names of the test classes of other executors contain."""


def reason_not_to_run(test: str, waits: str) -> str | None:
    """Return why "Class.method" is not run, or None if it is."""
    found = (skip.reason for skip in SKIPS if skip.test == test and skip.waits in (None, waits))
    return next(found, None)


SYNC_SKIPS = {
    "EventTests.test_at_fork_reinit": "it looks at a private member of Event: _cond",
    "ConditionAsRLockTests.test_recursion_count": "a condition has no _recursion_count, CPython's neither",
}
"""The tests of locks and queues that are not run, each with its reason. There are no others."""
