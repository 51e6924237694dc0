"""Applications with Celery's settings and ways."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manyhands.celery.current import _entered, _set_current
from manyhands.celery.discovery import _django_applications, _related
from manyhands.celery.result import AsyncResult
from manyhands.celery.settings import (
    _CRON,
    _KNOWN_TRANSPORT_OPTIONS,
    _broker_address,
    _Conf,
    _declaration,
    _named,
    _queue_names,
    _result_address,
    _seconds,
    _settings_of,
    _warn,
    _worker_options,
    _zone,
)
from manyhands.celery.tasks import (
    _NEEDLESS_OPTIONS,
    _SAME,
    _TERMS,
    Task,
    _call_options,
    _has_hooks,
    _of_class,
    _Options,
    _routes,
    _translated,
)
from manyhands.queue.app import Queue
from manyhands.queue.request import Request
from manyhands.queue.results import AsyncResult as _AsyncResult
from manyhands.queue.results import _EagerResult

__all__ = ["Celery"]


class Celery(Queue):
    """An application with Celery's settings and ways; see `mh.Queue` for what it is beneath.

    Args:
        main: What the application is called, and the module that tasks of the script belong to.
        broker: Where the messages are; by default the setting ``broker_url``.
        backend: Where the results are; by default the setting ``result_backend``; None keeps none.
        include: Modules that a worker imports.
        config_source: Settings, as for `config_from_object`.
        namespace: What their names begin with there.
        task_cls: The class of tasks that have no ``base=``, or "module:Class".
        set_as_current: Whether shared tasks and `current_app` mean this application from now on.
        **settings: Settings by their names.

    Example:
        >>> from manyhands.celery import Celery
        >>> app = Celery("shop", broker="memory://", backend="memory://")
        >>> app.conf.update(task_serializer="json", task_acks_late=True, task_always_eager=True)
        >>> @app.task(bind=True, autoretry_for=(OSError,), max_retries=5, retry_backoff=True)
        ... def charge(self, order):
        ...     return f"charged {order}"
        >>> charge.delay(42).get()
        'charged 42'
    """

    conf: _Conf
    """The settings: a mapping, and attributes."""

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        task_cls: type[Task] | str | None = None,
        set_as_current: bool = True,
        **settings: Any,
    ) -> None:
        self.main = main
        self._kind = _class_of_tasks(task_cls)
        self._included: list[Callable[[], Iterable[str]]] = []
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        self.tasks = {}
        self.conf = _Conf({name: value for name, value in given.items() if value is not None}, self._renew)
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self.conf.update(settings)
        _entered(self, is_current=set_as_current)

    def config_from_object(self, obj: Any, silent: bool = False, namespace: str | None = None) -> None:
        """Take settings over from a module, an object or a mapping, or from one by its name.

        Args:
            obj: It, or "module", "module:attribute".
            silent: Go on if there is no such module.
            namespace: What the names of the settings begin with there, as "CELERY" in Django's settings.
        """
        try:
            found = _settings_of(obj, namespace)
        except ImportError:
            if silent:
                return
            raise
        self.conf.update(found)

    def config_from_envvar(self, variable_name: str, silent: bool = False) -> None:
        """Take settings over from the module that an environment variable names.

        Args:
            variable_name: The variable.
            silent: Go on if it is not set.
        """
        name = os.environ.get(variable_name)
        if name:
            self.config_from_object(name, silent=silent)
        elif not silent:
            raise KeyError(f"could not configure {self.main!r}: found no variable {variable_name!r}")

    def _renew(self) -> None:
        """Have everything follow the settings."""
        conf, tasks = self.conf, self.tasks
        transport, backend = conf.broker_transport_options or {}, conf.result_backend_transport_options or {}
        for option in {*transport} - _KNOWN_TRANSPORT_OPTIONS:
            _warn("setting", f"broker_transport_options[{option!r}]")
        super().__init__(
            self.main or "celery",
            _broker_address(conf.broker_url, conf._given.get("broker_heartbeat")),
            _result_address(conf.result_backend),
            default_queue=conf.task_default_queue,
            routes=_routes(conf.task_routes),
            serializer=conf.task_serializer,
            result_serializer=conf.result_serializer,
            accept=conf.accept_content,
            compression=conf.task_compression,
            eager=bool(conf.task_always_eager),
            when_unreachable="wait" if conf.task_publish_retry else "fail",
            keep_results=float(_seconds(conf.result_expires) or 10 * 365 * 86_400),
            key_prefix=transport.get("global_keyprefix") or backend.get("global_keyprefix") or "",
            connect_timeout=float(conf.broker_connection_timeout),
            visibility=float(_seconds(transport.get("visibility_timeout", 3600))),
            **_declaration(conf),
            zone=_zone(conf.timezone),
            include=(*_named(conf.imports), *_named(conf.include)),
            acks_late=conf.task_acks_late,
            reject_on_worker_lost=bool(conf.task_reject_on_worker_lost),
            timeout=_seconds(conf.task_time_limit),
            soft_timeout=_seconds(conf.task_soft_time_limit),
            ignore_result=conf.task_ignore_result,
            track_started=conf.task_track_started,
            priority=conf.task_default_priority,
        )
        self.worker_options = _worker_options(conf)
        self.tasks = tasks
        for name, task in tasks.items():
            if isinstance(task, Task):
                task.__dict__.update(self._told(type(task), task._given, name))

    def _told(self, kind: type[Task], given: _Options, name: str) -> dict[str, Any]:
        """The terms of a task."""
        terms = self._terms(_translated(given, self.conf, name), name)
        if _has_hooks(kind) and not terms["retry_on"]:
            # Whoever runs it is not to take the short way past `run_request`.
            terms["retry_on"] = (_Never,)
        return terms

    def task(self, *args: Any, **options: Any) -> Any:
        """Make a function a task; a decorator, with Celery's options or without.

        Args:
            *args: The function.
            **options: name, bind, base, autoretry_for, max_retries, default_retry_delay, retry_backoff,
                retry_backoff_max, retry_jitter, rate_limit, time_limit, soft_time_limit, acks_late,
                ignore_result, serializer, queue, priority, track_started, …
        """

        def make(function: Callable[..., Any]) -> Task:
            return self._made(function, options)

        return make(*args) if args else make

    def _made(self, function: Callable[..., Any], options: _Options) -> Task:
        name = options.get("name") or self._name_of(function)
        kind = options.get("base") or self._kind
        given = {**_of_class(kind), **options}
        known = self.tasks.get(name)
        if isinstance(known, Task) and known.function is function:
            return known
        task: Task = kind(self, function, name, self._told(kind, given, name))
        task._given = given
        for option, value in given.items():
            if option not in (*_TERMS, *_SAME, *_NEEDLESS_OPTIONS) and not hasattr(kind, option):
                setattr(task, option, value)
        self.tasks[name] = task
        return task

    def _name_of(self, function: Callable[..., Any]) -> str:
        if getattr(function, "__module__", None) in ("__main__", "__mp_main__") and self.main:
            return f"{self.main}.{function.__name__}"
        return super()._name_of(function)

    def gen_task_name(self, name: str, module: str) -> str:
        """Return what a function of a module is called as a task."""
        return f"{self.main if module == '__main__' and self.main else module}.{name}"

    @property
    def include(self) -> tuple[str, ...]:
        """Modules that a worker imports."""
        found = [name for names in self._included for name in names()]
        return (*self._include, *found)

    @include.setter
    def include(self, names: Iterable[str]) -> None:
        self._include = tuple(names)

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have workers import the tasks of packages.

        Args:
            packages: The packages, or a function that says which; None for Django's applications.
            related_name: The module in each that has the tasks; one that has none is passed over.
            force: Import them now.
        """

        def found() -> list[str]:
            if packages is None:
                named: Iterable[str] = _django_applications()
            else:
                named = packages() if callable(packages) else packages
            return [module for package in named if (module := _related(package, related_name))]

        self._included.append(found)
        if force:
            for module in found():
                importlib.import_module(module)

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> _AsyncResult:
        """Send a call of a task by its name, with Celery's options."""
        return super().send_task(name, args, kwargs, **_call_options(options))

    def result(self, id: str) -> _AsyncResult:
        """Return the result of a task by its id."""
        return AsyncResult(id, app=self)

    def AsyncResult(self, task_id: str, **_: Any) -> _AsyncResult:  # noqa: N802  # Celery's name
        """Return the result of a task by its id."""
        return self.result(task_id)

    @property
    def Task(self) -> type[Task]:  # noqa: N802  # Celery's name
        """The class of tasks that have no ``base=``: to inherit from, or to set before there are tasks."""
        return self._kind

    @Task.setter
    def Task(self, kind: type[Task]) -> None:  # noqa: N802
        self._kind = _class_of_tasks(kind)

    @property
    def control(self) -> _Control:
        """What can be asked of workers: `revoke` and `purge`."""
        return _Control(self)

    def set_current(self) -> None:
        """Make this the application that `current_app` and shared tasks mean."""
        _set_current(self)

    set_default = set_current

    def finalize(self, auto: bool = False) -> None:
        """Do nothing: tasks are ready when they are made."""

    def __getattr__(self, name: str) -> Any:
        """Say what to do instead of that which Celery's applications have and these have not."""
        hint = _NOT_HERE.get(name)
        more = f": manyhands has none yet\nhint: {hint}" if hint else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{more}")

    def _usual_queues(self) -> list[str]:
        # As Celery: other queues are for workers that are told so.
        return _queue_names(self.conf.task_queues) or [self.default_queue]

    def _failed(self, request: Request, error: Exception) -> _EagerResult:
        if self.conf.task_eager_propagates:
            raise error
        return super()._failed(request, error)


_NOT_HERE = {
    **dict.fromkeys(("add_periodic_task", "Beat"), _CRON),
    **dict.fromkeys(
        ("on_configure", "on_after_configure", "on_after_finalize", "on_after_fork"),
        "do it at the end of the module that makes the application; there are no signals",
    ),
    **dict.fromkeys(("worker_main", "start", "Worker", "WorkController"), "manyhands worker -A module:app"),
    **dict.fromkeys(("chain", "chord", "group", "canvas"), "send the next task at the end of this one"),
}


class _Never(Exception):
    """What no task raises."""


def _class_of_tasks(kind: type[Task] | str | None) -> type[Task]:
    if isinstance(kind, str):
        module, _, name = kind.replace(":", ".").rpartition(".")
        kind = getattr(importlib.import_module(module), name)
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, Task)):
        raise TypeError(
            f"could not use {kind!r} as the class of tasks: expected a class that inherits from "
            "manyhands.celery.Task"
        )
    return kind or Task


class _Control:
    def __init__(self, app: Celery) -> None:
        self._app = app

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False, **_: Any) -> None:
        self._app.revoke(task_id, terminate=terminate)

    def purge(self, **_: Any) -> int:
        return self._app.purge()

    discard_all = purge
