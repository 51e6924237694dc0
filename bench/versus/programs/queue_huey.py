"""What huey runs and sends. Told by the environment which server or file and which queue to use."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey, SqliteHuey
from notes import write

BROKER, NAME, RESULTS = (
    os.environ["QUEUE_BROKER"],
    os.environ["QUEUE_NAME"],
    bool(os.environ["QUEUE_RESULTS"]),
)

huey = (
    SqliteHuey(NAME, filename=BROKER.partition(":///")[2], results=RESULTS)
    if BROKER.startswith("sqlite")
    else RedisHuey(NAME, url=BROKER, results=RESULTS)
)


def returns() -> bool:
    # Else there is nothing to store, for it stores no None.
    return True


nothing = huey.task()(returns)


@huey.task()
def note(path: str) -> None:
    write(path)


def send(task: Any, *args: Any) -> Any:
    return task(*args)


def send_later(task: Any, seconds: float) -> None:
    task.schedule(delay=seconds)


def wait(result: Any) -> None:
    result.get(blocking=True, timeout=60)
