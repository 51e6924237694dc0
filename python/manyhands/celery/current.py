"""What a Celery program has without an application at hand: the current one, and tasks of whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from manyhands.queue.signature import Signature

if TYPE_CHECKING:
    from manyhands.celery.app import Celery
    from manyhands.celery.tasks import Task

__all__ = ["current_app", "shared_task", "signature"]

_apps: list[Celery] = []
_current: Celery | None = None
_shared: list[Callable[[Celery], Task]] = []


def _entered(app: Celery, *, is_current: bool) -> None:
    """There is another application."""
    if is_current or _current is None:
        _set_current(app)
    _apps.append(app)
    for shared in _shared:
        shared(app)


def _set_current(app: Celery) -> None:
    global _current
    _current = app


def _default_app() -> Celery:
    from manyhands.celery.app import Celery

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
            return app._made(function, options) if known is None else known  # type: ignore[return-value]

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
