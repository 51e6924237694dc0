"""Tasks that leave traces, workers that may be killed, and an account of what was lost or run twice."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from watching import children

HERE = Path(__file__).parent
TASKS = 5000 if "MANYHANDS_FAULT_REPEATS" in os.environ else 500
WORKER = ["-m", "manyhands.cli", "worker", "-A", "appending:queue", "-c", "2", "--loglevel", "warning"]
COMES_BACK = "3"  # seconds after which Redis gives to others what a dead worker had


class Scene:
    """One broker, one producer, which is this process, and workers."""

    def __init__(self, server, address, folder):
        self.server, self.folder, self.trace = server, folder, folder / "trace"
        self.trace.touch()
        self.log = folder / "worker.log"
        self.worker = None
        self.owed = set()
        self._next = 0
        os.environ.update(FAULTS_BROKER=address, FAULTS_TRACE=str(self.trace), FAULTS_VISIBILITY=COMES_BACK)
        sys.modules.pop("appending", None)
        self.app = importlib.import_module("appending")

    def send(self, count):
        """Send tasks; those that were confirmed are owed."""
        for _ in range(count):
            number, self._next = self._next, self._next + 1
            self.app.append.delay(number)
            self.owed.add(number)

    def send_many(self, count):
        numbers = range(self._next, self._next + count)
        self._next += count
        self.app.append.delay_many((number,) for number in numbers)
        self.owed.update(numbers)

    def start_worker(self):
        with self.log.open("ab") as log:
            self.worker = subprocess.Popen(
                [sys.executable, *WORKER], stdout=log, stderr=log, start_new_session=True
            )

    def kill_worker(self):
        """End it and its processes, as the end of their machine does."""
        if self.worker is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait()
            self.worker = None

    def kill_a_process(self):
        """End one that the worker has started."""
        if found := children(self.worker.pid):
            with suppress(ProcessLookupError):
                os.kill(random.choice(found), signal.SIGKILL)

    def run(self):
        """How often each task was run."""
        return Counter(map(int, self.trace.read_text().split()))

    def until_run(self, count, within=120.0):
        """Wait until so many tasks were run, of those that are owed."""
        deadline = time.monotonic() + within
        while len(self.owed & self.run().keys()) < count:
            if time.monotonic() > deadline:
                missing = sorted(self.owed - self.run().keys())
                log = self.log.read_text(errors="replace")[-3000:]
                pytest.fail(f"lost {len(missing)} of {len(self.owed)}: {missing[:20]}; worker:\n{log}")
            time.sleep(0.02)

    def back_at_work(self):
        """After how many seconds from now on tasks are run again."""
        began, seen = time.monotonic(), len(self.owed & self.run().keys())
        self.until_run(min(seen + 20, TASKS))
        return time.monotonic() - began

    def account(self, capsys, more=""):
        """Wait for all that is owed; say how many were run more than once."""
        self.until_run(len(self.owed))
        doubled = sum(1 for times in self.run().values() if times > 1)
        with capsys.disabled():
            print(f" [{len(self.owed)} tasks, 0 lost, {doubled} run again{more}]", end="")


@contextmanager
def scene_at(server, address, folder):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FAULTS_BROKER", "FAULTS_TRACE", "FAULTS_VISIBILITY"):
            patch.setenv(name, "")
        patch.setenv("PYTHONPATH", str(HERE))
        patch.syspath_prepend(HERE)
        scene = Scene(server, address, folder)
        try:
            yield scene
        finally:
            scene.kill_worker()
            scene.app.queue.close()
