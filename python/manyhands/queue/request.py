"""What a task knows of the call that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from manyhands.queue.task import Task

__all__ = ["Request"]


@dataclass(slots=True)
class Request:
    """One call of a task, as ``self.request`` of a task with ``bind=True``. The names are Celery's.

    Attributes:
        id: The task's id; None where the task was called as a function.
        task: The task's name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        retries: How many attempts came before this one.
        eta: Before when it was not to be run, in ISO 8601.
        expires: After when it was not to be begun, in ISO 8601.
        timelimit: Seconds: the hard limit, then the soft one.
        ignore_result: Whether the result is not wanted.
        root_id: The first task of the workflow.
        parent_id: The task that sent this one.
        group: The id of the group that it is a member of.
        group_index: Its position in the group.
        correlation_id: The task's id, as the message says it.
        reply_to: Where results by messages go.
        origin: Who sent it.
        argsrepr: The arguments as text.
        kwargsrepr: The keyword arguments as text.
        shadow: The name that is shown instead of the task's.
        headers: All other headers of the message.
        delivery_info: From which queue it came: "exchange", "routing_key", "priority", "redelivered".
        hostname: The worker.
        called_directly: Whether the task was called as a function.
        is_eager: Whether it runs in the process that sent it.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", eager=True)
        >>> @queue.task(bind=True)
        ... def attempts(self):
        ...     return self.request.retries
        >>> attempts.delay().get()
        0
    """

    id: str | None = None
    task: str | None = None
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    ignore_result: bool | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    origin: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    shadow: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    delivery_info: dict[str, Any] = field(default_factory=dict)
    hostname: str | None = None
    called_directly: bool = True
    is_eager: bool = False

    @classmethod
    def from_headers(
        cls,
        headers: Mapping[str, Any],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Self:
        """Make the request of a message.

        Args:
            headers: Those of the message, by their names in Celery's protocol. What is no field here is in
                `headers`.
            args: The positional arguments, decoded.
            kwargs: The keyword arguments, decoded.
            **more: Fields that are no headers: hostname, delivery_info, reply_to, …

        Example:
            >>> from manyhands.queue import Request
            >>> request = Request.from_headers({"id": "7", "task": "shop.charge", "tenant": "acme"}, (42,))
            >>> request.id, request.args, request.headers
            ('7', (42,), {'tenant': 'acme'})
        """
        known = {name: headers[name] for name in _FROM_HEADERS if headers.get(name) is not None}
        others = {name: value for name, value in headers.items() if name not in _OF_THE_PROTOCOL}
        if "timelimit" in known:
            hard, soft = known["timelimit"]
            known["timelimit"] = (hard, soft)
        known.setdefault("correlation_id", known.get("id"))
        fields = {**known, "headers": others, "called_directly": False, **more}
        return cls(args=args, kwargs=dict(kwargs or {}), **fields)


_FROM_HEADERS = (
    "id",
    "task",
    "retries",
    "eta",
    "expires",
    "timelimit",
    "ignore_result",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "origin",
    "argsrepr",
    "kwargsrepr",
    "shadow",
)
_OF_THE_PROTOCOL = {
    *_FROM_HEADERS,
    "lang",
    "compression",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
}

_running: ContextVar[tuple[Task[..., Any], Request] | None] = ContextVar("manyhands_running", default=None)
"""The task that this context runs, and its call."""
