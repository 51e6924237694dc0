"""Calls that run where they are made, as if a worker ran them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhands.errors import Ignore, Reject, Retry, UnknownTask
from manyhands.queue._terms import _listed
from manyhands.queue.request import Request, _running
from manyhands.queue.results import AsyncResult, _EagerResult

if TYPE_CHECKING:
    from manyhands.queue.task import Task

__all__: list[str] = []


class _Here:
    """The part of a queue that runs tasks in this very program."""

    if TYPE_CHECKING:  # what the whole has

        def result(self, id: str) -> AsyncResult: ...

    name: str
    tasks: dict[str, Task[..., Any]]
    eager: bool

    def _task(self, name: str) -> Task[..., Any]:
        """The task of that name."""
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownTask(
                f"could not find the task {name!r}: {self.name!r} has {_listed(self.tasks)}"
            ) from None

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
        id = options.get("task_id") or _new_id()
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
        return _EagerResult(str(request.id), self, "SUCCESS", value, None, None)  # type: ignore[arg-type]  # a Queue

    def _failed(self, request: Request, error: Exception) -> _EagerResult:
        state = {Ignore: "IGNORED", Reject: "REJECTED"}.get(type(error), "FAILURE")
        import traceback

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return _EagerResult(str(request.id), self, state, None, error, text)  # type: ignore[arg-type]  # a Queue


def _new_id() -> str:
    import uuid

    return str(uuid.uuid4())


def _next_attempt(request: Request, retry: Retry) -> tuple[Any, Mapping[str, Any]]:
    request.retries += 1
    request.args = retry.changes.get("args", request.args)
    request.kwargs = retry.changes.get("kwargs", request.kwargs)
    return request.args, request.kwargs
