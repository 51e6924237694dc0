"""The application: its tasks, its broker, its results, and how a call becomes a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timezone, tzinfo
from typing import Any, Literal, ParamSpec, TypeVar, overload

from manyhands import _core
from manyhands.queue import _serial
from manyhands.queue._main import main_name
from manyhands.queue._outcomes import document
from manyhands.queue._publishing import _flush_at_exit, _Sender
from manyhands.queue._terms import _TASK_OPTIONS, _checked
from manyhands.queue.request import Request, _running
from manyhands.queue.results import AsyncResult, _brought
from manyhands.queue.signature import Signature
from manyhands.queue.task import Task

__all__ = ["Queue", "current_task"]

P = ParamSpec("P")
R = TypeVar("R")


class Queue(_Sender):
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
        max_priority: The highest priority that queues sort by, from 1 to 255, on RabbitMQ, where a queue has
            priorities only if it was declared with them; 10 is plenty. The others always have them.
        queue_type: "classic" or "quorum" (kept on several servers), on RabbitMQ. With either, queues are
            declared just so, and one that is there and otherwise is refused; by default one that is there
            is taken as it is.
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
        routes: Mapping[str, str | Mapping[str, Any]] | None = None,
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
        max_priority: int | None = None,
        queue_type: Literal["classic", "quorum"] | None = None,
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
        _check_declaration(max_priority, queue_type)
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
            max_priority=max_priority,
            queue_type=queue_type,
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

    @staticmethod
    def load(text: str) -> Queue:
        """Find an application by "module:attribute", as a worker is told on the command line.

        Args:
            text: Without an attribute, the one application of that module is meant.

        Raises:
            ValueError: There is none, or there are several; the message says what there is.
            ModuleNotFoundError: There is no such module.
        """
        from manyhands.queue._loading import load

        return load(text)

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

    # Looking after.

    def revoke(self, ids: str | Iterable[str], *, terminate: bool = False) -> None:
        """Have workers drop tasks that have not begun.

        Workers learn of it within about a second, also those that are started within the next hours; on
        RabbitMQ only those that are there now, as with Celery. The task's state is "REVOKED" as soon as the
        worker learns of it that has its message, be it one with an ETA; else when a worker comes to it.

        Args:
            ids: One id, or several.
            terminate: Tasks are ended also if they run, as at a hard time limit: a process is replaced, a
                coroutine cancelled, a thread interrupted at its next bytecode. They are not run again.
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
        if self._results is not None:
            self._results.put(id, state, **self._written(id, state, result, request))

    async def _aput(self, id: str, state: str, result: Any, request: Request) -> None:
        """`_put`, on the event loop that runs."""
        if self._results is not None:
            written = self._written(id, state, result, request)
            await _brought(self._results.begin_put(id, state, **written))

    def _written(self, id: str, state: str, result: Any, request: Request) -> dict[str, Any]:
        kind = _serial.find(self.result_serializer)
        made = document(id, state, result, parent_id=request.parent_id, group_id=request.group)
        return {
            "document": _serial.write_document(made, self.result_serializer),
            "content_type": kind.content_type,
            "content_encoding": kind.content_encoding,
            "reply_to": request.reply_to,
        }

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


def _place_of_results(broker: str) -> str:
    return "rpc://" if broker.partition("://")[0] in ("amqp", "amqps", "pyamqp") else broker


def _is_same(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether it is the same function, perhaps defined once more: by a reload, or at a prompt."""
    return (known.__module__, known.__qualname__) == (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
    )


def _check_declaration(max_priority: int | None, queue_type: str | None) -> None:
    if max_priority is not None and not (isinstance(max_priority, int) and 1 <= max_priority <= 255):
        raise ValueError(
            f"could not use `max_priority`: found {max_priority!r}, expected a number from 1 to 255"
        )
    if queue_type not in (None, "classic", "quorum"):
        raise ValueError(f'could not use `queue_type`: found {queue_type!r}, expected "classic" or "quorum"')
    if max_priority and queue_type == "quorum":
        raise ValueError(
            "could not use `max_priority`: found a quorum queue, expected a classic one\n"
            "hint: RabbitMQ has no priorities to declare for quorum queues"
        )
