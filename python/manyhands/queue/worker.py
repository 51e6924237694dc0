"""Workers: programs that run the tasks of a queue."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from manyhands import _core
from manyhands.queue._run import Runner, _import_all, prepare, ready, run, run_coroutine
from manyhands.queue._serial import accepted, find

if TYPE_CHECKING:
    from typing_extensions import Self

    from manyhands.executors.base import Executor
    from manyhands.queue.app import Queue
    from manyhands.queue.task import Task

__all__ = ["Worker"]

_MODELS = ("process", "thread", "async", "process+async")
_LOOK = 0.1
"""How often to look, while tasks come to their end, whether somebody has lost patience."""
_COROUTINES = 100
"""How many coroutines run at once unless somebody says otherwise."""


class Worker:
    """Runs the tasks of a queue in this program; ``manyhands worker`` is its command.

    Messages are fetched about as far ahead as tasks are done in a tenth of a second. A message is settled
    when the result of its task is stored, or when the task begins if it has ``acks_late=False``. A task that
    is to run later waits in few bytes, and goes back to the broker when the worker stops.

    Plain functions and ``async def`` functions run side by side, each on a model of its own.

    Thread safety: every method may be called from any thread.

    Args:
        queue: The application.
        queues: The names of the queues it takes messages from; by default those that its tasks go to.
        on: On what tasks run that do not say so themselves: "process", "thread", "async" or "process+async";
            ``async def`` functions never run on "process" or "thread" unless they say so.
        concurrency: How many tasks run at once on that model; by default as many as processors, or 100
            coroutines.
        prefetch: How many messages it has at most that have not ended, instead of what is done in a tenth of
            a second.
        prefetch_multiplier: The same for each task that can run at once, if `prefetch` says nothing.
        name: What the worker is called; by default "manyhands@" and the machine's name.
        application: Where worker processes find the application, as in "module:queue"; by default it is
            looked for.
        max_tasks_per_worker: As for `ProcessExecutor`.
        max_memory_per_worker: As for `ProcessExecutor`.
        max_losses: A message that has taken so many worker processes with it becomes a dead letter.
        log: "text" or "json" for a line on the standard error for each task; "none" for nothing.
        level: From which level on: "debug", "info", "warning", "error".

    Raises:
        ValueError: An unknown word, or no way for worker processes to find the application.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", broker="memory://worker-example")
        >>> @queue.task
        ... def double(n):
        ...     return 2 * n
        >>> with mh.queue.Worker(queue, on="thread"):
        ...     double.delay(21).get(timeout=10)
        42
    """

    def __init__(
        self,
        queue: Queue,
        *,
        queues: Iterable[str] | None = None,
        on: str = "process",
        concurrency: int | None = None,
        prefetch: int | None = None,
        prefetch_multiplier: int | None = None,
        name: str | None = None,
        application: str | None = None,
        max_tasks_per_worker: int | None = None,
        max_memory_per_worker: int | str | None = None,
        max_losses: int = 3,
        log: str = "none",
        level: str = "info",
    ) -> None:
        if on not in _MODELS:
            raise ValueError(f"could not make a worker: found on={on!r}, expected {', '.join(_MODELS)}")
        _import_all(queue)
        self.queue, self.name = queue, name or f"manyhands@{socket.gethostname()}"
        self._on, self._concurrency = on, concurrency
        self._prefetch, self._prefetch_multiplier = prefetch, prefetch_multiplier
        self._application, self._max_losses = application, max_losses
        self._per_process = {
            "max_tasks_per_worker": max_tasks_per_worker,
            "max_memory_per_worker": max_memory_per_worker,
        }
        self._log, self._level = log, level
        self._names = list(queue.tasks)
        self.queues = list(queues) if queues is not None else queue._usual_queues()
        self._models = list(dict.fromkeys(self._model(task) for task in queue.tasks.values())) or [on]
        self._executors: list[Executor] = []
        self._desks: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._is_urgent = False
        self._core: _core.QueueWorker | None = None
        if self._needs_processes and application is None:
            self._application = _found(queue)

    def _model(self, task: Task[..., Any]) -> str:
        if task.on is not None:
            return "process+async" if task.on == "async" and self._on == "process+async" else task.on
        if task.is_coroutine:
            return self._on if "async" in self._on else "async"
        return {"async": "thread", "process+async": "process"}.get(self._on, self._on)

    @property
    def _needs_processes(self) -> bool:
        return any(model.startswith("process") for model in self._models)

    def start(self) -> Self:
        """Begin to take messages and run tasks; returns at once."""
        queue = self.queue
        runner = Runner(queue, self._names, self.name)
        for model in self._models:
            self._executors.append(self._executor(model))
        written = find(queue.result_serializer)
        capacity = sum(executor.capacity for executor in self._executors)
        prefetch = self._prefetch
        if prefetch is None and self._prefetch_multiplier is not None:
            prefetch = self._prefetch_multiplier * capacity
        is_json = queue.result_serializer == "json"
        self._core = core = _core.QueueWorker(
            queue._broker,
            queue._results,
            [self._told(queue.tasks[name], is_json) for name in self._names],
            None if is_json else lambda document: _rewritten(document, queue.result_serializer),
            name=self.name,
            models=len(self._models),
            prefetch=prefetch,
            least=2 * capacity,
            zone=str(queue.zone) if str(queue.zone) != "utc" else "UTC",
            content=(written.content_type, written.content_encoding),
            accepts=set(accepted(queue.accept)),
            most_losses=self._max_losses,
            queues=self.queues,
            max_size=queue.max_size,
            visibility=queue.visibility,
            log=self._log,
            level=self._level,
        )
        for number, model in enumerate(self._models):
            function: Any
            if model.startswith("process"):
                function = run_coroutine if model == "process+async" else run
            else:
                function = runner.run_coroutine if model == "async" else runner.run
            desk = threading.Thread(
                target=self._serve, args=(core, number, function), name=f"manyhands-{model}", daemon=True
            )
            self._desks.append(desk)
            desk.start()
        return self

    def _told(self, task: Task[..., Any], is_json: bool) -> dict[str, Any]:
        return {
            "name": task.name,
            "model": self._models.index(self._model(task)),
            "rate": task.rate if not isinstance(task.rate, int) else float(task.rate),
            "acks_late": task.acks_late,
            "reject_on_worker_lost": task.reject_on_worker_lost,
            "ignore_result": bool(task.ignore_result) or self.queue._results is None,
            "track_started": bool(task.track_started),
            "timeout": task.timeout,
            "soft_timeout": task.soft_timeout,
            "needs_request": task.bind or not is_json,
        }

    def _executor(self, model: str) -> Executor:
        from manyhands import executors

        count = self._concurrency if model == self._on or "async" not in model else None
        if model == "thread":
            return executors.ThreadExecutor(count or _core.available_processors())
        if model == "async":
            return executors.AsyncExecutor(concurrency=count or _COROUTINES)
        workers = _core.available_processors()
        coroutines = None
        if model == "process+async":
            coroutines = max(1, (count or workers * _COROUTINES) // workers)
        elif count is not None:
            workers = count
        executor = executors.ProcessExecutor(
            workers,
            concurrency=coroutines,
            initializer=prepare,
            initargs=(self._application, self._names, self.name),
            **self._per_process,  # type: ignore[arg-type]
        )
        if coroutines is None:
            # While this process connects, those import the application.
            for _ in range(workers):
                executor.submit(ready)
        return executor

    def _serve(self, core: _core.QueueWorker, number: int, function: Any) -> None:
        try:
            core.serve(number, self._executors[number], function)
        except BaseException as failure:
            self._failure = self._failure or failure
        finally:
            self._over.set()

    def stop(self, grace: float | None = None) -> bool:
        """Take no more messages, give back those that have not begun, and wait for tasks that run.

        Args:
            grace: Seconds after which tasks that still run are ended, and their messages go back; None to
                wait for them for as long as they take.

        Returns:
            Whether all of them ended by themselves.
        """
        core = self._core
        if core is None:
            return True
        core.close()
        ended = self._have_ended(None if grace is None else time.monotonic() + grace)
        if not ended:
            for executor in self._executors:
                if executor.model == "process":
                    pool = executor._process_pool()
                    pool.stop()
                    pool.wait_until_over()
            core.abandon()
            for desk in self._desks:
                desk.join()
        core.finish(10.0 if ended or grace else 3.0)
        for executor in self._executors:
            executor.shutdown(wait=ended, cancel_futures=True)
        self._core = None
        self._desks.clear()
        self._executors.clear()
        return ended

    def _have_ended(self, deadline: float | None) -> bool:
        """Wait for the desks, until then or until there is no time left."""
        for desk in self._desks:
            while desk.is_alive() and not self._is_urgent:
                left = _LOOK if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                desk.join(min(left, _LOOK))
        return not any(desk.is_alive() for desk in self._desks)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the worker cannot go on; False if the time is over first.

        Raises:
            RuntimeError: It cannot; the message says why.
        """
        if not self._over.wait(timeout):
            return False
        why = self.reason()
        if why is not None:
            raise RuntimeError(f"could not go on working: {why}") from self._failure
        return True

    def reason(self) -> str | None:
        """Why the worker cannot go on; None if it can, or was stopped."""
        why = self._core.failure if self._core is not None else None
        return why or (None if self._failure is None else str(self._failure))

    def capacities(self) -> dict[str, int]:
        """How many tasks run at once, by what they run on."""
        executors = zip(self._models, self._executors, strict=True)
        return {model: executor.capacity for model, executor in executors}

    def at_work(self) -> list[tuple[str, str]]:
        """The names and ids of the tasks that run."""
        return [] if self._core is None else self._core.at_work()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for what runs."""
        self.stop()

    def __repr__(self) -> str:
        """Its name, its queues and on what it runs tasks."""
        return f"<Worker {self.name} queues={','.join(self.queues)} on={self._on}>"


def _rewritten(document: bytes, serializer: str) -> bytes:
    from manyhands.queue._json import loads
    from manyhands.queue._serial import dumps

    return dumps(loads(document.decode()), serializer)


def _found(queue: Queue) -> str:
    """Where the application is, as "module:attribute": worker processes import it from there."""
    for name, module in list(sys.modules.items()):
        if name == "__main__" or module is None:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is queue:
                return f"{name}:{attribute}"
    raise ValueError(
        f"could not make a worker: found no module in which {queue!r} is, expected one for worker processes "
        "to import\nhint: application='module:queue', or on='thread'"
    )
