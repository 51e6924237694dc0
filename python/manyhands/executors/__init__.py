"""Executors: one face for every way of running tasks."""

from manyhands.executors.adapters import register_joblib
from manyhands.executors.async_ import AsyncExecutor
from manyhands.executors.base import Executor, Statistics, TimesSummary
from manyhands.executors.by_name import MODELS, executor
from manyhands.executors.process import ProcessExecutor
from manyhands.executors.thread import ThreadExecutor

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
