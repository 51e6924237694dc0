"""Tasks on processes."""

from __future__ import annotations

import itertools
import marshal
import os
import re
import sys
import threading
from _pickle import dumps
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, ClassVar

from manyhands import _core
from manyhands._environment import variables
from manyhands.executors._branches import start_worker
from manyhands.executors._notes import Listener, levels
from manyhands.executors._zygote import directory, zygote
from manyhands.executors.base import Executor, _remember

__all__ = ["ProcessExecutor"]

_numbers = itertools.count()
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class ProcessExecutor(Executor):
    """Runs functions on a pool of processes, which does not break when one of them dies.

    Functions, arguments and results are pickled; what the standard pickle cannot send (lambdas,
    closures, functions of ``__main__`` or a notebook) goes by cloudpickle. A worker that dies fails the
    one task that it ran, with `WorkerDied`; tasks that it had not begun move to others, and a new worker
    takes its place. A task that passes its time limit, or is cancelled with ``force=True``, has its
    worker and everything that the worker started ended.

    Workers are forked from a zygote, a clean process without threads, so the fork is safe. They end with
    their parent, however that ends.

    Large data does not go through a pipe. Byte strings, and what pickle can leave out of its stream (arrays
    of numpy, say), are copied once into shared memory, and an array is read where it lies. One that a task
    gets is read-only, unless `writable_arguments` is set; one that a task returns is the caller's to change.

    Args:
        workers: How many processes; by default as many as processors, by affinity and container quota.
        concurrency: Makes it an executor of ``async def`` functions, for work that both waits and computes:
            each worker runs an event loop with that many of them in flight. A time limit or a cancellation
            cancels the coroutine at its next ``await``; a worker whose loop is blocked for 5 s meanwhile is
            ended. A worker that dies fails all coroutines that it ran.
        initializer: Called in each worker before its first task, with `initargs`. If it raises, the
            executor is broken: every task fails with `BrokenInitializer`. What it sets or fills in the main
            module, functions of that module find there.
        initargs: The arguments of `initializer`.
        max_tasks_per_worker: After how many tasks a fresh worker takes its place; for functions that leak.
        max_memory_per_worker: A worker that holds more memory after a task is replaced, too: bytes, or a
            text like "500MB" or "2GiB".
        threads_per_worker: How many threads numerical libraries may use in each worker (BLAS, OpenMP);
            by default what ``OMP_NUM_THREADS`` and the like say, or else the processors divided by the
            workers, at least 1.
        start: "zygote", or "spawn" for a fresh interpreter per worker, for libraries that must not be forked.
        preload: Modules that the zygote imports once, for all workers.
        output: "forward" passes what workers print, log and warn of on to this process's ``sys.stdout`` and
            ``sys.stderr``, loggers and ``warnings``; "prefix" also sets the worker's name before each line;
            "inherit" leaves it to the descriptors and the set-up that a worker has by itself.
        writable_arguments: Whether tasks may write to large arrays that they get. What they write is theirs
            alone: a page is copied when it is first written to.
        name: What workers are called in messages.

    Raises:
        ValueError: A number is not positive, a memory size not understood, or `start` or `output` unknown.
        TypeError: `initializer` is not callable, or cannot be pickled.

    Example:
        >>> import manyhands as mh
        >>> with mh.ProcessExecutor(2) as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
    """

    model: ClassVar[str] = "process"

    def __init__(
        self,
        workers: int | None = None,
        *,
        concurrency: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_worker: int | None = None,
        max_memory_per_worker: int | str | None = None,
        threads_per_worker: int | None = None,
        start: str = "zygote",
        preload: Sequence[str] = (),
        output: str = "forward",
        writable_arguments: bool = False,
        name: str | None = None,
    ) -> None:
        processors = _core.available_processors()
        workers = processors if workers is None else workers
        threads = max(1, processors // max(workers, 1)) if threads_per_worker is None else threads_per_worker
        memory = None if max_memory_per_worker is None else _bytes(max_memory_per_worker)
        for option, found in (
            ("workers", workers),
            ("concurrency", concurrency),
            ("max_tasks_per_worker", max_tasks_per_worker),
            ("max_memory_per_worker", memory),
            ("threads_per_worker", threads),
        ):
            if found is not None and found < 1:
                raise ValueError(f"could not make the executor: found {option}={found}, expected 1 or more")
        for option, word, known in (
            ("start", start, ("zygote", "spawn")),
            ("output", output, ("forward", "prefix", "inherit")),
        ):
            if word not in known:
                expected = " or ".join(f'"{each}"' for each in known)
                raise ValueError(f"could not make the executor: found {option}={word!r}, expected {expected}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"could not make the executor: the initializer {initializer!r} is not callable")
        token = f"ProcessExecutor-{next(_numbers)}"
        self._name = prefix = name or token
        modules = tuple(preload)
        shares = {variable: str(threads) for variable in _THREAD_VARIABLES}
        if threads_per_worker is None:
            shares = {variable: os.environ.get(variable, share) for variable, share in shares.items()}
        # Now, for it takes its time, and a task may come when the interpreter exits: then no thread can be
        # started any more. But a module that workers import may make an executor, and leave it at that.
        if not _core.is_reading():
            zygote(modules, shares)
        settings: dict[str, Any] = {
            "fresh": start == "spawn",
            "runs_coroutines": concurrency is not None,
            "max_tasks": max_tasks_per_worker,
            "max_memory": memory,
            "directory": directory(),
            "writable_arguments": writable_arguments,
            "initializer": None if initializer is None else _pickled(initializer, tuple(initargs)),
        }
        numbers = itertools.count()
        initializers_module = getattr(initializer, "__module__", None)
        self.capacity = workers * (concurrency or 1)

        # A closure without `self`: the workers must not keep the executor alive.
        def spawn(hand: _core.Process) -> None:
            number = next(numbers)
            name = f"{prefix}_{number}"
            own = {
                **settings,
                "name": name,
                "modules": _needed(initializers_module, runs_coroutines=concurrency is not None),
                "levels": None if output == "inherit" else levels(),
                "parent": os.getpid(),
                "path": list(sys.path),
                "arguments": list(getattr(sys, "argv", [])),
                "environment": {**variables(), **shares},
                "authkey": _authkey(),
            }
            module = hand.module or initializers_module
            pool = token if number < workers else None
            base = zygote(modules, shares)
            pid, source = start_worker(base, module, pool, own, hand.descriptors(), hand.ended)
            hand.started(pid, source.kill, Listener(f"[{name}] " if output == "prefix" else ""))

        self._open_processes(workers, spawn, concurrency)
        _remember(self._process_pool())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks.

        Args:
            wait: Return when all tasks are done and the workers have ended.
            cancel_futures: Cancel the tasks that have not begun.
        """
        self._close(cancel_futures)
        if wait:
            self._process_pool().wait_until_over()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all tasks; when Ctrl-C was pressed, also while waiting, end them instead."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._process_pool().stop()
        try:
            self.shutdown()
        except KeyboardInterrupt:
            self._process_pool().stop()
            raise

    @property
    def _threads(self) -> set[threading.Thread]:
        return set()


def _needed(initializers_module: str | None, *, runs_coroutines: bool) -> list[str]:
    """The modules of ours, and of the standard library, that workers find in the zygote if they need them."""
    is_ours = initializers_module is not None and initializers_module.startswith("manyhands.")
    # If it is here, it has been used, to send something by value. It imports `logging`, too.
    sends_by_value = "manyhands.executors._pickling" in sys.modules
    needed = {
        "multiprocessing.process": "multiprocessing.process" in sys.modules,
        "manyhands.executors._coroutines": runs_coroutines,
        "manyhands.executors._pickling": sends_by_value,
        "manyhands.executors._records": sends_by_value,
    }
    own = [initializers_module] if initializers_module and is_ours else []
    return [*(module for module, is_needed in needed.items() if is_needed), *own]


def _pickled(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    plain = _pickled_by_name(initializer, initargs)
    if plain is not None:
        return plain
    from manyhands.executors._pickling import dumps_by_value

    try:
        return dumps_by_value((initializer, initargs))
    except Exception as error:
        from manyhands.executors._culprit import path_to_culprit

        path = path_to_culprit((initializer, initargs), "initializer", "initargs")
        place = "" if path is None else f", found at `{path}`"
        raise TypeError(f"could not send the initializer to worker processes: {error}{place}") from error


def _pickled_by_name(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes | None:
    """The same if cloudpickle would do nothing else: it is a large module, which workers would have, too."""
    # Once it is there, somebody may have told it to send a module by value.
    if "cloudpickle" in sys.modules or type(initializer) is not FunctionType:
        return None
    try:
        marshal.dumps(initargs)  # refuses all but plain values
        pickled = dumps((initializer, initargs), 5)
    except Exception:
        return None
    return None if b"__main__" in pickled else pickled


def _authkey() -> bytes | None:
    """The key by which a worker may use what managers of ``multiprocessing`` share, if it is in use."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    return None if multiprocessing is None else bytes(multiprocessing.current_process().authkey)


def _bytes(size: int | str) -> int:
    """Return the bytes of a memory size: a number, or a text with a unit."""
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", size.strip().upper())
    if found is None:
        raise ValueError(
            f"could not make the executor: found max_memory_per_worker={size!r}, "
            'expected bytes or a text like "500MB" or "2GiB"'
        )
    return int(float(found[1]) * _UNITS[found[2] or ""])
