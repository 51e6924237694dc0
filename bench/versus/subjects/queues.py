"""Task queues: how fast tasks are sent and run, how soon a result is back, and how much memory it takes."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..programs.occupied import descendants, held
from ..programs.produce import ENDS
from ..runner import OURS, ROOT, AtMost, Bar, Measure, Metric, Subject, Times

PROGRAMS = ROOT / "bench" / "versus" / "programs"
WORKERS = 2
PATIENCE = 300.0
"""Seconds after which something is broken."""

COMMANDS = {
    "celery": ["-m", "celery", "-A", "queue_celery", "worker", "-c", f"{WORKERS}", "--loglevel", "ERROR"],
    "huey": ["-m", "huey.bin.huey_consumer", "queue_huey.huey", "-w", f"{WORKERS}", "-k", "process", "-q"],
    OURS: ["-m", "manyhands.cli", "worker", "-A", "queue_manyhands:queue", "-c", f"{WORKERS}", "-l", "error"],
}


@functools.cache
def servers() -> Any:
    """The module by which the tests start servers."""
    spec = importlib.util.spec_from_file_location("servers", ROOT / "tests" / "queue" / "servers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def server(kind: str) -> str:
    """The address of a server that runs until the end of this program."""
    undo = ExitStack()
    atexit.register(undo.close)
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
    made = getattr(servers(), {"Redis": "UsualRedis"}.get(kind, kind))
    address: str = undo.enter_context(servers().running(made, folder)).url
    return address


class Line:
    """A queue of its own at a broker, its producers and its worker, by the library of that name."""

    def __init__(self, library: str, broker: str, *, results: bool, folder: str) -> None:
        self.library = library
        address = f"sqlite:///{folder}/jobs.db" if broker == "Sqlite" else server(broker)
        kept = "rpc://" if broker == "Rabbit" else address
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(PROGRAMS),
            "QUEUE_BROKER": address,
            "QUEUE_RESULTS": kept if results else "",
            "QUEUE_NAME": f"bench{uuid.uuid4().hex}",
        }
        self.notes = Path(folder, "notes")

    def produce(self, *what: Any) -> float:
        """Run a producer; return what it has measured."""
        command = [sys.executable, str(PROGRAMS / "produce.py"), f"queue_{self.library}", *map(str, what)]
        done = subprocess.run(command, check=True, env=self.environment, stdout=subprocess.PIPE, text=True)
        return float(done.stdout or 0)

    @contextmanager
    def worker(self) -> Iterator[int]:
        """A worker, by its process id. Killed at the end: nobody needs its queue any more."""
        command = [sys.executable, *COMMANDS[self.library]]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
            try:
                yield process.pid
            except TimeoutError as error:
                output.seek(0)
                raise TimeoutError(f"{error}; the worker said:\n{output.read().decode()[-2000:]}") from None
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def times(self, number: int) -> list[float]:
        """When things happened, as soon as so many have."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.notes.exists() and len(found := self.notes.read_text().split()) >= number:
                return [float(each) for each in found]
            time.sleep(0.01)
        raise TimeoutError(f"{self.library} did not do what it was sent")


@contextmanager
def line(library: str, broker: str, *, results: bool = False) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        yield Line(library, broker, results=results, folder=folder)


def send(library: str, broker: str, size: int) -> dict[str, float]:
    with line(library, broker) as queue:
        alone = queue.produce("send", size)
        # The others have no other way.
        return {"time": alone, "many": queue.produce("many", size) if library == OURS else alone}


def drain(library: str, broker: str, size: int) -> dict[str, float]:
    figures = {}
    for key, results in (("stored", True), ("ignored", False)):
        with line(library, broker, results=results) as queue:
            queue.produce("fill", size, queue.notes)
            with queue.worker():
                times = sorted(queue.times(1 + ENDS))
            figures[key] = (times[-1] - times[0]) / (size + ENDS)
    return figures


def trip(library: str, broker: str, size: int) -> dict[str, float]:
    with line(library, broker, results=True) as queue, queue.worker():
        queue.produce("trip", 20)  # whatever is done only once
        return {"time": queue.produce("trip", size)}


def start(library: str, broker: str, size: int) -> dict[str, float]:
    with line(library, broker) as queue:
        queue.produce("note", queue.notes)
        began = time.time()
        with queue.worker():
            return {"time": queue.times(1)[0] - began}


def memory(library: str, broker: str, size: int) -> dict[str, float]:
    with line(library, broker, results=True) as queue, queue.worker() as process:
        queue.produce("trip", 50)
        idle = settled(process)
        queue.produce("later", size)
        return {"idle": idle, "later": max(settled(process) - idle, 1.0) / size}


def settled(process: int) -> float:
    """The bytes that it and its descendants hold, once that does not change any more."""
    seen: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen.append(held(descendants(process)))
        if len(seen) >= 6 and max(seen[-6:]) - min(seen[-6:]) < 0.005 * seen[-1]:
            return float(seen[-1])
        time.sleep(0.5)
    raise TimeoutError("the memory of a worker does not settle")


LIBRARIES = {"Redis": ("celery", "huey"), "Rabbit": ("celery",), "Sqlite": ("huey",)}
SHOWN = {"Redis": "Redis", "Rabbit": "RabbitMQ", "Sqlite": "SQLite"}


def over(
    broker: str, name: str, title: str, how: str, size: int, measure: Callable[..., Any], **settings: Any
) -> Subject:
    """A subject over a broker, against those who can use it."""
    peers: Mapping[str, Measure] = {each: partial(measure, each, broker) for each in LIBRARIES[broker]}
    return Subject(
        name=f"queue-{name}-{broker.lower()}",
        title=f"{title} {SHOWN[broker]}",
        how=how,
        size=size,
        ours=partial(measure, OURS, broker),
        peers=peers,
        section="queue",
        **settings,
    )


def subjects_of(broker: str, sent: Bar, many: Bar, *drained: Bar) -> tuple[Subject, ...]:
    return (
        over(
            broker,
            "send",
            "send a task to",
            "By one producer, each confirmed by the broker; time for each. One by one is `delay`; many at "
            "once is `delay_many`, compared with the others' only way, which is one by one.",
            4_000,
            send,
            metrics=[Metric("time", "one by one", "s", [sent]), Metric("many", "many at once", "s", [many])],
        ),
        over(
            broker,
            "drain",
            "run a queued task from",
            "They do nothing, were sent before, and are run by a worker with 2 processes (Celery: prefork): "
            "from the first task to the last, time for each.",
            10_000,
            drain,
            metrics=[
                Metric("stored", "result stored", "s", drained),
                Metric("ignored", "result ignored", "s", drained),
            ],
            rounds=3,
        ),
    )


def others_of(broker: str) -> tuple[Subject, ...]:
    return (
        over(
            broker,
            "trip",
            "delay().get() on an idle worker, over",
            "One after the other; the median.",
            300,
            trip,
            metrics=[Metric("time", "", "s", [Times(4, "celery")])],
            rounds=5,
        ),
        over(
            broker,
            "start",
            "start of a worker to its first task, over",
            "The task was there before; from the start of the worker's program until it runs.",
            1,
            start,
            metrics=[Metric("time", "", "s", [Times(5, "celery")])],
        ),
        over(
            broker,
            "memory",
            "a worker with 2 processes, over",
            "Proportional set size of all its processes, after a few tasks. Then tasks are sent that are due "
            "in an hour: what each of them adds.",
            10_000,
            memory,
            metrics=[
                Metric("idle", "memory when idle", "B", [Times(2, "celery")]),
                Metric("later", "memory for each task that is due later", "B", [Times(20, "celery")]),
            ],
            rounds=2,
        ),
    )


SUBJECTS = (
    (
        *subjects_of("Redis", Times(8, "celery"), Times(8, "celery"), Times(15, "celery"), Times(3, "huey")),
        *others_of("Redis"),
        *subjects_of("Rabbit", Times(8, "celery"), Times(8, "celery"), Times(15, "celery")),
        *others_of("Rabbit"),
        *subjects_of(
            "Sqlite",
            AtMost(1 / 5_000, "≤ 200 µs"),
            AtMost(1 / 10_000, "≤ 100 µs"),
            AtMost(1 / 10_000, "≤ 100 µs"),
        ),
    )
    if all(importlib.util.find_spec(library) for library in ("celery", "huey"))
    else ()
)
