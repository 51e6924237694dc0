"""Tasks with Celery's options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from manyhands.celery.settings import _Conf, _seconds, _warn
from manyhands.errors import Ignore, Reject, Retry
from manyhands.queue.request import Request
from manyhands.queue.results import AsyncResult as _AsyncResult
from manyhands.queue.task import Task as _Task

__all__ = ["Task"]

_TERMS = {
    "max_retries": "retries",
    "default_retry_delay": "retry_delay",
    "autoretry_for": "retry_on",
    "retry_backoff_max": "max_backoff",
    "retry_jitter": "jitter",
    "rate_limit": "rate",
    "time_limit": "timeout",
    "soft_time_limit": "soft_timeout",
}
"""Options of a task that are called otherwise here."""
_SAME = frozenset(
    (
        "acks_late",
        "bind",
        "compression",
        "ignore_result",
        "on",
        "priority",
        "queue",
        "reject_on_worker_lost",
        "serializer",
        "track_started",
    )
)
# fmt: off
_NEEDLESS_OPTIONS = frozenset(
    (
        "abstract", "acks_on_failure_or_timeout", "base", "lazy", "name", "pydantic",
        "send_events", "shared", "store_errors_even_if_ignored", "throws", "trail", "typing",
        "retry_kwargs", "retry_backoff", "exchange", "expires", "routing_key", "delivery_mode",
    )
)
# fmt: on
_HOOKS = ("__call__", "before_start", "on_success", "on_failure", "on_retry", "after_return")
# fmt: off
_CALL_NEEDLESS = frozenset(
    (
        "add_to_parent", "connection", "delivery_mode", "exchange", "exchange_type",
        "immediate", "mandatory", "producer", "publisher", "reply_to", "result_cls",
        "retry_policy", "router", "task_type", "time_to_run", "group_id", "group_index",
        "ignored", "replaced_task_nesting", "root_task_id",
    )
)
# fmt: on
_CANVAS = ("link", "link_error", "chain", "chord")

_Options: TypeAlias = Mapping[str, Any]


def _translated(options: _Options, conf: _Conf, name: str) -> dict[str, Any]:
    """Celery's options of a task in ours."""
    terms: dict[str, Any] = {
        "retries": 3,
        "retry_on": (),
        "backoff": 0,
        "retry_delay": 180.0,
        "rate": conf.task_default_rate_limit,
    }
    options = {**options, **_annotated(conf.task_annotations, name)}
    if conf.worker_disable_rate_limits:
        terms.pop("rate")
        options.pop("rate_limit", None)
    kwargs = options.get("retry_kwargs") or {}
    if "max_retries" in kwargs:
        terms["retries"] = kwargs["max_retries"]
    if "countdown" in kwargs:
        terms["retry_delay"] = float(kwargs["countdown"])
    for option, value in options.items():
        if option in _TERMS:
            terms[_TERMS[option]] = _seconds(value)
        elif option in _SAME:
            terms[option] = value
        elif option == "retry_backoff":
            terms["backoff"] = float(value)
        elif option == "routing_key":
            terms.setdefault("queue", value)
        elif option not in _NEEDLESS_OPTIONS and not callable(value):
            _warn("task option", option)
    return terms


def _annotated(annotations: Any, name: str) -> dict[str, Any]:
    """What `task_annotations` say of a task."""
    if annotations is None:
        return {}
    if not isinstance(annotations, Mapping):
        _warn("setting", "task_annotations")
        return {}
    return {**annotations.get("*", {}), **annotations.get(name, {})}


class Task(_Task[Any, Any]):
    """A task of a `Celery` application; subclass it for ``base=``, to be told of how calls end.

    ``async def`` tasks tell of nothing.

    Example:
        >>> from manyhands.celery import Celery, Task
        >>> app = Celery("shop", broker="memory://")
        >>> app.conf.task_always_eager = True
        >>> class Loud(Task):
        ...     def on_failure(self, exc, task_id, args, kwargs, einfo):
        ...         print("failed:", exc)
        >>> @app.task(base=Loud)
        ... def charge(order):
        ...     raise ValueError(order)
        >>> charge.delay(7).state
        failed: 7
        'FAILURE'
    """

    _given: _Options

    @property
    def max_retries(self) -> int | None:
        """How often it may be tried again."""
        return self.retries

    @max_retries.setter
    def max_retries(self, value: int | None) -> None:
        self.retries = value

    @property
    def default_retry_delay(self) -> float:
        """Seconds before a retry that says nothing else."""
        return self.retry_delay

    @property
    def run(self) -> Callable[..., Any]:
        """The function, as one calls it: with the task already given if it is bound."""
        return functools.partial(self.function, self) if self.bind else self.function

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: object = None,
        link: object = None,
        link_error: object = None,
        shadow: str | None = None,
        **options: Any,
    ) -> _AsyncResult:
        """Send a call to the workers, with Celery's options.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments.
            task_id: The id; by default a new one.
            producer: Ignored.
            link: Not there yet: a TypeError.
            link_error: Not there yet: a TypeError.
            shadow: A name to show instead of the task's.
            **options: As for `mh.queue.Task.apply_async`; `routing_key` stands for `queue`.
        """
        del producer
        given = {"task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow, **options}
        if "expires" in self._given:
            given.setdefault("expires", self._given["expires"])
        return super().apply_async(args, kwargs, **_call_options(given))

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """To be overridden: a call begins."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """To be overridden: a call has returned."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """To be overridden: a call is to be tried again."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """To be overridden: a call has failed."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """To be overridden: a call is over, however it ended."""

    def run_request(self, request: Request, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Make the call of a message, and tell what the class wants to be told."""
        if not _has_hooks(type(self)) or self.is_coroutine:
            return super().run_request(request, args, kwargs)
        state, value, info = "SUCCESS", None, None
        self.before_start(str(request.id), args, kwargs)
        try:
            value = super().run_request(request, args, kwargs)
            self.on_success(value, str(request.id), args, kwargs)
        except (Ignore, Reject):
            state = ""
            raise
        except Retry as retry:
            state, value, info = "RETRY", retry.exc or retry, _ExceptionInfo(retry)
            self.on_retry(value, str(request.id), args, kwargs, info)
            raise
        except Exception as error:
            state, value, info = "FAILURE", error, _ExceptionInfo(error)
            self.on_failure(error, str(request.id), args, kwargs, info)
            raise
        finally:
            if state:
                self.after_return(state, value, str(request.id), args, kwargs, info)
        return value


def _has_hooks(kind: type[Task]) -> bool:
    return any(getattr(kind, hook) is not getattr(Task, hook) for hook in _HOOKS)


class _ExceptionInfo:
    """An exception and its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        import traceback

        self.exception, self.type, self.tb = error, type(error), error.__traceback__
        self.traceback = "".join(traceback.format_exception(type(error), error, error.__traceback__))

    def __str__(self) -> str:
        return self.traceback


def _call_options(options: _Options) -> dict[str, Any]:
    """Celery's options of a call in ours."""
    canvas = [name for name in _CANVAS if options.get(name)]
    if canvas:
        raise TypeError(
            f"could not send the task: found {', '.join(canvas)}, which manyhands has not yet\n"
            "hint: send the next task at the end of this one, or in `on_success` of a class for `base=`"
        )
    ours = {
        name: _seconds(value)
        for name, value in options.items()
        if value is not None and name not in _CALL_NEEDLESS and name not in _CANVAS
    }
    routing_key = ours.pop("routing_key", None)
    if routing_key is not None:
        ours.setdefault("queue", routing_key)
    if ours.get("queue") is not None and not isinstance(ours["queue"], str):
        ours["queue"] = ours["queue"].name
    return ours


def _of_class(kind: type) -> dict[str, Any]:
    """The options that a base class of tasks has as attributes."""
    own = kind.__mro__[: kind.__mro__.index(Task)]
    names = {*_TERMS, *_SAME, "retry_backoff", "retry_kwargs"} - {"bind"}
    return {name: vars(each)[name] for each in reversed(own) for name in names & vars(each).keys()}


def _routes(routes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pattern, route in _pairs(routes):
        if isinstance(pattern, str) and isinstance(route, (str, Mapping)):
            found.setdefault(pattern, route if isinstance(route, str) else _call_options(route))
        else:
            _warn("setting", "task_routes", f"found {pattern!r}")
    return found


def _pairs(routes: Any) -> Iterator[tuple[Any, Any]]:
    """Patterns and where they go, of a dict, a list of pairs, or a list of such."""
    if isinstance(routes, Mapping):
        yield from routes.items()
        return
    for each in routes if isinstance(routes, (list, tuple)) else filter(None, [routes]):
        if isinstance(each, (list, tuple)) and len(each) == 2 and isinstance(each[1], (str, Mapping)):
            yield each[0], each[1]
        elif isinstance(each, (Mapping, list, tuple)):
            yield from _pairs(each)
        else:
            yield each, None
