"""Applications with Celery's settings and ways, and what there is without one at hand."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manyhands.celery.settings import (
    _KNOWN_TRANSPORT_OPTIONS,
    _broker_address,
    _Conf,
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
from manyhands.queue.signature import Signature

__all__ = ["AsyncResult", "Celery", "current_app", "get_task_logger", "shared_task", "signature"]


class Celery(Queue):
    """An application with Celery's settings and ways; see `mh.Queue` for what it is beneath.

    Args:
        main: What the application is called, and the module that tasks of the script belong to.
        broker: Where the messages are; by default the setting ``broker_url``.
        backend: Where the results are; by default the setting ``result_backend``; None keeps none.
        include: Modules that a worker imports.
        config_source: Settings, as for `config_from_object`.
        namespace: What their names begin with there.
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
        set_as_current: bool = True,
        **settings: Any,
    ) -> None:
        self.main = main
        self._included: list[Callable[[], Iterable[str]]] = []
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        self.tasks = {}
        self.conf = _Conf({name: value for name, value in given.items() if value is not None}, self._renew)
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self.conf.update(settings)
        global _current
        if set_as_current or _current is None:
            _current = self
        _apps.append(self)
        for shared in _shared:
            shared(self)

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
            _broker_address(conf.broker_url),
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
            zone=_zone(conf.timezone),
            include=(*conf.imports, *conf.include),
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
        kind = options.get("base") or Task
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
        """The class to inherit for ``base=``."""
        return Task

    @property
    def control(self) -> _Control:
        """What can be asked of workers: `revoke` and `purge`."""
        return _Control(self)

    def set_current(self) -> None:
        """Make this the application that `current_app` and shared tasks mean."""
        global _current
        _current = self

    set_default = set_current

    def finalize(self, auto: bool = False) -> None:
        """Do nothing: tasks are ready when they are made."""

    def _failed(self, request: Request, error: Exception) -> _EagerResult:
        if self.conf.task_eager_propagates:
            raise error
        return super()._failed(request, error)


class _Never(Exception):
    """What no task raises."""


class _Control:
    def __init__(self, app: Celery) -> None:
        self._app = app

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False, **_: Any) -> None:
        self._app.revoke(task_id, terminate=terminate)

    def purge(self, **_: Any) -> int:
        return self._app.purge()

    discard_all = purge


class AsyncResult(_AsyncResult):
    """The outcome of a task by its id, with Celery's arguments.

    Args:
        id: The task's id.
        backend: Ignored.
        task_name: Ignored.
        app: The application; by default the current one.
        parent: Ignored.

    Example:
        >>> from manyhands.celery import AsyncResult, Celery
        >>> app = Celery("shop", broker="memory://", backend="memory://")
        >>> AsyncResult("nobody-knows").state
        'PENDING'
    """

    __slots__ = ()

    def __init__(
        self,
        id: str,
        backend: object = None,
        task_name: str | None = None,
        app: Queue | None = None,
        parent: object = None,
    ) -> None:
        super().__init__(id, app or _default_app())

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    def get(self, timeout: float | None = None, propagate: bool = True, **_: Any) -> Any:
        """Wait for the task, and return what it returned; see `mh.queue.AsyncResult.get`."""
        return super().get(timeout, propagate=propagate)

    wait = get

    def revoke(self, connection: object = None, *, terminate: bool = False, **_: Any) -> None:
        """Have workers drop the task if it has not begun; see `Queue.revoke`."""
        super().revoke(terminate=terminate)


def _django_applications() -> list[str]:
    try:
        apps = importlib.import_module("django.apps").apps
    except ModuleNotFoundError:
        return []
    return [config.name for config in apps.get_app_configs()]


def _related(package: str, name: str | None) -> str | None:
    """The module of a package that has its tasks, if there is one."""
    if name is None:
        return package
    module = f"{package}.{name}"
    try:
        return module if importlib.util.find_spec(module) is not None else None
    except ModuleNotFoundError as error:
        if error.name is not None and f"{package}.".startswith(f"{error.name}."):
            raise
        return None


# Without an application at hand.

_apps: list[Celery] = []
_current: Celery | None = None
_shared: list[Callable[[Celery], Task]] = []


def _default_app() -> Celery:
    return _current or Celery("default")


class _CurrentApp:
    """The application that was made last, or was set as the current one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_default_app(), name)

    def __repr__(self) -> str:
        return repr(_default_app())


current_app = _CurrentApp()
"""The application that was made last, or was set as the current one."""


class _SharedTask:
    """A task of whichever application is the current one."""

    def __init__(self, function: Callable[..., Any], make: Callable[[Celery], Task]) -> None:
        self.__dict__.update(__wrapped__=function, __doc__=function.__doc__, _make=make)
        self.__dict__.update(__module__=function.__module__, __qualname__=function.__qualname__)

    def _now(self) -> Task:
        make: Callable[[Celery], Task] = self.__dict__["_make"]
        return make(_default_app())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._now(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._now()(*args, **kwargs)

    def __reduce__(self) -> str:
        return str(self.__dict__["__qualname__"])

    def __repr__(self) -> str:
        return repr(self._now())


def shared_task(*args: Any, **options: Any) -> Any:
    """Make a function a task of every application there is or will be; a decorator.

    Args:
        *args: The function.
        **options: As for `Celery.task`.

    Example:
        >>> from manyhands.celery import Celery, shared_task
        >>> @shared_task(name="shop.greet")
        ... def greet(name):
        ...     return f"hello, {name}"
        >>> app = Celery("shop", broker="memory://", task_always_eager=True)
        >>> greet.delay("ann").get()
        'hello, ann'
    """

    def make(function: Callable[..., Any]) -> _SharedTask:
        def of(app: Celery) -> Task:
            name = options.get("name") or app._name_of(function)
            known = app.tasks.get(name)
            return known if isinstance(known, Task) else app._made(function, options)

        _shared.append(of)
        for app in _apps:
            of(app)
        return _SharedTask(function, of)

    return make(*args) if args else make


def signature(task: str | Mapping[str, Any], *args: Any, **options: Any) -> Signature:
    """Return a call of a task of the current application as a value.

    Args:
        task: The task's name, or a signature that came as a dict.
        *args: Positional and keyword arguments, as for `Queue.signature`.
        **options: Options of the call.

    Example:
        >>> from manyhands.celery import Celery, signature
        >>> app = Celery("shop", broker="memory://")
        >>> signature("shop.greet", ("ann",))
        shop.greet('ann')
    """
    return _default_app().signature(task, *args, **options)


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger for a module's tasks.

    Args:
        name: The module's name.

    Example:
        >>> from manyhands.celery import get_task_logger
        >>> get_task_logger("shop").name
        'shop'
    """
    return logging.getLogger(name)
