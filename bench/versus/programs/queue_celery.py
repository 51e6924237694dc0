"""What Celery runs and sends. Told by the environment which servers and which queue to use."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from notes import write

BROKER, RESULTS = os.environ["QUEUE_BROKER"], os.environ["QUEUE_RESULTS"]

app = Celery("bench", broker=BROKER, backend=RESULTS or None)
app.conf.task_default_queue = os.environ["QUEUE_NAME"]
app.conf.task_ignore_result = not RESULTS
if BROKER.startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}


@app.task
def nothing() -> None:
    pass


@app.task(ignore_result=True)
def note(path: str) -> None:
    write(path)


def send(task: Any, *args: Any) -> Any:
    return task.delay(*args)


def send_later(task: Any, seconds: float) -> None:
    task.apply_async(countdown=seconds)


def wait(result: Any) -> None:
    result.get(timeout=60)
