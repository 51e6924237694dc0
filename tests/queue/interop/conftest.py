"""For each broker a worker of Celery and one of ours, started once; tests send as the one and the other."""

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import pools

HERE = Path(__file__).parent
WORKERS = {
    "theirs": ["-m", "celery", "-A", "theirs", "worker", "-c", "2", "--loglevel", "INFO", "-n", "theirs@%h"],
    "ours": ["-m", "manyhands.cli", "worker", "-A", "ours:app", "-Q", "ours", "-c", "2"],
}


@dataclass
class System:
    """A broker, and an application of each kind that has a worker there."""

    broker: str
    apps: dict[str, Any]
    logs: dict[str, Path]

    def log(self, side):
        return self.logs[side].read_text(errors="replace")[-4000:]


@dataclass
class Way:
    """From a producer of one kind to a worker of the other."""

    system: System
    sender: str
    worker: str

    @property
    def app(self):
        return self.system.apps[self.sender]

    def send(self, name, *args, kwargs=None, **options):
        """Call a task; the result that the sender's library gives."""
        task = self.app.tasks[f"interop.{name}"]
        return task.apply_async(args, kwargs or {}, queue=self.worker, **options)

    def get(self, name, *args, **options):
        return self.send(name, *args, **options).get(timeout=40)


@pytest.fixture(scope="module", params=["redis", "rabbit"])
def system(request, tmp_path_factory):
    server = request.getfixturevalue(f"{request.param}_server")
    folder = tmp_path_factory.mktemp("interop")
    results = server.url if request.param == "redis" else "rpc://"
    environment = {
        "INTEROP_BROKER": server.url,
        "INTEROP_RESULTS": results,
        "PYTHONPATH": str(HERE),
        "C_FORCE_ROOT": "yes",  # else Celery accepts no pickle from root, who runs these tests in a container
    }
    logs = {side: folder / side for side in WORKERS}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(HERE)
        with working("theirs", logs), working("ours", logs):
            system = System(request.param, applications(), logs)
            yield system
            close(system.apps)


@contextmanager
def working(side, logs):
    with logs[side].open("wb") as log:
        worker = subprocess.Popen([sys.executable, *WORKERS[side]], stdout=log, stderr=log, env=os.environ)
    try:
        yield
    finally:
        worker.terminate()
        try:
            worker.wait(timeout=20)
        finally:
            worker.kill()


def applications():
    """Both applications, anew: they read where the broker is when they are imported."""
    for name in ("jobs", "theirs", "ours"):
        sys.modules.pop(name, None)
    return {side: importlib.import_module(side).app for side in WORKERS}


def close(apps):
    """Close what Celery would leave to the collector of garbage, which warns of it."""
    apps["ours"].close()
    theirs = apps["theirs"]
    consumer = theirs.backend.result_consumer
    consumer.stop()
    for connection in (getattr(consumer, "_connection", None), getattr(consumer, "_pubsub", None)):
        if connection is not None:
            connection.close()
    if hasattr(theirs.backend, "client"):
        theirs.backend.client.close()
    pools.reset()
    theirs.close()


@pytest.fixture(scope="module", params=["from_celery", "to_celery"])
def way(request, system):
    return Way(system, *(("theirs", "ours") if request.param == "from_celery" else ("ours", "theirs")))
