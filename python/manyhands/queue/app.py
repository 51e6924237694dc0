"""The application: its tasks, its broker, its results, and how a call becomes a message."""

from __future__ import annotations

import atexit
import fnmatch
import importlib
import logging
import os
import sys
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timezone, tzinfo
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, overload

from manyhands import _core
from manyhands.errors import BrokerError, Ignore, Reject, Retry, UnknownTask
from manyhands.queue import _sending, _serial
from manyhands.queue._main import main_name
from manyhands.queue._outcomes import document
from manyhands.queue.request import Request, _running
from manyhands.queue.results import AsyncResult, _brought, _EagerResult
from manyhands.queue.signature import Signature
from manyhands.queue.task import Task

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Queue", "current_task"]

P = ParamSpec("P")
R = TypeVar("R")
_Routes: TypeAlias = Mapping[str, "str | Mapping[str, Any]"]

_log = logging.getLogger("manyhands.queue")

_TASK_OPTIONS: dict[str, Any] = {
    "bind": False,
    "retries": 3,
    "retry_on": (),
    "backoff": 1.0,
    "retry_delay": 180.0,
    "max_backoff": 600.0,
    "jitter": True,
    "timeout": None,
    "soft_timeout": None,
    "rate": None,
    "queue": None,
    "priority": None,
    "on": None,
    "ignore_result": False,
    "track_started": False,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "serializer": None,
    "compression": None,
}
"""What a task may be told, and what it is unless it or its queue is told otherwise."""

_CALL_OPTIONS = frozenset(
    (
        "argsrepr",
        "compression",
        "countdown",
        "eta",
        "expires",
        "headers",
        "ignore_result",
        "kwargsrepr",
        "parent_id",
        "priority",
        "queue",
        "retry",
        "root_id",
        "serializer",
        "shadow",
        "soft_time_limit",
        "task_id",
        "time_limit",
    )
)

_PORTION = 512
"""So many calls of many are published together."""

_ON = ("process", "thread", "async")


class Queue:
    """A task queue: what its tasks are, where their messages go, and where results are kept.

    Nothing is connected before the first use. A server that is away is reached again by itself; what a
    producer does meanwhile is for `when_unreachable` to say.

    Thread safety: every method may be called from any thread. A forked child makes connections of its own.

    Args:
        name: What the application is called.
        broker: Who keeps the messages: "memory://" (this process alone), "sqlite:///jobs.db" (a file; four
            slashes for an absolute path), "redis://host:6379/0", "rediss://…", "amqp://user@host/", "amqps://…".
        results: Who keeps the results, "postgresql://…" and "rpc://" (messages of the broker) beside those;
            None for where the messages are, "" for nobody.
        default_queue: Where tasks go that nothing else is said of.
        routes: By patterns of tasks' names (``{"shop.*": "billing"}``): the queue, or a dict of options of
            `Task.apply_async`. The first that fits counts.
        serializer: How arguments are written, unless the task says otherwise: "json", "msgpack", "yaml",
            "pickle".
        result_serializer: How results are written.
        accept: Which of these workers and readers of results take; "pickle" can run any code.
        compression: How arguments are compressed: "gzip", "zstd"; None for not at all.
        eager: Run tasks where they are sent, for tests.
        when_unreachable: What a producer does while the broker is away: "wait" tries again for `patience`
            seconds and then raises `BrokerError`; "buffer" keeps up to `buffer` messages in memory, sends
            them when the broker is back, and says at exit what is lost; "fail" raises at once. Each says so
            in the log "manyhands.queue".
        patience: How long to wait for a server that is away, in seconds.
        buffer: How many messages are kept at most.
        keep_results: For how many seconds results are kept.
        key_prefix: Before every key and channel in Redis.
        connect_timeout: Seconds to wait for a connection, and for an answer.
        max_size: The largest message or result that is read, in bytes.
        visibility: After how many seconds a message that no worker has settled is given to another, on Redis.
        zone: In which zone times without an offset are.
        include: Modules that a worker imports, for their tasks.
        accept_calls: Which functions that are no tasks workers call for `mh.executor` and `mh.map`: patterns
            of modules ("shop.prices") or of "module:function". By default none.
        **task_options: What is to be otherwise for all tasks, as for `task`: acks_late, ignore_result, …

    Raises:
        ValueError: An address that is none, or an unknown word.
        TypeError: An unknown setting.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", broker="memory://")
        >>> @queue.task(retries=5, timeout=30)
        ... def charge(order):
        ...     return f"charged {order}"
        >>> result = charge.delay(42)
        >>> queue.depth()
        1
        >>> queue.purge()
        1
    """

    name: str
    """What the application is called."""
    tasks: dict[str, Task[..., Any]]
    """Its tasks by their names."""
    eager: bool
    """Whether tasks run where they are sent."""
    worker_options: dict[str, Any]
    """What ``manyhands worker`` gives to `Worker` where its own options say nothing."""

    def __init__(
        self,
        name: str = "manyhands",
        broker: str = "memory://",
        results: str | None = None,
        *,
        default_queue: str = "celery",
        routes: _Routes | None = None,
        serializer: str = "json",
        result_serializer: str = "json",
        accept: Iterable[str] = ("json",),
        compression: str | None = None,
        eager: bool = False,
        when_unreachable: Literal["wait", "buffer", "fail"] = "wait",
        patience: float = 30.0,
        buffer: int = 10_000,
        keep_results: float = 86_400.0,
        key_prefix: str = "",
        connect_timeout: float = 10.0,
        max_size: int = 128 * 2**20,
        visibility: float = 3600.0,
        zone: tzinfo = timezone.utc,
        include: Iterable[str] = (),
        accept_calls: Iterable[str] = (),
        **task_options: Any,
    ) -> None:
        if when_unreachable not in ("wait", "buffer", "fail"):
            raise ValueError(
                f'could not use `when_unreachable`: found {when_unreachable!r}, expected "wait", "buffer" or '
                '"fail"'
            )
        self.name, self.tasks, self.eager, self.worker_options = name, {}, eager, {}
        self.default_queue, self.routes = default_queue, dict(routes or {})
        self.serializer, self.result_serializer, self.compression = serializer, result_serializer, compression
        self.accept, self.include, self.zone = tuple(accept), tuple(include), zone
        self.visibility, self.keep_results, self.max_size = visibility, keep_results, max_size
        self._defaults = {**_TASK_OPTIONS, **_checked(task_options, "the queue")}
        self._accepted = _serial.accepted((*self.accept, result_serializer))
        self._patience = 0.0 if when_unreachable == "fail" else patience
        self._broker = _core.QueueBroker(
            broker,
            key_prefix=key_prefix,
            timeout=connect_timeout,
            max_size=max_size,
            patience=self._patience,
            keep=buffer if when_unreachable == "buffer" else None,
        )
        if when_unreachable == "buffer":
            _flush_at_exit(patience)
        kept = _place_of_results(broker) if results is None else results
        self._results: _core.ResultStore | None = None
        if kept:
            self._results = _core.ResultStore(
                kept,
                broker,
                key_prefix=key_prefix,
                timeout=connect_timeout,
                keep_results=keep_results,
                max_size=max_size,
            )
        self._are_messages = kept.startswith("rpc:")
        self.accept_calls = tuple(accept_calls)
        if self.accept_calls:
            from manyhands.queue._calls import CALL, caller

            self._make(caller(self.accept_calls), CALL, {})

    # Making tasks.

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, /, *, name: str | None = None, **options: Any
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(
        self, function: Callable[P, R] | None = None, /, *, name: str | None = None, **options: Any
    ) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
        """Make a function a task; a decorator, with options or without.

        Args:
            function: A plain function or an ``async def`` one.
            name: By which producers and workers know it; by default "module.function".
            **options: See the attributes of `Task`: retries, retry_on, backoff, max_backoff, jitter, timeout,
                soft_timeout, rate, queue, priority, on, bind, ignore_result, track_started, acks_late,
                reject_on_worker_lost, serializer, compression. `backoff` may be "exponential"; with `retries`
                and no `retry_on`, any ``Exception`` is a reason to try again.

        Raises:
            TypeError: An unknown option.
            ValueError: Another task has that name.

        Example:
            >>> import manyhands as mh
            >>> queue = mh.Queue("shop", eager=True)
            >>> @queue.task(name="shop.notify", rate="100/m")
            ... async def notify(user):
            ...     return f"notified {user}"
            >>> notify.name
            'shop.notify'
        """

        def make(function: Callable[P, R]) -> Task[P, R]:
            return self._make(function, name or self._name_of(function), options)

        return make if function is None else make(function)

    def _make(self, function: Callable[P, R], name: str, options: Mapping[str, Any]) -> Task[P, R]:
        if not callable(function):
            raise TypeError(f"could not make a task: found {function!r}, expected a function")
        task: Task[P, R] = Task(self, function, name, self._terms(options, name))
        known = self.tasks.get(name)
        if known is not None and not _is_same(known.function, function):
            raise ValueError(f"could not make the task {name!r}: found another one of that name\nhint: name=")
        self.tasks[name] = task
        return task

    def _terms(self, options: Mapping[str, Any], whose: str) -> dict[str, Any]:
        """What a task is told and what its queue is told."""
        terms = {**self._defaults, **_checked(options, whose)}
        for term in ("serializer", "compression"):
            if terms[term] is None:
                terms[term] = getattr(self, term)
        return terms

    def _name_of(self, function: Callable[..., Any]) -> str:
        module = getattr(function, "__module__", None) or "__main__"
        named = getattr(function, "__name__", type(function).__name__)
        return f"{main_name() if module in ('__main__', '__mp_main__') else module}.{named}"

    def _task(self, name: str) -> Task[..., Any]:
        """The task of that name."""
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownTask(
                f"could not find the task {name!r}: {self.name!r} has {_listed(self.tasks)}"
            ) from None

    @staticmethod
    def load(text: str) -> Queue:
        """Find an application by "module:attribute", as a worker is told on the command line.

        Args:
            text: Without an attribute, the one application of that module is meant.

        Raises:
            ValueError: There is none, or there are several; the message says what there is.
            ModuleNotFoundError: There is no such module.
        """
        name, _, attribute = text.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        module = importlib.import_module(name)
        if attribute:
            found: Any = module
            for part in attribute.split("."):
                found = getattr(found, part, None)
            if not isinstance(found, Queue):
                raise ValueError(f"could not load {text!r}: found {found!r}, expected a Queue")
            return found
        return _only_queue(module)

    # Sending.

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Send a call of a task by its name, also one that is not known here.

        Args:
            name: The name of the task.
            args: The positional arguments.
            kwargs: The keyword arguments.
            **options: As for `Task.apply_async`.
        """
        task = self.tasks.get(name, name)
        return self._send(task, tuple(args or ()), dict(kwargs or {}), options)

    def signature(
        self,
        task: str | Mapping[str, Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """Return a call of a task as a value; of a signature that came as a dict, one that can be sent."""
        return Signature(task, tuple(args or ()), kwargs, options, immutable=immutable, queue=self)

    def result(self, id: str) -> AsyncResult:
        """Return the result of a task by its id."""
        return AsyncResult(id, self)

    def _send(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult:
        if self.eager:
            return self._run_here(task, args, kwargs, options)
        batch = _core.TaskBatch()
        id = self._write(batch, task, args, kwargs, options)
        self._broker.publish(batch, patience=_patience(options))
        return self.result(id)

    async def _asend(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult:
        if self.eager:
            return await self._arun_here(task, args, kwargs, options)
        batch = _core.TaskBatch()
        id = self._write(batch, task, args, kwargs, options)
        await _brought(self._broker.begin(batch, patience=_patience(options)))
        return self.result(id)

    def _send_many(
        self, task: Task[..., Any] | str, calls: Iterable[Any], options: Mapping[str, Any]
    ) -> list[AsyncResult]:
        if self.eager:
            return [self._run_here(task, *_arguments(call), options) for call in calls]
        ids: list[str] = []
        confirmed = 0
        sending: tuple[_core.Errand, int] | None = None
        try:
            for batch in self._batches(task, calls, options, ids):
                # One is published while the next is written, and only one: they are to arrive in order.
                if sending is not None:
                    sending[0].result()
                    confirmed += sending[1]
                size = len(batch)
                sending = self._broker.begin(batch, patience=_patience(options)), size
            if sending is not None:
                sending[0].result()
        except BrokerError as error:
            error.confirmed = confirmed + (error.confirmed or 0)
            raise
        except BaseException:
            if sending is not None:
                sending[0].result()
            raise
        return [self.result(id) for id in ids]

    def _batches(
        self, task: Task[..., Any] | str, calls: Iterable[Any], options: Mapping[str, Any], ids: list[str]
    ) -> Iterator[_core.TaskBatch]:
        left = iter(calls)
        while portion := list(islice(left, _PORTION)):
            batch = _core.TaskBatch()
            for call in portion:
                ids.append(self._write(batch, task, *_arguments(call), options))
            yield batch

    def _write(
        self,
        batch: _core.TaskBatch,
        task: Task[..., Any] | str,
        args: Any,
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Write the message of a call; returns the task's id."""
        if isinstance(task, str):
            name, terms = task, self._defaults
        else:
            task._check(args, kwargs)
            name, terms = task.name, task.__dict__
        if self.routes:
            options = {**self._route(name), **options}
        if options and not _CALL_OPTIONS.issuperset(options):
            unknown = sorted(set(options) - _CALL_OPTIONS)
            raise TypeError(
                f"could not send {name!r}: found {_listed(unknown)}, expected {_listed(_CALL_OPTIONS)}"
            )
        serializer, compression = options.get("serializer"), options.get("compression")
        body, content_type, content_encoding, compressed = _serial.encode_body(
            args,
            kwargs,
            serializer=serializer or terms["serializer"] or self.serializer,
            compression=compression or terms["compression"] or self.compression,
        )
        running = _running.get()
        more: dict[str, Any] = {}
        if running is not None and running[1].id is not None:
            more["root_id"], more["parent_id"] = running[1].root_id or running[1].id, running[1].id
        if options:
            more.update(self._extras(options))
        if self._are_messages and self._results is not None:
            more["reply_to"] = self._results.reply_to
        get = options.get
        hard, soft = get("time_limit", terms["timeout"]), get("soft_time_limit", terms["soft_timeout"])
        priority, ignored = get("priority", terms["priority"]), get("ignore_result")
        size = len(body)
        return batch.add(
            name,
            get("queue") or terms["queue"] or self.default_queue,
            body,
            id=get("task_id"),
            content_type=content_type,
            content_encoding=content_encoding,
            compression=compressed,
            argsrepr=get("argsrepr") or _sending._shown(args, size),
            kwargsrepr=get("kwargsrepr") or _sending._shown(kwargs, size),
            origin=_sending._origin or _sending.origin(),
            priority=priority or 0,
            time_limit=hard,
            soft_time_limit=soft,
            ignore_result=(None if isinstance(task, str) else terms["ignore_result"])
            if ignored is None
            else ignored,
            **more,
        )

    def _extras(self, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """What few calls have."""
        eta = _sending.not_before(options.get("countdown"), options.get("eta"), self.zone)
        expires, expiration = _sending.not_after(options.get("expires"), self.zone)
        yield from {
            "eta": eta,
            "expires": expires,
            "expiration": expiration,
            "headers": _sending.headers_text(options.get("headers")),
        }.items()
        for name in ("shadow", "root_id", "parent_id"):
            if name in options:
                yield name, options[name]

    def _route(self, name: str) -> Mapping[str, Any]:
        for pattern, route in self.routes.items():
            if fnmatch.fnmatchcase(name, pattern):
                return {"queue": route} if isinstance(route, str) else route
        return {}

    # Running here.

    def _run_here(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> _EagerResult:
        task, request = self._begin_here(task, args, kwargs, options)
        while True:
            try:
                return self._ended(request, task.run_request(request, args, kwargs))
            except Retry as retry:
                args, kwargs = _next_attempt(request, retry)
            except Exception as error:
                return self._failed(request, error)

    async def _arun_here(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> _EagerResult:
        task, request = self._begin_here(task, args, kwargs, options)
        while True:
            try:
                return self._ended(request, await task.arun_request(request, args, kwargs))
            except Retry as retry:
                args, kwargs = _next_attempt(request, retry)
            except Exception as error:
                return self._failed(request, error)

    def _begin_here(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Task[..., Any], Request]:
        task = self._task(task) if isinstance(task, str) else task
        task._check(args, kwargs)
        id = options.get("task_id") or str(uuid.uuid4())
        running = _running.get()
        above = running[1] if running is not None else None
        request = Request(
            id=id,
            task=task.name,
            args=args,
            kwargs=dict(kwargs),
            root_id=(above.root_id if above else None) or id,
            parent_id=above.id if above else None,
            correlation_id=id,
            headers=dict(options.get("headers") or {}),
            called_directly=False,
            is_eager=True,
        )
        return task, request

    def _ended(self, request: Request, value: Any) -> _EagerResult:
        return _EagerResult(str(request.id), self, "SUCCESS", value, None, None)

    def _failed(self, request: Request, error: Exception) -> _EagerResult:
        state = {Ignore: "IGNORED", Reject: "REJECTED"}.get(type(error), "FAILURE")
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return _EagerResult(str(request.id), self, state, None, error, text)

    # Looking after.

    def revoke(self, ids: str | Iterable[str], *, terminate: bool = False) -> None:
        """Have workers drop tasks that have not begun.

        Workers learn of it within about a second, also those that are started within the next hours; on
        RabbitMQ only those that are there now, as with Celery. The task's state is "REVOKED" when a worker
        comes to it.

        Args:
            ids: One id, or several.
            terminate: Celery's workers stop the tasks also if they run; ours let them run to their end.
        """
        self._broker.revoke([ids] if isinstance(ids, str) else list(ids), terminate)

    def depth(self, queue: str | None = None) -> int:
        """How many messages wait in a queue, by default in the `default_queue`."""
        return self._broker.depth(queue or self.default_queue)

    def purge(self, queue: str | None = None) -> int:
        """Delete the messages that wait in a queue; returns how many there were."""
        return self._broker.purge(queue or self.default_queue)

    def close(self) -> None:
        """Close the connections, for all who share them in this process. The next use makes new ones."""
        self._broker.close()
        if self._results is not None:
            self._results.close()

    @property
    def broker(self) -> str:
        """The address of the broker, without its password."""
        return self._broker.address

    @property
    def results(self) -> str | None:
        """The address of the result store, without its password."""
        return None if self._results is None else self._results.address

    def _forget_later(self, id: str) -> None:
        if self._results is not None:
            self._results.begin_forget(id)

    def _put(self, id: str, state: str, result: Any, request: Request) -> None:
        """Store a state that is no end."""
        if self._results is None:
            return
        kind = _serial.find(self.result_serializer)
        made = document(id, state, result, parent_id=request.parent_id, group_id=request.group)
        self._results.put(
            id,
            state,
            _serial.write_document(made, self.result_serializer),
            content_type=kind.content_type,
            content_encoding=kind.content_encoding,
            reply_to=request.reply_to,
        )

    def _read_document(self, state: str, document: bytes) -> Mapping[str, Any]:
        del state  # what the document says counts, as it does for Celery
        kind = _serial.find(self.result_serializer)
        return _serial.read_document(
            document, kind.content_type, kind.content_encoding, accept=self._accepted, most=self.max_size
        )

    def __repr__(self) -> str:
        """Its name, its broker, and how many tasks it has."""
        return f"<Queue {self.name!r} {self.broker} tasks={len(self.tasks)}>"


def current_task() -> Task[..., Any] | None:
    """Return the task that runs here; None outside of any.

    Example:
        >>> import manyhands as mh
        >>> from manyhands.queue import current_task
        >>> queue = mh.Queue("shop", eager=True)
        >>> @queue.task(name="shop.whoami")
        ... def whoami():
        ...     return current_task().name
        >>> whoami.delay().get()
        'shop.whoami'
    """
    running = _running.get()
    return None if running is None else running[0]


def _checked(options: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The options of a task, in the form that it keeps them."""
    unknown = sorted(set(options) - set(_TASK_OPTIONS))
    if unknown:
        raise TypeError(
            f"could not set up {whose}: found {_listed(unknown)}, expected {_listed(_TASK_OPTIONS)}"
        )
    terms = dict(options)
    if "retries" in terms and "retry_on" not in terms and terms["retries"] != 0:
        terms["retry_on"] = (Exception,)
    if isinstance(terms.get("retry_on"), type):
        terms["retry_on"] = (terms["retry_on"],)
    elif "retry_on" in terms:
        terms["retry_on"] = tuple(terms["retry_on"])
    if isinstance(terms.get("backoff"), str):
        if terms["backoff"] != "exponential":
            raise ValueError(
                f'could not use `backoff`: found {terms["backoff"]!r}, expected "exponential" or seconds'
            )
        terms["backoff"] = _TASK_OPTIONS["backoff"]
    if terms.get("on") not in (None, *_ON):
        raise ValueError(f"could not use `on`: found {terms['on']!r}, expected {_listed(_ON)}")
    return terms


def _place_of_results(broker: str) -> str:
    return "rpc://" if broker.partition("://")[0] in ("amqp", "amqps", "pyamqp") else broker


def _patience(options: Mapping[str, Any]) -> float | None:
    return 0.0 if options.get("retry") is False else None


def _arguments(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), dict(call)) if isinstance(call, Mapping) else (tuple(call), {})


def _next_attempt(request: Request, retry: Retry) -> tuple[Any, Mapping[str, Any]]:
    request.retries += 1
    request.args = retry.changes.get("args", request.args)
    request.kwargs = retry.changes.get("kwargs", request.kwargs)
    return request.args, request.kwargs


def _is_same(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether it is the same function, perhaps defined once more: by a reload, or at a prompt."""
    return (known.__module__, known.__qualname__) == (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
    )


def _only_queue(module: ModuleType) -> Queue:
    found = {name: value for name, value in vars(module).items() if isinstance(value, Queue)}
    for usual in ("queue", "app", "celery"):
        if usual in found:
            return found[usual]
    if len(set(map(id, found.values()))) != 1:
        raise ValueError(
            f"could not load {module.__name__!r}: found {_listed(found)}, expected one Queue\n"
            f"hint: say which, as in {module.__name__}:queue"
        )
    return next(iter(found.values()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


_flushing: list[float] = []


def _flush_at_exit(patience: float) -> None:
    if not _flushing:
        atexit.register(_flush)
    _flushing.append(patience)


def _flush() -> None:
    left, refused = _core.flush_queues(max(_flushing))
    if left or refused:
        text = f"lost {left + refused} tasks that were kept in memory: the broker did not take them"
        _log.error("%s", text)
        # There may be no handler any more, and this must be seen.
        print(f"manyhands: {text}", file=sys.stderr)


os.register_at_fork(after_in_child=_flushing.clear)
