"""`manyhands worker`: runs the tasks of a queue until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from manyhands import _core
from manyhands.cli.problem import Problem, say

if TYPE_CHECKING:
    from pathlib import Path

    from manyhands.queue import Queue
    from manyhands.queue.worker import Worker

__all__ = ["load", "worker_command"]

_LOOK = 0.5
"""How often changed files are looked for, in seconds."""
_CUT_SHORT = 1


_OF_CELERY = {
    **dict.fromkeys(("-P", "--pool"), "--on process, thread, async or process+async"),
    **dict.fromkeys(("-B", "--beat", "-s", "--schedule"), "there is no scheduler yet: use cron or a timer"),
    **dict.fromkeys(("-E", "--task-events", "--events"), "leave it away"),
    **dict.fromkeys(("-O", "--optimization"), "leave it away: a worker takes what it can begin soon"),
    **dict.fromkeys(("--without-gossip", "--without-mingle", "--without-heartbeat"), "leave it away"),
    **dict.fromkeys(
        ("-D", "--detach", "--pidfile", "-f", "--logfile"),
        "leave it to systemd or a container: the log goes to the standard error",
    ),
    **dict.fromkeys(("-I", "--include"), "`include=` of the application"),
    **dict.fromkeys(("-X", "--exclude-queues"), "-Q with the others"),
    **dict.fromkeys(("--time-limit", "--soft-time-limit"), "`timeout=` and `soft_timeout=` of tasks"),
    "--autoscale": "-c: the number does not change",
    "--discard": "manyhands queue purge",
    "--purge": "manyhands queue purge",
    "--hostname": "--name",
    "--max-memory-per-child": "--max-memory-per-worker, as in 500MB",
    "--max-tasks-per-child": "--max-tasks-per-worker",
    "--prefetch-multiplier": "--prefetch, or the setting worker_prefetch_multiplier",
}
"""What stands for the options of Celery's worker that are not ours."""


class _Command(click.Command):
    """Knows what those mean who come from Celery."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in _OF_CELERY:
                raise
            raise Problem(
                f"could not use `{error.option_name}`: found an option of Celery's worker",
                _OF_CELERY[error.option_name],
            ) from None


@click.command("worker", cls=_Command)
@click.option("-A", "--app", "application", required=True, help="The application, as in `module:queue`.")
@click.option(
    "-Q", "--queues", help="The queues to take tasks from, with commas; by default all of the app's."
)
@click.option("-c", "--concurrency", type=click.IntRange(1), help="How many tasks run at once.")
@click.option(
    "--on",
    type=click.Choice(["process", "thread", "async", "process+async"]),
    help="On what tasks run that do not say so themselves.  [default: process]",
)
@click.option("--grace", type=click.FloatRange(0), default=30, show_default=True, metavar="SECONDS",
              help="How long running tasks may take when the worker stops, before they go back.")  # fmt: skip
@click.option("--prefetch", type=click.IntRange(1), help="The most messages it has that have not ended.")
@click.option("--max-tasks-per-worker", type=click.IntRange(1), help="Then a fresh process takes its place.")
@click.option("--max-memory-per-worker", metavar="SIZE", help="As in `500MB`; then a fresh process comes.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-l", "--loglevel", default="info", show_default=True, help="debug, info, warning or error.")
@click.option("--watch", is_flag=True, help="Start anew when a file of the application changes.")
@click.option("-n", "--name", help="What the worker is called.")
def worker_command(
    application: str,
    queues: str | None,
    concurrency: int | None,
    on: str | None,
    grace: float,
    prefetch: int | None,
    max_tasks_per_worker: int | None,
    max_memory_per_worker: str | None,
    log_format: str,
    loglevel: str,
    watch: bool,
    name: str | None,
) -> int:
    """Run the tasks of a queue.

    SIGTERM or Ctrl-C once: finish what runs, and give back the rest. Twice: give back everything at once.
    """
    from manyhands.queue.worker import Worker

    try:
        queue = load(application)
        told = {
            "on": on,
            "concurrency": concurrency,
            "prefetch": prefetch,
            "max_tasks_per_worker": max_tasks_per_worker,
            "max_memory_per_worker": max_memory_per_worker,
        }
        worker = Worker(
            queue,
            queues=[each.strip() for each in queues.split(",")] if queues else None,
            name=_expanded(name),
            application=application,
            **{**queue.worker_options, **{option: value for option, value in told.items() if value}},
            log=log_format,
            level=loglevel.lower(),
        )
    except Problem as problem:
        if not watch:
            raise
        problem.show()
        _wait_for_change(_files())
        _start_anew()
    except (ValueError, TypeError) as error:
        raise _problem(error) from error
    return _run(
        worker, grace, is_plain=log_format == "text" and loglevel.lower() in ("debug", "info"), watch=watch
    )


def _expanded(name: str | None) -> str | None:
    """The name with the machine's in it, where it says so as Celery's do."""
    host = os.uname().nodename
    short, _, domain = host.partition(".")
    for sign, value in (("%h", host), ("%n", short), ("%d", domain)):
        name = name and name.replace(sign, value)
    return name


def load(application: str) -> Queue:
    """The application of that name with all of its tasks, or a problem that says what is wrong with it."""
    from manyhands.queue._run import _import_all
    from manyhands.queue.app import Queue

    try:
        queue = Queue.load(application)
        _import_all(queue)
        return queue
    except (ValueError, ModuleNotFoundError) as error:
        raise _problem(error) from error
    except Exception as error:
        from manyhands.cli.report import user_traceback

        raise Problem(
            f"could not load `{application}`: {type(error).__name__}: {error}", detail=user_traceback(error)
        ) from error


def _problem(error: Exception) -> Problem:
    message, _, hint = str(error).partition("\nhint: ")
    return Problem(message, hint or None)


def _run(worker: Worker, grace: float, *, is_plain: bool, watch: bool) -> int:
    signals = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        worker._over.set()
        worker._is_urgent = len(signals) > 1

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        worker.start()
    except (ValueError, TypeError) as error:
        raise _problem(error) from error
    if is_plain:
        say(_banner(worker))
    assert worker._core is not None
    worker._core.say("info", f"{worker.name} is ready")
    changed = _wait(worker, watch=watch)
    why = None if signals or changed else worker.reason()
    if signals:
        worker._core.say(
            "info", f"stopping: {len(worker.at_work())} tasks run; once more to give them back now"
        )
    ended = worker.stop(grace if why is None else 0)
    if why is not None:
        raise Problem(f"could not go on working: {why}")
    if changed:
        say(f"`{changed}` has changed: starting anew")
        _start_anew()
    return 0 if ended or not worker._is_urgent else _CUT_SHORT


def _wait(worker: Worker, *, watch: bool) -> Path | None:
    """Wait for a signal or a failure; or for a file that changes, which is returned."""
    if not watch:
        worker._over.wait()
        return None
    before = _times(_files())
    while not worker._over.wait(_LOOK):
        now = _times(_files())
        changed = [path for path in now.keys() | before.keys() if now.get(path) != before.get(path)]
        if changed:
            return changed[0]
    return None


def _files() -> set[Path]:
    """The files of the program itself: those below the working directory, and no installed ones."""
    from pathlib import Path  # half a megabyte, which a worker that watches nothing does not need

    here = Path.cwd()
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    found = {Path(file) for file in imported if file}
    return {path for path in found if here in path.parents and "site-packages" not in path.parts} | set(
        here.glob("*.py")
    )


def _times(files: set[Path]) -> dict[Path, float]:
    times = {}
    for path in files:
        try:
            times[path] = path.stat().st_mtime
        except OSError:
            times[path] = 0.0
    return times


def _wait_for_change(files: set[Path]) -> None:
    before = _times(files)
    while _times(files) == before:
        time.sleep(_LOOK)


def _start_anew() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "manyhands.cli", *sys.argv[1:]])


def _banner(worker: Worker) -> str:
    queue = worker.queue
    on = ", ".join(f"{model} x {capacity}" for model, capacity in worker.capacities().items())
    return "\n".join(
        (
            f"manyhands {_core.VERSION} worker {worker.name} (pid {os.getpid()})",
            f"  app      {queue.name}: {_counted(queue)}",
            f"  broker   {queue.broker}",
            f"  results  {queue.results or 'none'}",
            f"  queues   {', '.join(worker.queues)}{_others(worker)}",
            f"  runs on  {on}",
        )
    )


def _others(worker: Worker) -> str:
    """The queues of the application's tasks that are left to other workers."""
    queue = worker.queue
    others = {queue._queue_of(task) for task in queue.tasks.values()} - set(worker.queues)
    return f" (not {', '.join(sorted(others))}: name them with -Q to take from them, too)" if others else ""


def _counted(queue: Queue) -> str:
    names = sorted(queue.tasks)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "no tasks"
