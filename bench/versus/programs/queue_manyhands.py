"""What we run and send. Told by the environment which server or file and which queue to use."""

from __future__ import annotations

import os
from typing import Any

from notes import write

import manyhands as mh

BROKER, RESULTS = os.environ["QUEUE_BROKER"], os.environ["QUEUE_RESULTS"]

queue = mh.Queue(
    "bench",
    broker=BROKER,
    results=RESULTS,
    default_queue=os.environ["QUEUE_NAME"],
    ignore_result=not RESULTS,
)


@queue.task
def nothing() -> None:
    pass


@queue.task(ignore_result=True)
def note(path: str) -> None:
    write(path)


def send(task: Any, *args: Any) -> Any:
    return task.delay(*args)


def send_many(task: Any, number: int) -> None:
    task.delay_many(() for _ in range(number))


def send_later(task: Any, seconds: float) -> None:
    task.apply_async(countdown=seconds)


def wait(result: Any) -> None:
    result.get(timeout=60)
