"""Coroutines submitted from a thread to an event loop in another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from functools import partial
from typing import Any

import manyhands as mh

from ..runner import Metric, Subject, Times
from .work import Stopwatch

Function = Callable[[], Coroutine[Any, Any, None]]


async def return_at_once() -> None:
    """Do nothing."""


async def wait_a_turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


@contextmanager
def loop_in_a_thread() -> Any:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def peer(function: Function, size: int) -> dict[str, float]:
    with loop_in_a_thread() as loop:
        return measured(lambda: asyncio.run_coroutine_threadsafe(function(), loop), size)


def ours(function: Function, size: int) -> dict[str, float]:
    with mh.AsyncExecutor() as pool:
        return measured(lambda: pool.submit(function), size)


def measured(submit: Callable[[], Any], size: int) -> dict[str, float]:
    submit().result()
    with Stopwatch() as watch:
        for future in [submit() for _ in range(size)]:
            future.result()
    return {"task": watch.seconds / size}


def subject(name: str, title: str, function: Function) -> Subject:
    return Subject(
        name=name,
        title=title,
        how=(
            "Coroutines submitted to one event loop from the main thread, then `future.result()` for "
            "each; time per coroutine."
        ),
        size=30_000,
        peers={"asyncio.run_coroutine_threadsafe": partial(peer, function)},
        ours=partial(ours, function),
        metrics=[Metric("task", "", "s", [Times(3)])],
    )


SUBJECTS = (
    subject("coroutine", "AsyncExecutor, coroutine that returns at once", return_at_once),
    subject("coroutine-turn", "AsyncExecutor, coroutine that awaits sleep(0)", wait_a_turn),
)
