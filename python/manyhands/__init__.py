"""Every way of doing many things at once in Python, under one API.

The layers, lowest first: `errors`; the Rust core; `futures`; `executors` (threads, processes, event loops);
what is built on them: `maps`, task groups, commands; `queue`; the command line. A module knows only those
before it.

Each name is imported when it is first used. No module is called like a name: `map` is always the function.
"""

from manyhands._lazy import imported_on_demand

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from manyhands import queue as queue
    from manyhands import shared as shared
    from manyhands import sync as sync
    from manyhands._core import Outcome, Policy, Receipt
    from manyhands.blocking import detect_blocking
    from manyhands.commands import CommandFailed, map_commands, run_command
    from manyhands.errors import (
        BlockingCallWarning,
        BrokenInitializer,
        BrokerError,
        Cancelled,
        ChannelClosed,
        ContentRefused,
        DeadlockError,
        ExecutorClosed,
        LockOrderWarning,
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
    from manyhands.maps import MapIterator, map, starmap
    from manyhands.queue import Queue
    from manyhands.randomness import item_random, item_seed
    from manyhands.summary import MapSummary
else:
    __getattr__, __dir__ = imported_on_demand(
        __name__,
        (
            "blocking",
            "commands",
            "errors",
            "executors",
            "futures",
            "group",
            "maps",
            "queue",
            "randomness",
            "shared",
            "summary",
            "sync",
        ),
        {
            "AsyncExecutor": "executors",
            "BlockingCallWarning": "errors",
            "BrokenInitializer": "errors",
            "BrokerError": "errors",
            "Cancelled": "errors",
            "ChannelClosed": "errors",
            "ContentRefused": "errors",
            "CommandFailed": "commands",
            "DeadlockError": "errors",
            "Executor": "executors",
            "ExecutorClosed": "errors",
            "Future": "futures",
            "LockOrderWarning": "errors",
            "ManyhandsError": "errors",
            "MapIterator": "maps",
            "MapSummary": "summary",
            "Outcome": "_core",
            "Policy": "_core",
            "ProcessExecutor": "executors",
            "Queue": "queue",
            "Receipt": "_core",
            "TaskFailureWarning": "errors",
            "TaskGroup": "group",
            "TaskInterrupted": "errors",
            "TaskTimeout": "errors",
            "ThreadExecutor": "executors",
            "UnsendableError": "errors",
            "WorkerDied": "errors",
            "WrongExecutor": "errors",
            "as_completed": "futures",
            "detect_blocking": "blocking",
            "executor": "executors",
            "gather": "futures",
            "item_random": "randomness",
            "item_seed": "randomness",
            "map": "maps",
            "map_commands": "commands",
            "race": "futures",
            "register_joblib": "executors",
            "run_command": "commands",
            "starmap": "maps",
            "wait": "futures",
        },
    )

__all__ = [
    "AsyncExecutor",
    "BlockingCallWarning",
    "BrokenInitializer",
    "BrokerError",
    "Cancelled",
    "ChannelClosed",
    "CommandFailed",
    "ContentRefused",
    "DeadlockError",
    "Executor",
    "ExecutorClosed",
    "Future",
    "LockOrderWarning",
    "ManyhandsError",
    "MapIterator",
    "MapSummary",
    "Outcome",
    "Policy",
    "ProcessExecutor",
    "Queue",
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
    "detect_blocking",
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
