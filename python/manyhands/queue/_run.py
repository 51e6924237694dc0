"""What runs where tasks run: the body of a message becomes a call, and what comes of it a reply.

A call comes as ``(number, id, body)``, with ``extra`` (the request as JSON) for those that need it; the
number of a task whose result nobody wants comes as ``-1 - number``. The reply is None for such a one that
returned, ``b"="`` and JSON for a result, and otherwise a line of JSON that says what became of the task and
what follows it. The other side is in Rust.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyhands.errors import ContentRefused, Ignore, Reject, Retry, SoftTimeLimitExceeded
from manyhands.queue import _json, _serial
from manyhands.queue._outcomes import document, error_record
from manyhands.queue.request import Request, _running

if TYPE_CHECKING:
    from manyhands.queue.app import Queue
    from manyhands.queue.task import Task

__all__ = ["Runner", "prepare", "run", "run_coroutine"]

_Reply = bytes | None
_Form = tuple[str, "str | None"]
"""The content type of a body and its compression."""


class _Light(Request):
    """A request of which only few fields are filled, until somebody looks at another: most tasks never do."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name not in Request.__slots__:
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
            with _SoftLimit(told.get("soft")):
                value = task.run_request(request, args, kwargs)
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


class _SoftLimit:
    """Raises `SoftTimeLimitExceeded` after so long, where a signal can: in a process's main thread."""

    def __init__(self, seconds: float | None) -> None:
        here = seconds is not None and threading.current_thread() is threading.main_thread()
        self._seconds = seconds if here else None

    def _over(self, *_: object) -> None:
        raise SoftTimeLimitExceeded(f"the task has run for its soft limit of {self._seconds:g} s")

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._before = signal.signal(signal.SIGALRM, self._over)
            signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 1e-6))

    def __exit__(self, *_: object) -> None:
        if self._seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)


async def _within(coroutine: Any, seconds: float | None) -> Any:
    """The coroutine's result; cancelled after so long, it fails with `SoftTimeLimitExceeded`."""
    if seconds is None:
        return await coroutine
    import asyncio

    task = asyncio.current_task()
    is_over = False

    def over() -> None:
        nonlocal is_over
        is_over = True
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, over)
    try:
        return await coroutine
    except asyncio.CancelledError:
        if not is_over:
            raise
        uncancel: Callable[[], int] | None = getattr(task, "uncancel", None)
        if uncancel is not None:
            uncancel()
        raise SoftTimeLimitExceeded(f"the task has run for its soft limit of {seconds:g} s") from None
    finally:
        timer.cancel()


_runner: Runner | None = None
"""That of a worker process."""


def prepare(application: str, names: Sequence[str], hostname: str) -> None:
    """Be a worker process of an application: the initializer of its executor."""
    from manyhands.queue.app import Queue

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
