"""What a task knows of the call that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from manyhands.queue.task import Task

__all__ = ["Request"]


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

    id: str | None
    task: str | None
    args: Any
    kwargs: Any
    retries: int
    eta: str | None
    expires: str | None
    timelimit: tuple[float | None, float | None]
    ignore_result: bool | None
    root_id: str | None
    parent_id: str | None
    group: str | None
    group_index: int | None
    correlation_id: str | None
    reply_to: str | None
    origin: str | None
    argsrepr: str | None
    kwargsrepr: str | None
    shadow: str | None
    headers: dict[str, Any]
    delivery_info: dict[str, Any]
    hostname: str | None
    called_directly: bool
    is_eager: bool

    def __init__(self, **attributes: Any) -> None:
        """Make a request; what is not given is as where a task is called as a function.

        Raises:
            TypeError: There is no such attribute.
        """
        if unknown := attributes.keys() - _BLANK.keys():
            found = ", ".join(sorted(unknown))
            raise TypeError(f"could not make a request: found {found}, expected its attributes only")
        # By hand, for `dataclasses` is a large module, which each worker process would have.
        vars(self).update(_BLANK, kwargs={}, headers={}, delivery_info={})
        vars(self).update(attributes)

    def __repr__(self) -> str:
        """Its attributes, but for those that nobody gave."""
        told = ((name, getattr(self, name)) for name in _BLANK)
        return f"Request({', '.join(f'{name}={value!r}' for name, value in told if value != _BLANK[name])})"

    def __eq__(self, other: object) -> bool:
        """Whether all attributes are equal."""
        if not isinstance(other, Request):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _BLANK)

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


_BLANK: dict[str, Any] = {
    **dict.fromkeys(Request.__annotations__),
    "args": (),
    "kwargs": {},
    "retries": 0,
    "timelimit": (None, None),
    "headers": {},
    "delivery_info": {},
    "called_directly": True,
    "is_eager": False,
}
"""What is not told otherwise."""

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
