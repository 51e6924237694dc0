"""The event loop of a worker process that runs coroutines, many at a time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable
from typing import Any

from manyhands import _core
from manyhands.executors import _context
from manyhands.executors._last_frame import of_coroutine

__all__ = ["serve"]


def serve(worker: _core.ProcessWorker) -> None:
    """Run coroutines until the pool wants this process to end."""
    asyncio.run(_Server(worker).serve())


class _Server:
    """Starts what the pool sends, cancels what it no longer wants, answers what has ended."""

    def __init__(self, worker: _core.ProcessWorker) -> None:
        self._worker = worker
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        self._is_over = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._worker.fileno(), self._look)
        self._worker.begin()
        self._look()
        await self._is_over.wait()
        loop.remove_reader(self._worker.fileno())

    def _look(self) -> None:
        self._worker.end_sleep()
        while True:
            while (serial := self._worker.take_cancellation()) is not None:
                if serial in self._running:
                    self._cancel(serial)
            while (call := self._worker.take_call()) is not None:
                self._start(*call)
            if self._worker.prepare_sleep():
                break
            self._worker.end_sleep()
        self._end_if_over()

    def _cancel(self, serial: int) -> None:
        task = self._running[serial]
        frame = of_coroutine(task.get_coro())
        if frame is not None:
            self._worker.say_where(serial, frame)
        task.cancel()

    def _start(
        self,
        serial: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        variables: bytes | None,
    ) -> None:
        context = contextvars.copy_context()
        if variables is not None:
            context.run(_context.apply, variables)
        began = time.monotonic_ns()
        coroutine = self._run(serial, began, function, args, kwargs or {})
        # The task takes a copy of the context in which it is made.
        task = context.run(asyncio.get_running_loop().create_task, coroutine)
        self._running[serial] = task
        task.add_done_callback(functools.partial(self._ended, serial, began))

    async def _run(
        self,
        serial: int,
        began: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            coroutine = function(*args, **kwargs)
            # Memory that they lie in is given back when the function has no use for them any more.
            del args, kwargs
            value = await coroutine
        except BaseException as error:
            # An exit is an exception of the task, not the end of the loop.
            self._answer(serial, began, error, True)
        else:
            self._answer(serial, began, value, False)

    def _answer(self, serial: int, began: int, outcome: object, has_failed: bool) -> None:
        del self._running[serial]
        self._worker.answer_call(serial, outcome, has_failed, time.monotonic_ns() - began)

    def _ended(self, serial: int, began: int, task: asyncio.Task[None]) -> None:
        if serial in self._running:
            # It was cancelled before it began.
            self._answer(serial, began, asyncio.CancelledError(), True)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._worker.is_stopped and not self._running:
            self._is_over.set()
