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


TEXT = "it asserts the text of a repr"
PRIVATE = "it looks at a private member: {}"
VALUE = PRIVATE.format("_value, which counts no permit that is on its way")
ROUNDS = "it expects that no round begins before all have left the last one; here a round that passed is over"

ASYNCIO_SKIPS = {
    "LockTests.test_repr": TEXT,
    "EventTests.test_repr": TEXT,
    "ConditionTests.test_repr": TEXT,
    "SemaphoreTests.test_repr": TEXT,
    "BarrierTests.test_repr": TEXT,
    "BarrierTests.test_barrier": TEXT,
    "BarrierTests.test_filling_task_by_task": TEXT,
    "BarrierTests.test_draining_state": TEXT,
    "QueueBasicTests.test_repr": TEXT,
    "QueueBasicTests.test_str": TEXT,
    "LockTests.test_lock_doesnt_accept_loop_parameter": "it asserts an error that names `__init__`",
    "LockTests.test_finished_waiter_cancelled": "it counts turns of the loop: a cancelled task keeps its "
    "place until it runs, so the next one has the lock one turn later",
    "EventTests.test_clear_with_waiters": PRIVATE.format("_waiters, where those wait who were let through"),
    "SemaphoreTests.test_acquire": VALUE,
    "SemaphoreTests.test_acquire_fifo_order_4": VALUE,
    "QueueGetTests.test_get_with_putters": PRIVATE.format("_putters, where it puts a future"),
    "ConditionTests.test_ambiguous_loops": "it asserts that a lock belongs to one event loop",
    "BarrierTests.test_reset_barrier_when_tasks_half_draining": PRIVATE.format("_count"),
    "BarrierTests.test_reset_barrier_when_tasks_half_draining_half_blocking": ROUNDS,
    "BarrierTests.test_reset_barrier_while_tasks_draining": ROUNDS,
    "BarrierTests.test_abort_barrier_when_tasks_half_draining_half_blocking": ROUNDS,
    **{
        f"{kind}{tests}.test_format": PRIVATE.format("_format")
        for kind in ("Queue", "LifoQueue", "PriorityQueue")
        for tests in ("JoinTests", "ShutdownTests")
    },
}
"""Of those of asyncio's locks and queues."""

SINCE = {
    "AsyncioBarrierTests": (3, 11),
    **{f"Asyncio{kind}ShutdownTests": (3, 13) for kind in ("Queue", "LifoQueue", "PriorityQueue")},
}
"""The classes that not every CPython has."""

SYNC_SKIPS = {
    "EventTests.test_at_fork_reinit": "it looks at a private member of Event: _cond",
    "ConditionAsRLockTests.test_recursion_count": "a condition has no _recursion_count, CPython's neither",
} | {f"Asyncio{test}": reason for test, reason in ASYNCIO_SKIPS.items()}
"""The tests of locks and queues that are not run, each with its reason. There are no others."""
