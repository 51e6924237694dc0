"""Every way of doing many things at once in Python, under one API.

The layers, lowest first: `errors`; the Rust core; `futures`; `executors` (threads, processes, event loops);
what is built on them: `map`, task groups, commands; the command line. A module knows only those before it.
"""

from manyhands._core import Policy
from manyhands.commands import CommandFailed, map_commands, run_command
from manyhands.errors import (
    BrokenInitializer,
    Cancelled,
    ExecutorClosed,
    ManyhandsError,
    TaskFailureWarning,
    TaskInterrupted,
    TaskTimeout,
    UnsendableError,
    WorkerDied,
    WrongExecutor,
)
from manyhands.executors import (
    AsyncExecutor,
    Executor,
    ProcessExecutor,
    ThreadExecutor,
    executor,
    register_joblib,
)
from manyhands.futures import Future, as_completed, gather, race, wait
from manyhands.group import TaskGroup
from manyhands.map import MapIterator, MapSummary, Outcome, Receipt, map, starmap
from manyhands.randomness import item_random, item_seed

__all__ = [
    "AsyncExecutor",
    "BrokenInitializer",
    "Cancelled",
    "CommandFailed",
    "Executor",
    "ExecutorClosed",
    "Future",
    "ManyhandsError",
    "MapIterator",
    "MapSummary",
    "Outcome",
    "Policy",
    "ProcessExecutor",
    "Receipt",
    "TaskFailureWarning",
    "TaskGroup",
    "TaskInterrupted",
    "TaskTimeout",
    "ThreadExecutor",
    "UnsendableError",
    "WorkerDied",
    "WrongExecutor",
    "as_completed",
    "executor",
    "gather",
    "item_random",
    "item_seed",
    "map",
    "map_commands",
    "race",
    "register_joblib",
    "run_command",
    "starmap",
    "wait",
]
