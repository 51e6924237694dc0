"""Executors by name: the one place where a word becomes an executor."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

from manyhands import _core

if TYPE_CHECKING:
    from manyhands.executors.async_ import AsyncExecutor
    from manyhands.executors.base import Executor
    from manyhands.executors.process import ProcessExecutor
    from manyhands.executors.thread import ThreadExecutor

__all__ = ["MODELS", "executor"]

# Each imports its class when it makes one: nobody needs all of them.


def _thread(workers: int | None, **options: Any) -> Executor:
    from manyhands.executors.thread import ThreadExecutor

    return ThreadExecutor(workers, **options)


def _process(workers: int | None, **options: Any) -> Executor:
    from manyhands.executors.process import ProcessExecutor

    return ProcessExecutor(workers, **options)


def _async(workers: int | None, **options: Any) -> Executor:
    from manyhands.executors.async_ import AsyncExecutor

    return AsyncExecutor(**options) if workers is None else AsyncExecutor(concurrency=workers, **options)


def _process_async(workers: int | None, concurrency: int = 100, **options: Any) -> Executor:
    return _process(workers, concurrency=concurrency, **options)


def _dask(address: str, workers: int | None, **options: Any) -> Executor:
    from manyhands.executors.dask import DaskExecutor

    return DaskExecutor(address, workers, **options)


def _ray(address: str, workers: int | None, **options: Any) -> Executor:
    from manyhands.executors.ray import RayExecutor

    return RayExecutor(address, workers, **options)


def _queue(address: str, workers: int | None, **options: Any) -> Executor:
    # Of a higher layer, which has the worker that runs on executors: nobody here may need it to be imported.
    made: Executor = import_module("manyhands.queue.executor").QueueExecutor(address, workers, **options)
    return made


_MAKERS: dict[str, Callable[..., Executor]] = {
    "thread": _thread,
    "process": _process,
    "async": _async,
    "process+async": _process_async,
}

MODELS = tuple(_MAKERS)
"""The names of the executors of this machine."""

# By what stands before "://" in an address, up to a "+" if there is one.
_CONNECTORS: dict[str, Callable[..., Executor]] = {
    "dask": _dask,
    "ray": _ray,
    "redis": _queue,
    "rediss": _queue,
    "amqp": _queue,
    "amqps": _queue,
    "sqlite": _queue,
    "memory": _queue,
}

if TYPE_CHECKING:

    @overload
    def executor(
        model: Literal["thread"], /, workers: int | None = None, **options: Any
    ) -> ThreadExecutor: ...
    @overload
    def executor(
        model: Literal["process", "process+async"], /, workers: int | None = None, **options: Any
    ) -> ProcessExecutor: ...
    @overload
    def executor(model: Literal["async"], /, workers: int | None = None, **options: Any) -> AsyncExecutor: ...
    @overload
    def executor(model: str, /, workers: int | None = None, **options: Any) -> Executor: ...


def executor(model: str, /, workers: int | None = None, **options: object) -> Executor:
    """Make an executor by the name of its model, as a setting or an argument of a program may give it.

    Args:
        model: "thread", "process", "async", "process+async" (event loops in worker processes, for ``async
            def`` functions that also compute), or the address of a cluster: "dask://host:port",
            "ray://host:port", see `DaskExecutor` and `RayExecutor`; "redis://host:port/0", "amqp://host/",
            "sqlite:///file" for the workers of a task queue, see `QueueExecutor`.
        workers: How many tasks may run at once: threads, processes, coroutines in flight on each event loop,
            or tasks in the cluster. By default as the executor's class has it.
        **options: What the executor's class takes.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
        ConnectionError: No cluster at that address.
        TypeError: An option that the executor's class does not take.

    Example:
        >>> import manyhands as mh
        >>> with mh.executor("thread", workers=2) as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
    """
    text = model if isinstance(model, str) else ""
    scheme, is_address, _ = text.partition("://")
    if is_address and scheme.partition("+")[0] in _CONNECTORS:
        return _CONNECTORS[scheme.partition("+")[0]](model, workers, **options)
    if text in _MAKERS:
        return _MAKERS[text](workers, **options)
    known = (*MODELS, *(f"{name}://…" for name in _CONNECTORS))
    raise ValueError(f"could not make an executor: found {_shown(model)}, expected {_listed(known)}")


def _needs_loop(model: object, function: Callable[..., Any]) -> bool:
    """Whether the function is ``async def``, and executors by that name run plain ones."""
    return model in ("thread", "process") and _core.is_coroutine_function(function)


def _shown(model: object) -> str:
    """The name as it was given, but not what may stand in an address: a password."""
    if isinstance(model, str) and "://" in model:
        return f'an address that begins with "{model.partition("://")[0]}://"'
    return repr(model)


def _listed(names: tuple[str, ...]) -> str:
    *others, last = (f'"{name}"' for name in names)
    return f"{', '.join(others)} or {last}"
