"""What both sides run: the same functions, registered under the same names with Celery and with us."""

import os
import time
from pathlib import Path

OPTIONS = {
    "broker": os.environ.get("INTEROP_BROKER", "memory://"),
    "results": os.environ.get("INTEROP_RESULTS", ""),
}
ACCEPT = ["json", "msgpack", "yaml", "pickle"]


class Odd(Exception):
    """An error that only its worker knows."""


def register(task):
    """Register all tasks; `task` is the decorator of the one application or of the other."""

    @task(name="interop.add")
    def add(a, b=0):
        return a + b

    @task(name="interop.echo")
    def echo(*args, **kwargs):
        return [list(args), kwargs]

    @task(name="interop.fail")
    def fail(text):
        raise ValueError(text, 7)

    @task(name="interop.fail_oddly")
    def fail_oddly():
        raise Odd("nobody else has this class")

    @task(name="interop.retry", bind=True, max_retries=5)
    def retry(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=0)
        return self.request.retries

    @task(name="interop.give_up", bind=True, max_retries=1)
    def give_up(self):
        # Not at once: Celery notes the retry after sending it, perhaps over the failure that came of it.
        raise self.retry(exc=KeyError("out of patience"), countdown=0.5)

    @task(name="interop.about", bind=True)
    def about(self):
        request = self.request
        return {
            "id": request.id,
            "root_id": request.root_id,
            "eta": request.eta,
            "expires": request.expires,
            "timelimit": list(request.timelimit or (None, None)),
            "priority": request.delivery_info.get("priority"),
            "tenant": (request.headers or {}).get("x-tenant"),
            "pid": os.getpid(),
        }

    @task(name="interop.note", ignore_result=True)
    def note(path):
        Path(path).write_text("ran")

    @task(name="interop.linger")
    def linger(path):
        Path(path).write_text(f"{os.getpid()} ran")
        time.sleep(60)

    @task(name="interop.nap")
    def nap(path):
        Path(path).write_text("ran")
        return time.time()
