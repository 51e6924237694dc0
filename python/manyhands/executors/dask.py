"""Tasks on a Dask cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

from manyhands.errors import WorkerDied
from manyhands.executors._cluster import _ClusterExecutor
from manyhands.executors.adapters import _imported

__all__ = ["DaskExecutor"]


class DaskExecutor(_ClusterExecutor):
    """Runs functions, plain ones and ``async def`` ones, on a Dask cluster that is already there.

    ``mh.executor("dask://host:port")`` makes one. Policies, futures, `map` and `TaskGroup` are the same as
    everywhere; workers need Dask, but not manyhands. Functions, arguments and results are pickled by Dask.

    A task that is cancelled or passes its time limit is cancelled in the cluster: there it is dropped if it
    has not begun. Dask cannot stop one that runs; its result is thrown away, and until it returns it takes
    up a thread of a Dask worker. If a Dask worker dies, Dask itself runs the task on another one, up to
    ``distributed.scheduler.allowed-failures`` times, whatever `retries` says. Then the task fails with
    `WorkerDied`.

    Args:
        address: Where the scheduler is: "dask://host:port", "dask+" and an address as Dask writes it, as in
            "dask+tls://host:port", or a ``distributed.Client``, which is left open.
        workers: How many tasks are in the cluster at once; by default as many as it has threads now, at
            least 1. Time limits count from when a task goes there.
        name: What the tasks' thread here is called.
        **options: What ``distributed.Client`` takes, as security and timeout.

    Raises:
        ConnectionError: There is no scheduler at the address.
        ModuleNotFoundError: Dask is not installed: ``pip install manyhands[dask]``.
        ValueError: `workers` is not positive.

    Example:
        >>> import manyhands as mh
        >>> from distributed import LocalCluster
        >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        ...     with mh.executor("dask+" + cluster.scheduler_address) as pool:
        ...         pool.submit(pow, 2, 10).result()
        1024
    """

    model: ClassVar[str] = "dask"

    def __init__(
        self, address: Any, workers: int | None = None, *, name: str | None = None, **options: object
    ) -> None:
        self._check(workers)
        distributed = _imported("distributed", "dask", "connect to a Dask cluster")
        is_ours = isinstance(address, str)
        client = _connected(distributed, address, options) if is_ours else address
        if workers is None:
            workers = max(1, sum(client.nthreads().values()))
        self._join(_Link(client, is_ours, distributed.KilledWorker), workers, name)


def _connected(distributed: Any, address: str, options: dict[str, object]) -> Any:
    _, _, place = address.partition("://")
    scheme = address.partition("://")[0].removeprefix("dask").removeprefix("+") or "tcp"
    try:
        return distributed.Client(f"{scheme}://{place}", set_as_default=False, **options)
    except OSError as error:
        raise ConnectionError(f"could not connect to the Dask scheduler at `{place}`: {error}") from error


class _Link:
    """A Dask client. It has an event loop of its own, in a thread of its own."""

    def __init__(self, client: Any, is_ours: bool, killed: Any) -> None:
        self._client, self._is_ours, self._killed = client, is_ours, killed

    async def run(self, call: Callable[[], Any], name: str) -> Any:
        if self._client.status != "running":
            raise ConnectionError(f"could not run `{name}` on Dask: the client is {self._client.status}")
        there = asyncio.run_coroutine_threadsafe(self._run(call, name), self._client.loop.asyncio_loop)
        return await asyncio.wrap_future(there)

    async def _run(self, call: Callable[[], Any], name: str) -> Any:
        try:
            future = self._client.submit(call, key=f"{name}-{uuid.uuid4().hex}", pure=False)
        except Exception as error:
            raise TypeError(
                f"could not send a call of `{name}` to Dask: {error.__cause__ or error}"
            ) from error
        try:
            return await future
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            if getattr(error, "reason", None) == "scheduler-connection-lost":
                raise ConnectionError(f"lost the Dask scheduler while `{name}` ran") from error
            await future.cancel()
            raise asyncio.CancelledError from error
        except self._killed as error:
            if error.task != future.key:  # that of a task which this one gave to Dask, and waited for
                raise
            raise WorkerDied(name, worker=f"Dask's worker `{error.last_worker.address}`") from error

    def close(self) -> None:
        if self._is_ours:
            self._client.close()
