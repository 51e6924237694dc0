"""What the tests of `manyhands.sync` share: threads of which one knows that they wait, and signals."""

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from watching import eventually


class Background(threading.Thread):
    """A thread whose outcome one can ask for."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.start()

    def run(self):
        try:
            self.outcome = self.function(*self.args)
        except BaseException as error:
            self.outcome = error

    def result(self):
        """What the function returned; what it raised is raised."""
        self.join(20)
        assert not self.is_alive(), "the thread still waits"
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def run_callers(callers):
    """Have two of them call from a thread each, the others from tasks of one loop, until all are done."""

    async def tasks():
        await asyncio.gather(*(caller.task() for caller in callers[2:]))

    others = [Background(caller.thread) for caller in callers[:2]] + [Background(asyncio.run, tasks())]
    for other in others:
        other.result()


def asleep(function, *args):
    """Start a thread, and return it when it waits."""
    thread = Background(function, *args)
    looks = [is_asleep(thread)]

    def twice():
        looks.append(is_asleep(thread))
        return looks[-2:] == [True, True]

    eventually(twice, "a thread that waits")
    assert thread.is_alive(), "the thread did not wait"
    return thread


def is_asleep(thread):
    """Whether the kernel has put the thread to sleep, while nobody else keeps the interpreter busy."""
    if thread.native_id is None:
        return False
    with contextlib.suppress(OSError):
        state = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="ascii")
        return state.rpartition(")")[2].split()[0] == "S"
    return False


class Interruption(Exception):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def interruption_when_asleep():
    """Have the main thread interrupted when it waits for something in the block."""
    main = threading.main_thread()

    def interrupt(_number, _frame):
        raise Interruption

    def watch():
        eventually(lambda: is_asleep(main) or over.is_set(), "a main thread that waits")
        while not over.wait(0.01):
            signal.pthread_kill(main.ident, signal.SIGUSR1)

    def quiet(_number, _frame):
        pass

    over = threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    watcher = Background(watch)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, quiet)
        over.set()
        watcher.result()
        signal.signal(signal.SIGUSR1, before)


def in_a_fork(function):
    """What the function writes in a forked child: `ok`, or what went wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            function()
            os.write(writing, b"ok")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


forks = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
