"""What runs where tasks run: the body of a message becomes a call, and what comes of it a reply.

A call comes as ``(number, id, body)``, with ``extra`` (the request as JSON) for those that need it; the
number of a task whose result nobody wants comes as ``-1 - number``. The reply is None for such a one that
returned, ``b"="`` and JSON for a result, and otherwise a line of JSON that says what became of the task and
what follows it. The other side is in Rust.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyhands import _core
from manyhands.errors import BrokerError, ContentRefused, Ignore, Reject, Retry, SoftTimeLimitExceeded
from manyhands.queue import _json, _serial
from manyhands.queue._outcomes import document, error_record
from manyhands.queue.app import Queue
from manyhands.queue.request import _BLANK, Request, _running

if TYPE_CHECKING:
    from manyhands.queue.task import Task

__all__ = ["Runner", "prepare", "run", "run_coroutine"]

_log = logging.getLogger("manyhands.queue")

_Reply = bytes | None
_Form = tuple[str, "str | None"]
"""The content type of a body and its compression."""


class _Light(Request):
    """A request of which only few fields are filled, until somebody looks at another: most tasks never do."""

    def __getattr__(self, name: str) -> Any:
        if name not in _BLANK:
            raise AttributeError(f"'Request' object has no attribute {name!r}")
        Request.__init__(self, id=self.id, root_id=self.root_id, called_directly=False)
        return getattr(self, name)


_new_request = _Light.__new__


class Runner:
    """Runs the tasks of an application, by their numbers.

    Args:
        queue: The application.
        names: The names of the tasks, in the order of their numbers.
        hostname: What the worker is called.
    """

    def __init__(self, queue: Queue, names: Sequence[str], hostname: str) -> None:
        self._queue = queue
        self._tasks = [queue.tasks[name] for name in names]
        # Nothing but the function is needed for a call of these.
        self._functions = [
            None if task.bind or task.is_coroutine or task.retry_on else task.function for task in self._tasks
        ]
        self._accept = _serial.accepted(queue.accept)
        self._takes_json = "application/json" in self._accept
        self._serializer, self._most, self._hostname = queue.result_serializer, queue.max_size, hostname
        self._is_json = queue.result_serializer == "json"

    def run(self, number: int, id: str, body: bytes, extra: str | None = None) -> _Reply:
        """Run a task; never raises for anything that it does."""
        is_wanted = number >= 0
        if not is_wanted:
            number = -1 - number
        function = self._functions[number]
        if extra is not None or function is None or not self._takes_json:
            return self._run(number, id, body, extra, is_wanted)
        try:
            args, kwargs, _ = _json.loads(str(body, "utf-8"))
            request = _new_request(_Light)
            request.id = request.root_id = id
            token = _running.set((self._tasks[number], request))
        except Exception:
            return self._run(number, id, body, extra, is_wanted)  # which finds out what is wrong
        try:
            value = function(*args, **kwargs)
            if not is_wanted:
                return None
            return b"=" + _json.dumps(value) if self._is_json else self._whole(request, value)
        except Exception as error:
            return self._failed(self._tasks[number], request, error, is_wanted)
        except SystemExit as error:
            return self._failed(self._tasks[number], request, error, is_wanted)
        finally:
            _running.reset(token)

    def _run(self, number: int, id: str, body: bytes, extra: str | None, is_wanted: bool) -> _Reply:
        task, told = self._tasks[number], {} if extra is None else _json.loads(extra)
        try:
            request, args, kwargs, form = self._read(task, id, body, told)
        except ContentRefused as error:
            return _head("UNREADABLE", summary=str(error))
        try:
            if told.get("tracked"):
                self._tell_begun(request)
            value = _run_within(told.get("soft"), task, request, args, kwargs)
            return self._returned(request, value, is_wanted)
        except (Exception, SystemExit) as error:
            return self._failed(task, request, error, is_wanted, form)

    async def run_coroutine(self, number: int, id: str, body: bytes, extra: str | None = None) -> _Reply:
        """`run` on an event loop, for ``async def`` tasks."""
        is_wanted = number >= 0
        task = self._tasks[number if is_wanted else -1 - number]
        told = {} if extra is None else _json.loads(extra)
        try:
            request, args, kwargs, form = self._read(task, id, body, told)
        except ContentRefused as error:
            return _head("UNREADABLE", summary=str(error))
        try:
            if told.get("tracked"):
                await self._atell_begun(request)
            value = await _within(task.arun_request(request, args, kwargs), told.get("soft"))
            return self._returned(request, value, is_wanted)
        except (Exception, SystemExit) as error:
            return self._failed(task, request, error, is_wanted, form)

    def _read(
        self, task: Task[..., Any], id: str, body: bytes, told: Mapping[str, Any]
    ) -> tuple[Request, Sequence[Any], Mapping[str, Any], _Form]:
        asked = told.get("request") or {"id": id, "task": task.name, "root_id": id}
        properties = asked.pop("properties", {})
        form = (properties.get("content_type") or "application/json", asked.get("compression"))
        args, kwargs, _ = _serial.decode_body(
            body,
            form[0],
            properties.get("content_encoding") or "utf-8",
            form[1],
            accept=self._accept,
            most=self._most,
        )
        named = {name: asked.pop(name, None) for name in ("correlation_id", "reply_to", "delivery_info")}
        others = asked.pop("headers", {})
        asked.pop("hostname", None)
        request = Request.from_headers({**others, **asked}, args, kwargs, hostname=self._hostname, **named)
        return request, args, kwargs, form

    def _tell_begun(self, request: Request) -> None:
        """Tell whoever wants to know that a task begins. It does so also if nobody can be told."""
        try:
            self._queue._put(str(request.id), "STARTED", self._who(), request)
        except BrokerError as error:
            _log.warning("could not say that %s has begun: %s", request.id, error)

    async def _atell_begun(self, request: Request) -> None:
        """`_tell_begun` on an event loop."""
        try:
            await self._queue._aput(str(request.id), "STARTED", self._who(), request)
        except BrokerError as error:
            _log.warning("could not say that %s has begun: %s", request.id, error)

    def _who(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "hostname": self._hostname}

    def _returned(self, request: Request, value: Any, is_wanted: bool) -> _Reply:
        if not is_wanted:
            return None
        return b"=" + _json.dumps(value) if self._is_json else self._whole(request, value)

    def _whole(self, request: Request, value: Any, state: str = "SUCCESS", **head: Any) -> bytes:
        """The document in the form of the store's results, where that is not JSON."""
        made = document(
            str(request.id),
            state,
            value,
            traceback=head.get("traceback"),
            parent_id=request.parent_id,
            group_id=request.group,
        )
        return _head(state, is_whole=True, **head) + _serial.write_document(made, self._serializer)

    def _failed(
        self,
        task: Task[..., Any],
        request: Request,
        error: BaseException,
        is_wanted: bool,
        form: _Form = ("application/json", None),
    ) -> bytes:
        if isinstance(error, Ignore):
            return _head("IGNORE")
        if isinstance(error, Reject):
            return _head("REJECT", summary=str(error.reason), requeue=error.requeue)
        head: dict[str, Any] = {}
        state, after, shown = "FAILURE", b"", error
        if isinstance(error, Retry):
            state, shown = "RETRY", error.exc or error
            try:
                head["at"], after = _next_attempt(task, request, error, form)
            except Exception as failure:
                state, shown = "FAILURE", failure
            else:
                head["body"] = len(after) if after else None
        head["summary"] = _short(shown)
        head["traceback"] = _traceback(error)
        record = error_record(shown)
        if self._is_json or not is_wanted:
            return _head(state, **head) + after + _json.dumps(record)
        line, _, whole = self._whole(request, record, state, **head).partition(b"\n")
        return line + b"\n" + after + whole


def _head(state: str, **more: Any) -> bytes:
    return (
        _json.dumps({"state": state, **{name: what for name, what in more.items() if what is not None}})
        + b"\n"
    )


def _next_attempt(task: Task[..., Any], request: Request, retry: Retry, form: _Form) -> tuple[float, bytes]:
    """When, and the body if it is another, in the form that the message's headers tell of."""
    if retry.eta is not None:
        eta = retry.eta if retry.eta.tzinfo is not None else retry.eta.replace(tzinfo=task.app.zone)
        at = eta.timestamp()
    else:
        at = time.time() + (retry.countdown or 0)
    if not {"args", "kwargs"} & retry.changes.keys():
        return at, b""
    args = retry.changes.get("args", request.args)
    kwargs = retry.changes.get("kwargs", request.kwargs)
    kind, compression = form
    return at, _serial.encode_body(args, kwargs, serializer=kind, compression=compression)[0]


def _short(error: BaseException) -> str:
    try:
        text = repr(error)
    except Exception:
        text = type(error).__name__
    return text if len(text) <= 500 else f"{text[:497]}..."


def _traceback(error: BaseException) -> str:
    import traceback

    # Without the frames that brought it here.
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return f"{type(error).__name__}, whose traceback could not be shown\n"


_OWN = __file__.rpartition("/")[0] + "/"


def _run_within(
    seconds: float | None, task: Task[..., Any], request: Request, args: Any, kwargs: Mapping[str, Any]
) -> Any:
    """The task's result; after so long `SoftTimeLimitExceeded` is raised in it."""
    if seconds is None:
        return task.run_request(request, args, kwargs)
    if task.is_coroutine:
        from manyhands.queue.task import _completed

        return _completed(_within(task.arun_request(request, args, kwargs), seconds))
    if threading.current_thread() is threading.main_thread():
        # A signal gets through to a call that blocks.
        with _Signal(seconds):
            return task.run_request(request, args, kwargs)
    return _core.call_within(seconds, SoftTimeLimitExceeded, task.run_request, (request, args, kwargs))


def _exceeded(seconds: float) -> SoftTimeLimitExceeded:
    return SoftTimeLimitExceeded(f"the task has run for its soft limit of {seconds:g} s")


class _Signal:
    """Raises `SoftTimeLimitExceeded` in a process's main thread after so long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def _over(self, *_: object) -> None:
        raise _exceeded(self._seconds)

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._over)
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 1e-6))

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


async def _within(coroutine: Any, seconds: float | None) -> Any:
    """The coroutine's result; after so long `SoftTimeLimitExceeded` is raised in it, where it waits."""
    if seconds is None:
        return await coroutine
    return await _Throwing(seconds).drive(coroutine)


class _Throwing:
    """Drives a coroutine, and throws `SoftTimeLimitExceeded` into it after so long.

    What it waits for is cancelled, and that cancellation exchanged for the exception on its way in, so that
    the coroutine can catch it, clean up and go on.
    """

    def __init__(self, seconds: float) -> None:
        import asyncio

        self._seconds, self._task = seconds, asyncio.current_task()
        self._cancelled = asyncio.CancelledError
        self._timer = asyncio.get_running_loop().call_later(seconds, self._over)
        self._is_due = False

    def _over(self) -> None:
        if self._task is not None:
            self._is_due = True
            self._task.cancel()

    @types.coroutine
    def drive(self, coroutine: Any) -> Generator[Any, Any, Any]:
        value: Any = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    awaited = coroutine.send(value) if failure is None else coroutine.throw(failure)
                except StopIteration as end:
                    return end.value
                value = failure = None
                try:
                    value = yield awaited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    failure = error
                # What was awaited may have kept the cancellation to itself.
                is_told = failure is None or isinstance(failure, self._cancelled)
                if is_told and self._is_due and self._is_ours_alone():
                    failure = _exceeded(self._seconds)
        finally:
            self._timer.cancel()
            del failure  # whose traceback has this frame

    def _is_ours_alone(self) -> bool:
        # Whoever else cancels the task goes first.
        self._is_due = False
        uncancel: Callable[[], int] | None = getattr(self._task, "uncancel", None)
        return uncancel is None or uncancel() == 0


_runner: Runner | None = None
"""That of a worker process."""


def prepare(application: str, names: Sequence[str], hostname: str) -> None:
    """Be a worker process of an application: the initializer of its executor."""
    global _runner
    queue = Queue.load(application)
    _import_all(queue)
    _runner = Runner(queue, names, hostname)


def ready() -> None:
    """Nothing: that a process has been asked for it is enough for it to be there when a task comes."""


def _import_all(queue: Queue) -> None:
    """Import the modules that an application names for its tasks."""
    import importlib

    for module in queue.include:
        importlib.import_module(module)


def run(number: int, id: str, body: bytes, extra: str | None = None) -> _Reply:
    """`Runner.run` in a worker process."""
    assert _runner is not None
    return _runner.run(number, id, body, extra)


async def run_coroutine(number: int, id: str, body: bytes, extra: str | None = None) -> _Reply:
    """`Runner.run_coroutine` in a worker process."""
    assert _runner is not None
    return await _runner.run_coroutine(number, id, body, extra)
