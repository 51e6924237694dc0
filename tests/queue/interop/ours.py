"""Our application."""

from jobs import ACCEPT, OPTIONS, register

import manyhands as mh

app = mh.Queue(
    "ours", broker=OPTIONS["broker"], results=OPTIONS["results"], accept=ACCEPT, default_queue="ours"
)


def task(max_retries=None, **options):
    return app.task(**options, **({} if max_retries is None else {"retries": max_retries}))


register(task)
