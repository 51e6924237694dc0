"""Any function on the workers of a queue, behind the face of an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from manyhands.executors._cluster import _ClusterExecutor
from manyhands.queue._calls import CALL, reference
from manyhands.queue.app import Queue
from manyhands.randomness import _seed

__all__ = ["QueueExecutor"]

_IN_FLIGHT = 256


class QueueExecutor(_ClusterExecutor):
    """Runs functions on the workers of a task queue.

    ``mh.executor("redis://host:6379/0")`` makes one, and so do ``sqlite:///…``, ``amqp://…`` and
    ``memory://``. Policies, futures, `map` and `TaskGroup` are the same as everywhere. Functions are sent by
    their names, never as code: each must stand at the top of a module that the workers have, too. A worker
    calls only what its application accepts, see `accept_calls` of `mh.Queue`.

    Arguments and results travel as JSON, so that a tuple arrives as a list; ``serializer="pickle"`` sends
    any object, to workers that accept pickle. A task that is cancelled or passes its time limit is revoked:
    it does not begin any more, but one that runs does so to its end.

    Args:
        address: Where the messages are, as for `mh.Queue`.
        workers: How many tasks are on their way at once. Time limits count from when a task is sent.
        name: What the tasks' thread here is called.
        queue: The name of the queue that messages go to.
        results: Where results are, as for `mh.Queue`.
        serializer: How arguments are written.
        **settings: Other settings of `mh.Queue`.

    Raises:
        TypeError: From `submit` and `map`: a function that has no name of its own in a module.
        ValueError: No such address, or `workers` is not positive.

    Example:
        >>> import manyhands as mh
        >>> with mh.executor("memory://calls") as pool:
        ...     pool.capacity
        256
    """

    model: ClassVar[str] = "queue"

    def __init__(
        self,
        address: str,
        workers: int | None = None,
        *,
        name: str | None = None,
        queue: str = "celery",
        results: str | None = None,
        serializer: str = "json",
        **settings: Any,
    ) -> None:
        self._check(workers)
        app = Queue(
            "executor",
            address,
            results,
            default_queue=queue,
            serializer=serializer,
            **{"accept": ("json", serializer), **settings},
        )
        if app.results is None:
            raise ValueError("could not make the executor: found no place for results, expected one")
        self._join(_Link(app), workers or _IN_FLIGHT, name)

    def _fitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function) or isinstance(function, _Sent):
            return function
        return _Sent(self._link, function)  # type: ignore[arg-type]


class _Sent:
    """A function whose calls are sent, in the form that an event loop takes."""

    def __init__(self, link: _Link, function: Callable[..., Any]) -> None:
        self._link, self._reference = link, reference(function)
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._link.call(self._reference, args, kwargs)


class _Link:
    """A queue as a cluster."""

    def __init__(self, app: Queue) -> None:
        self._app = app

    async def call(self, wanted: str, args: Any, kwargs: dict[str, Any]) -> Any:
        result = await self._app._asend(CALL, (wanted, args, kwargs, _seed.get(None)), {}, {})
        try:
            return await result
        except asyncio.CancelledError:
            self._app._broker.begin_revoke([result.id], True)
            raise
        finally:
            # Nobody else knows of it.
            self._app._forget_later(result.id)

    async def run(self, call: Callable[[], Any], name: str) -> Any:
        """Not the way of a queue, which sends names."""
        raise TypeError(f"could not send `{name}` to a queue: it is no function with a name of its own")

    def close(self) -> None:
        """Leave the connections to whoever shares them."""
