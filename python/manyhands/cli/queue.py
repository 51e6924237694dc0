"""`manyhands queue`: looks after the queues of a broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from manyhands.cli.problem import Problem, say

if TYPE_CHECKING:
    from manyhands.queue import Queue

__all__ = ["queue_command"]


def _of_a_queue(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which application, or which broker."""

    @click.option("-A", "--app", "application", help="The application, as in `module:queue`.")
    @click.option("--broker", help="The broker's address, instead.")
    @wraps(function)
    def run(application: str | None, broker: str | None, **rest: Any) -> Any:
        from manyhands.errors import BrokerError

        try:
            return function(_opened(application, broker), **rest)
        except BrokerError as error:
            raise Problem(str(error)) from error

    return run


def _opened(application: str | None, broker: str | None) -> Queue:
    if (application is None) == (broker is None):
        raise Problem("could not find a queue: expected either --app or --broker", "as in -A shop:queue")
    if application is not None:
        from manyhands.cli.worker import load

        return load(application)
    from manyhands.queue import Queue

    try:
        return Queue("manyhands", broker=str(broker), results="")
    except ValueError as error:
        raise Problem(str(error)) from error


def _names(queue: Queue, given: tuple[str, ...]) -> list[str]:
    return list(given) or queue._usual_queues()


_queues = click.argument("queues", nargs=-1)


@click.group("queue")
def queue_command() -> None:
    """Look after queues: what waits, what is dead."""


@queue_command.command("status")
@_queues
@_of_a_queue
def status(queue: Queue, queues: tuple[str, ...]) -> None:
    """Say how many messages wait in each queue, and how many dead letters it has.

    A message that a worker has been given waits no more, also one that is held there for later.
    """
    names = _names(queue, queues)
    width = max(map(len, ("queue", *names)))
    click.echo(f"{'queue':{width}}  {'waiting':>8}  {'dead':>6}")
    for name in names:
        dead = len(queue._broker.dead_letters(name, _MOST))
        many = f"{_MOST}+" if dead == _MOST else str(dead)
        click.echo(f"{name:{width}}  {queue.depth(name):>8}  {many:>6}")


_MOST = 1000


@queue_command.command("purge")
@_queues
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_of_a_queue
def purge(queue: Queue, queues: tuple[str, ...], yes: bool) -> None:
    """Delete the messages that wait."""
    names = _names(queue, queues)
    if not yes:
        click.confirm(f"Delete all messages of {', '.join(names)} at {queue.broker}?", abort=True, err=True)
    for name in names:
        say(f"{name}: deleted {queue.purge(name)} messages")


@queue_command.command("inspect")
@_of_a_queue
def inspect(queue: Queue) -> None:
    """Say what the application is: its servers, its tasks and their terms."""
    click.echo(f"{queue.name}: broker {queue.broker}, results {queue.results or 'none'}")
    for name, task in sorted(queue.tasks.items()):
        terms = {
            "queue": queue._queue_of(task),
            "on": task.on or ("async" if task.is_coroutine else None),
            "retries": task.retries if task.retry_on else None,
            "timeout": task.timeout,
            "soft_timeout": task.soft_timeout,
            "rate": task.rate,
            "priority": task.priority,
        }
        shown = " ".join(f"{term}={value}" for term, value in terms.items() if value is not None)
        click.echo(f"  {name}  {shown}")


@queue_command.group("dead")
def dead() -> None:
    """What nobody could run: see it, bring it back, or delete it."""


@dead.command("list")
@_queues
@click.option("-n", "--most", type=click.IntRange(1), default=100, show_default=True)
@_of_a_queue
def listed(queue: Queue, queues: tuple[str, ...], most: int) -> None:
    """List dead letters, the oldest first: key, when, task and reason."""
    for name in _names(queue, queues):
        for key, _, reason, died, content in queue._broker.dead_letters(name, most):
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(died))
            task = "?" if content is None else f"{content[0]}[{content[1]}]"
            click.echo(f"{name}  {key}  {when}  {task}  {reason}")


@dead.command("revive")
@click.argument("name", metavar="QUEUE")
@click.argument("keys", nargs=-1)
@_of_a_queue
def revive(queue: Queue, name: str, keys: tuple[str, ...]) -> None:
    """Put dead letters back into their queue: all of them, or those of the keys."""
    say(f"{name}: brought back {queue._broker.revive(name, list(keys))} messages")


@dead.command("bury")
@click.argument("name", metavar="QUEUE")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_of_a_queue
def bury(queue: Queue, name: str, yes: bool) -> None:
    """Delete the dead letters of a queue."""
    if not yes:
        click.confirm(f"Delete all dead letters of {name} at {queue.broker}?", abort=True, err=True)
    say(f"{name}: deleted {queue._broker.bury(name)} dead letters")
