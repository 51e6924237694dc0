"""Executors: one face for every way of running tasks."""

from manyhands._lazy import imported_on_demand

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from manyhands.executors.adapters import register_joblib
    from manyhands.executors.async_ import AsyncExecutor
    from manyhands.executors.base import Executor
    from manyhands.executors.by_name import MODELS, executor
    from manyhands.executors.figures import Statistics, TimesSummary
    from manyhands.executors.process import ProcessExecutor
    from manyhands.executors.thread import ThreadExecutor
else:
    __getattr__, __dir__ = imported_on_demand(
        __name__,
        (),
        {
            "MODELS": "by_name",
            "AsyncExecutor": "async_",
            "Executor": "base",
            "ProcessExecutor": "process",
            "Statistics": "figures",
            "ThreadExecutor": "thread",
            "TimesSummary": "figures",
            "executor": "by_name",
            "register_joblib": "adapters",
        },
    )

__all__ = [
    "MODELS",
    "AsyncExecutor",
    "Executor",
    "ProcessExecutor",
    "Statistics",
    "ThreadExecutor",
    "TimesSummary",
    "executor",
    "register_joblib",
]
