"""Tasks on threads."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from manyhands import _core
from manyhands.executors.base import Executor, _Hands, _start_thread

__all__ = ["ThreadExecutor"]

_numbers = itertools.count()


class ThreadExecutor(Executor):
    """Runs functions on a pool of threads: a drop-in for ``concurrent.futures.ThreadPoolExecutor``.

    Threads start when there is work for them. A task that passes its time limit fails with `TaskTimeout` at
    once; its function is interrupted at its next bytecode, and its place is given to a fresh thread, so that
    a hung call never costs capacity. What is queued at the interpreter's exit still runs.

    Args:
        workers: The most threads; by default as many as processors (by affinity and container quota) plus 4,
            at most 32.
        initializer: Called in each thread before its first task, with `initargs`. If it raises, the executor
            is broken: every task fails with `BrokenInitializer`.
        initargs: The arguments of `initializer`.
        name: What thread names begin with.

    Raises:
        ValueError: `workers` is not positive.
        TypeError: `initializer` is not callable.

    Example:
        >>> import manyhands as mh
        >>> with mh.ThreadExecutor(4) as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
    """

    model: ClassVar[str] = "thread"

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        name: str | None = None,
    ) -> None:
        if workers is None:
            workers = min(32, _core.available_processors() + 4)
        if workers < 1:
            raise ValueError(f"could not make the executor: found workers={workers}, expected 1 or more")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"could not make the executor: the initializer {initializer!r} is not callable")
        self.capacity = workers
        prefix = name or f"ThreadExecutor-{next(_numbers)}"
        self._hands, self._name = _Hands(), prefix
        hands = weakref.ref(self._hands)
        numbers = itertools.count()

        # A closure without `self`: the workers must not keep the executor alive.
        def spawn(hand: _core.Thread) -> None:
            _start_thread(hands, hand, hand.run, f"{prefix}_{next(numbers)}", initializer, tuple(initargs))

        self._open_threads(workers, spawn)
