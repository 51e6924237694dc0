"""What a worker process does before and after it runs tasks."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys

from manyhands import _core
from manyhands.executors._speaking import speaking

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main", "take_surroundings"]


def main(
    fds: list[int],
    *,
    name: str,
    parent: int,
    zygote: int,
    path: list[str],
    arguments: list[str],
    directory: str,
    environment: dict[str, str],
    authkey: bytes | None,
    initializer: bytes | None,
    levels: dict[str, Any] | None,
    runs_coroutines: bool,
    max_tasks: int | None,
    max_memory: int | None,
    writable_arguments: bool,
) -> int:
    """Run tasks until told to stop. Returns the exit code.

    Args:
        fds: The segment, the event that wakes this worker, the event that wakes its pool, and where to
            write the frame in which it ends.
        name: What the process is called in messages.
        parent: The pid of the process whose pool it is.
        zygote: The pid of the process that started this one.
        path: ``sys.path`` of the parent.
        arguments: Its ``sys.argv``.
        directory: The parent's working directory.
        environment: The parent's environment variables, and those that are meant for its workers.
        authkey: What connects to the ``multiprocessing`` managers of the parent, if it uses any.
        initializer: The pickled initializer and its arguments.
        levels: What the parent's loggers let pass; None to leave this process's output to itself.
        runs_coroutines: Whether tasks are coroutines, for an event loop.
        max_tasks: How many tasks it runs before it makes room for another worker.
        max_memory: The most memory that it holds after a task for which it does not, in bytes.
        writable_arguments: Whether tasks may write to large arguments.
    """
    *fds, slate = fds
    # A session of its own: Ctrl-C at the terminal is the parent's to handle, and all that tasks start
    # can be found.
    if os.getsid(0) != os.getpid():
        os.setsid()
    _core.die_with_parent()
    if os.getppid() != zygote:
        return 1
    # What a task starts and forgets stays below this process, and is found when it ends.
    _core.become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    take_surroundings(path, arguments, directory, environment)
    _seed_anew()
    if authkey is not None:
        from multiprocessing import current_process

        current_process().authkey = authkey
    _write_last_frame_to(slate)
    worker = _core.ProcessWorker(
        parent, *fds, max_tasks=max_tasks, max_memory=max_memory, writable_arguments=writable_arguments
    )
    with contextlib.nullcontext() if levels is None else speaking(worker, name, levels):
        return _serve(worker, initializer, runs_coroutines)


def _write_last_frame_to(fd: int) -> None:
    """Have this process's last frame written there, by whatever signal it ends; in this process alone."""
    # Whoever has enabled it for all processes reads it in the parent's stderr: see `_last_frame.of_worker`.
    faulthandler.enable(fd, all_threads=False)
    os.register_at_fork(after_in_child=faulthandler.disable)
    # Then the signal takes its usual course.
    faulthandler.register(signal.SIGTERM, fd, all_threads=False, chain=True)
    os.register_at_fork(after_in_child=lambda: faulthandler.unregister(signal.SIGTERM))


def take_surroundings(
    path: list[str], arguments: list[str], directory: str, environment: dict[str, str]
) -> None:
    """Have this process find itself where its parent is: see `main`."""
    sys.path[:] = path
    sys.argv[:] = arguments
    _take_environment(environment)
    try:
        os.chdir(directory)
    except OSError:
        # The parent's directory is gone; tasks that need one will say so.
        os.chdir("/")


def _take_environment(environment: dict[str, str]) -> None:
    # The zygote has that of the time when it was started.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment.items() - os.environ.items())


def _seed_anew() -> None:
    """Let workers that were forked from one process not draw the same numbers."""
    for module in ("random", "numpy.random"):
        # What is imported later seeds itself.
        if module in sys.modules:
            sys.modules[module].seed()


def _serve(worker: _core.ProcessWorker, initializer: bytes | None, runs_coroutines: bool) -> int:
    if initializer is not None:
        from manyhands.executors._main_names import initialize

        try:
            initialize(initializer)
        except BaseException:
            import traceback

            worker.initializer_failed(traceback.format_exc())
            return 1
    if runs_coroutines:
        from manyhands.executors._coroutines import serve

        serve(worker)
    else:
        worker.run()
    return 0
