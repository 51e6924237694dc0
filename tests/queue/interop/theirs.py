"""The application of Celery."""

from functools import partial

from celery import Celery
from jobs import ACCEPT, OPTIONS, register

app = Celery("theirs", broker=OPTIONS["broker"], backend=OPTIONS["results"] or None)
app.conf.update(
    accept_content=ACCEPT,
    result_accept_content=ACCEPT,
    task_default_queue="theirs",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
# Else it is shared with the application of the next broker.
register(partial(app.task, shared=False, lazy=False))
