"""Tasks on a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from manyhands.errors import RemoteTraceback, WorkerDied
from manyhands.executors._cluster import _ClusterExecutor
from manyhands.executors.adapters import _imported

__all__ = ["RayExecutor"]

# Ray itself tries for half a minute, and then does not say that nobody listens there.
_SECONDS_TO_REACH_IT = 10


class RayExecutor(_ClusterExecutor):
    """Runs functions, plain ones and ``async def`` ones, on a Ray cluster that is already there.

    ``mh.executor("ray://host:port")`` makes one. Policies, futures, `map` and `TaskGroup` are the same as
    everywhere; workers need Ray, but not manyhands. Functions, arguments and results are pickled by Ray.

    A task that is cancelled or passes its time limit is ended in the cluster, if it runs there with the
    process that runs it. A worker that dies fails its task with `WorkerDied`; what `retries` says is what is
    repeated.

    Args:
        address: "ray://host:port", where the cluster's Ray Client server listens, usually at port 10001;
            the executor has a connection of its own. Or "ray://auto": the cluster that this program is
            connected to, and else the one that runs on this machine or that ``RAY_ADDRESS`` names; the
            connection then is the program's, and stays.
        workers: How many tasks are in the cluster at once; by default as many as it has processors now, at
            least 1. Time limits count from when a task goes there.
        name: What the tasks' thread here is called.
        task_options: What each task needs, as ``options`` of Ray's remote functions takes it: num_cpus,
            num_gpus, resources, max_retries (here 0), …
        **options: What ``ray.init`` takes, as runtime_env and namespace.

    Raises:
        ConnectionError: There is no cluster at the address.
        ModuleNotFoundError: Ray is not installed: ``pip install manyhands[ray]``.
        ValueError: `workers` is not positive.

    Example:
        >>> import manyhands as mh
        >>> with mh.executor("ray://head.example:10001") as pool:  # doctest: +SKIP
        ...     pool.submit(pow, 2, 10).result()
        1024
    """

    model: ClassVar[str] = "ray"

    def __init__(
        self,
        address: str,
        workers: int | None = None,
        *,
        name: str | None = None,
        task_options: Mapping[str, Any] | None = None,
        **options: object,
    ) -> None:
        self._check(workers)
        ray = _imported("ray", "ray", "connect to a Ray cluster")
        context = _connected(ray, address, options)
        try:
            link = _Link(ray, context, {"max_retries": 0, **(task_options or {})})
            self._join(link, workers or link.processors(), name)
        except BaseException:
            if context is not None:
                context.disconnect()
            raise


def _connected(ray: Any, address: str, options: dict[str, object]) -> Any:
    """A connection of our own, or None if that of the program is used."""
    place = address.partition("://")[2]
    try:
        if place == "auto":
            if options or not ray.is_initialized():
                ray.init("auto", **options)
            return None
        found = urlsplit(address)
        socket.create_connection((found.hostname, found.port or 10001), _SECONDS_TO_REACH_IT).close()
        return ray.init(address, allow_multiple=True, **options)
    except OSError as error:
        raise ConnectionError(f"could not connect to the Ray cluster at `{place}`: {error}") from error


class _Link:
    """A connection to Ray, which is the thread's own only as long as it is entered."""

    def __init__(self, ray: Any, context: Any, options: dict[str, Any]) -> None:
        self._ray, self._context = ray, context
        self._is_ours = context is not None
        with self._entered():
            self._remote = ray.remote(**options)(_caller())

    def _entered(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._context is None else self._context

    def processors(self) -> int:
        with self._entered():
            return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    async def run(self, call: Callable[[], Any], name: str) -> Any:
        errors = self._ray.exceptions
        sent = self._sent(call, name)
        try:
            # Shielded, for Ray sets the outcome of a future that was cancelled meanwhile too.
            return await asyncio.shield(asyncio.wrap_future(sent.future()))
        except asyncio.CancelledError:
            with self._entered(), contextlib.suppress(ConnectionError):
                self._ray.cancel(sent, force=True)
            raise
        except errors.TaskCancelledError as error:
            raise asyncio.CancelledError from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, errors.TaskCancelledError):
                raise asyncio.CancelledError from error
            raise error.cause from RemoteTraceback(error.traceback_str)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise WorkerDied(name, worker="a Ray worker") from error
        except ConnectionError as error:
            raise ConnectionError(f"lost the Ray cluster while `{name}` ran: {error}") from error

    def _sent(self, call: Callable[[], Any], name: str) -> Any:
        with self._entered():
            if not self._ray.is_initialized():
                raise ConnectionError(f"could not run `{name}` on Ray: the connection is closed")
            try:
                return self._remote.options(name=name).remote(call)
            except ConnectionError:
                raise
            except Exception as error:
                raise TypeError(
                    f"could not send a call of `{name}` to Ray: {error.__cause__ or error}"
                ) from error

    def close(self) -> None:
        # Once only: Ray would take the second time for the end of a connection that the program has itself.
        if self._is_ours:
            self._is_ours = False
            self._context.disconnect()


def _caller() -> Callable[[Callable[[], Any]], Any]:
    """What runs in the cluster. A nested function, for such are pickled whole: workers need no manyhands."""

    def call(function: Callable[[], Any]) -> Any:
        made = function()
        return asyncio.run(made) if inspect.iscoroutine(made) else made

    return call
