"""Calls of tasks that are not made yet, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.queue.app import Queue
    from manyhands.queue.results import AsyncResult

__all__ = ["Signature"]


class Signature(dict[str, Any]):
    """A task, its arguments and the options of its call: a dict in Celery's form, which can be sent as it is.

    ``task.s(...)`` makes one.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", eager=True)
        >>> @queue.task
        ... def add(a, b):
        ...     return a + b
        >>> later = add.s(2)
        >>> later["args"], later.delay(3).get()
        ((2,), 5)
    """

    _queue: Queue | None

    def __init__(
        self,
        task: str | Mapping[str, Any],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        queue: Queue | None = None,
    ) -> None:
        if isinstance(task, str):
            super().__init__(
                task=task,
                args=tuple(args),
                kwargs=dict(kwargs or {}),
                options=dict(options or {}),
                subtask_type=None,
                immutable=immutable,
            )
        else:
            super().__init__(task)
        self._queue = queue

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self["task"])

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments so far."""
        return tuple(self.get("args") or ())

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments so far."""
        return dict(self.get("kwargs") or {})

    @property
    def options(self) -> dict[str, Any]:
        """What `Task.apply_async` is given."""
        return dict(self.get("options") or {})

    def _with(self, args: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.get("immutable"):
            return self.args, self.kwargs
        # What comes later comes first: a result is handed on as the first argument.
        return (*args, *self.args), {**self.kwargs, **kwargs}

    def clone(self, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature:
        """Return a copy with more arguments, which come before those here, and other options."""
        all_args, all_kwargs = self._with(args, kwargs or {})
        return Signature(
            {**self, "args": all_args, "kwargs": all_kwargs, "options": {**self.options, **options}},
            queue=self._queue,
        )

    def set(self, *, immutable: bool | None = None, **options: Any) -> Signature:
        """Set options of the call, here; returns this signature."""
        if immutable is not None:
            self["immutable"] = immutable
        self["options"] = {**self.options, **options}
        return self

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send the call, with these arguments added."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Send the call, with more arguments and other options, see `Task.apply_async`."""
        all_args, all_kwargs = self._with(args or (), kwargs or {})
        return self._home().send_task(self.task, all_args, all_kwargs, **{**self.options, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call here and now."""
        all_args, all_kwargs = self._with(args, kwargs)
        return self._home()._task(self.task)(*all_args, **all_kwargs)

    def _home(self) -> Queue:
        if self._queue is None:
            raise RuntimeError(
                f"could not send a call of `{self.task}`: the signature belongs to no queue\n"
                "hint: make it with `queue.signature(signature)`"
            )
        return self._queue

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the dict; the queue stays where it is."""
        return Signature, (dict(self),)

    def __repr__(self) -> str:
        """The call, as one would write it."""
        shown = [
            *map(repr, self.args),
            *(f"{name}={value!r}" for name, value in self.kwargs.items()),
        ]
        return f"{self.task}({', '.join(shown)})"
