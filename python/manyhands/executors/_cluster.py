"""What executors of other people's clusters share: our engine decides, the cluster computes.

A task is a coroutine on an event loop here, that gives the call to the cluster and awaits the answer. So
policies, the gate, cancellation, statistics and shutdown are those of an `AsyncExecutor`, and no thread waits
for a task. A coroutine that is stopped has its call cancelled in the cluster.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from manyhands import _core
from manyhands.executors.async_ import AsyncExecutor
from manyhands.randomness import _seed as item_seed

if TYPE_CHECKING:
    from manyhands.futures import Future

__all__: list[str] = []

P = ParamSpec("P")
T = TypeVar("T")
_numbers = itertools.count()


class Link(Protocol):
    """A connection to a cluster."""

    async def run(self, call: Callable[[], Any], name: str) -> Any:
        """Have a call made by the cluster, and return what it gives; cancelled, cancel it there.

        Raises:
            WorkerDied: The process there that made the call.
            ConnectionError: The cluster is gone.
        """

    def close(self) -> None:
        """Leave the cluster; a second time does nothing."""


class _ClusterExecutor(AsyncExecutor):
    """Runs functions on a cluster that it has a link to."""

    @staticmethod
    def _check(workers: int | None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"could not make the executor: found workers={workers}, expected 1 or more")

    def _join(self, link: Link, workers: int, name: str | None) -> None:
        self._link = link
        self._open(1, workers, name=name or f"{type(self).__name__}-{next(_numbers)}", finish=link.close)

    def _fitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return _Remote(self._link, function) if callable(function) else function

    if TYPE_CHECKING:

        def submit(  # type: ignore[override]
            self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
        ) -> Future[T]: ...

    else:

        def submit(self, function, /, *args, **kwargs):  # noqa: ANN001, ANN202, ANN002, ANN003
            return super().submit(self._fitted(function), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and leave the cluster when all are done.

        Args:
            wait: Return when that has happened.
            cancel_futures: Cancel the tasks that have not begun.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait or not self._hands:  # else the loop's thread does it when it ends
            self._link.close()


class _Remote:
    """A function whose calls are made by the cluster, in the form that an event loop takes."""

    def __init__(self, link: Link, function: Callable[..., Any]) -> None:
        self._link, self._function = link, function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seed = item_seed.get(None)
        function = self._function if seed is None else _seeded(self._function, seed)
        return await self._link.run(functools.partial(function, *args, **kwargs), self.__name__)


def _seeded(function: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """The function as one that finds the item's seed where it runs, if manyhands is there.

    Nested functions, for such are pickled whole; where there is no manyhands nobody can ask for the seed.
    """

    def sow() -> None:
        try:
            from manyhands.randomness import _seed
        except ImportError:
            return
        _seed.set(seed)

    def call(*args: Any, **kwargs: Any) -> Any:
        def sown() -> Any:
            sow()
            return function(*args, **kwargs)

        return contextvars.copy_context().run(sown)

    async def call_on_loop(*args: Any, **kwargs: Any) -> Any:
        sow()
        return await function(*args, **kwargs)

    return call_on_loop if _core.is_coroutine_function(function) else call
