"""Functions that a queue can run elsewhere."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from manyhands import _core
from manyhands.errors import Ignore, MaxRetriesExceeded, Reject, Retry
from manyhands.queue.request import Request, _running
from manyhands.queue.signature import Signature

if TYPE_CHECKING:
    from manyhands.queue.app import Queue
    from manyhands.queue.results import AsyncResult

__all__ = ["Task"]

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("manyhands.queue")
_CONTROL = (Retry, Reject, Ignore)


class Task(Generic[P, R]):
    """A function that a queue can run elsewhere; ``@queue.task`` makes one. Called, it runs here and now.

    Thread safety: every method may be called from any thread, and from coroutines.

    Attributes:
        name: By which producers and workers know it.
        function: What is run.
        bind: Whether the function gets the task as its first argument, for ``self.request`` and
            ``self.retry()``.
        retries: How often it may be tried again; None for without end.
        retry_on: Exceptions after which it is tried again by itself.
        backoff: Seconds before the first retry, then twice as long each time. 0: always `retry_delay`.
        retry_delay: Seconds before a retry if there is no `backoff`.
        max_backoff: The longest pause in seconds.
        jitter: Whether a pause is drawn at random between 0 and what `backoff` says.
        timeout: Seconds after which the task is ended.
        soft_timeout: Seconds after which `SoftTimeLimitExceeded` is raised in it.
        rate: At most so many a second, or "100/m"; for each worker program.
        queue: Where its messages go; None for where the queue's settings say.
        priority: That of its messages; None for the queue's.
        on: On what a worker runs it: "process", "thread", "async"; None for the worker's own way.
        ignore_result: Whether its results are not stored.
        track_started: Whether it is told when it begins.
        acks_late: Whether its message is settled when it has run, not before: then a task whose worker is
            lost is run again.
        reject_on_worker_lost: Whether a task whose process died goes back to the queue, with `acks_late`.
        serializer: How its arguments are written.
        compression: How they are compressed; None for not at all.
        is_coroutine: Whether it is an ``async def`` function.

    Example:
        >>> import manyhands as mh
        >>> queue = mh.Queue("shop", eager=True)
        >>> @queue.task(retries=5, timeout=30)
        ... def charge(order):
        ...     return f"charged {order}"
        >>> charge(41)
        'charged 41'
        >>> charge.delay(42).get()
        'charged 42'
    """

    name: str
    function: Callable[..., Any]
    bind: bool
    retries: int | None
    retry_on: tuple[type[BaseException], ...]
    backoff: float
    retry_delay: float
    max_backoff: float
    jitter: bool
    timeout: float | None
    soft_timeout: float | None
    rate: str | float | None
    queue: str | None
    priority: int | None
    on: str | None
    ignore_result: bool
    track_started: bool
    acks_late: bool
    reject_on_worker_lost: bool
    serializer: str
    compression: str | None
    is_coroutine: bool

    def __init__(self, app: Queue, function: Callable[P, R], name: str, options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.app, self.function, self.name = app, function, name
        self.is_coroutine = _core.is_coroutine_function(function)
        self.__dict__.update(options)
        self._arity: _Arity | None = None

    @property
    def request(self) -> Request:
        """The call that runs; a blank one outside of any."""
        running = _running.get()
        return running[1] if running is not None and running[0] is self else Request()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now, as the function that it is."""
        function = functools.partial(self.function, self) if self.bind else self.function
        result: R = function(*args, **kwargs)
        return result

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """Send a call to the workers.

        Returns when the broker has confirmed it.

        Raises:
            BrokerError: The broker did not take it, see `Queue`.
            TypeError: The function takes no such arguments, or they cannot be written.
        """
        return self.app._send(self, args, kwargs, {})

    def apply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Send a call to the workers, with options.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments.
            **options: What is to be otherwise in this call:

                `countdown` (seconds) or `eta` (a ``datetime``): not to be run before.
                `expires` (seconds or a ``datetime``): not to be begun after.
                `queue`, `priority`, `serializer`, `compression`, `ignore_result`: as the task has them.
                `time_limit`, `soft_time_limit`: in seconds.
                `task_id`: the id; by default a new one.
                `headers`: a dict that the task finds in ``self.request.headers``.
                `retry`: False to fail at once if the broker is away.
                `shadow`: a name to show instead of the task's.
                `argsrepr`, `kwargsrepr`: the arguments as text for logs, where they hold a secret.

        Example:
            >>> import manyhands as mh
            >>> queue = mh.Queue("shop", eager=True)
            >>> @queue.task
            ... def remind(user):
            ...     return f"reminded {user}"
            >>> remind.apply_async(("ann",), countdown=60, expires=3600).id  # doctest: +ELLIPSIS
            '...-...'
        """
        return self.app._send(self, tuple(args or ()), dict(kwargs or {}), options)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """`delay` for coroutines: the event loop goes on meanwhile."""
        return await self.app._asend(self, args, kwargs, {})

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """`apply_async` for coroutines: the event loop goes on meanwhile."""
        return await self.app._asend(self, tuple(args or ()), dict(kwargs or {}), options)

    def delay_many(self, calls: Iterable[Iterable[Any]], **options: Any) -> list[AsyncResult]:
        """Send many calls, many at a time: much faster than one by one.

        Returns when the broker has confirmed all of them.

        Args:
            calls: The positional arguments of each call; a mapping is taken for keyword arguments.
            **options: As for `apply_async`, for all of them.

        Raises:
            BrokerError: Not all were taken; `confirmed` says how many were, from the first on.

        Example:
            >>> import manyhands as mh
            >>> queue = mh.Queue("shop", eager=True)
            >>> @queue.task
            ... def double(n):
            ...     return 2 * n
            >>> [result.get() for result in double.delay_many((n,) for n in range(3))]
            [0, 2, 4]
        """
        return self.app._send_many(self, calls, options)

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call as a value, to be sent later."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call as a value that takes no more arguments."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """Return the call with options as a value."""
        return Signature(self.name, tuple(args or ()), kwargs, options, immutable=immutable, queue=self.app)

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Run a call here and now, with all that belongs to it: request, retries, outcome."""
        return self.app._run_here(self, tuple(args or ()), dict(kwargs or {}), options)

    def AsyncResult(self, task_id: str) -> AsyncResult:  # noqa: N802  # Celery's name
        """The result of a call of this task, by its id."""
        return self.app.result(task_id)

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Have the call that runs tried again: raises `Retry`, which the worker knows.

        Args:
            args: Other positional arguments.
            kwargs: Other keyword arguments.
            exc: Why; raised instead when there have been too many attempts.
            throw: False to return the `Retry` for the caller to raise.
            eta: When.
            countdown: After how many seconds; by default what `backoff` and `retry_delay` say.
            max_retries: How often in all, if not what `retries` says.
            **options: Left out, with a warning in the log: the next attempt goes where this one came from,
                with its priority, expiry, time limits and headers.

        Raises:
            Retry: To be left alone.
            MaxRetriesExceeded: There have been too many attempts, and `exc` was not given.
        """
        request = self.request
        if request.called_directly:
            raise exc or MaxRetriesExceeded(f"could not retry `{self.name}`: it was called as a function")
        most = self.retries if max_retries is None else max_retries
        if most is not None and request.retries >= most:
            raise exc or MaxRetriesExceeded(
                f"could not retry `{self.name}` ({request.id}): it has been tried {request.retries + 1} times"
            )
        if countdown is None and eta is None:
            countdown = self.pause(request.retries)
        if options:
            _log.warning("could not retry `%s` as told: left out %s", self.name, ", ".join(sorted(options)))
        changes: dict[str, Any] = {}
        if args is not None:
            changes["args"] = tuple(args)
        if kwargs is not None:
            changes["kwargs"] = dict(kwargs)
        retry = Retry(None, exc, countdown, eta, **changes)
        if throw:
            raise retry from exc
        return retry

    def pause(self, retries: int) -> float:
        """Seconds to wait before the next attempt, after so many retries."""
        if not self.backoff:
            return self.retry_delay
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(retries, 64))
        if not self.jitter:
            return longest
        import random  # half a megabyte, which a worker in whose tasks nothing fails does not need

        return random.uniform(0, longest)

    def update_state(self, state: str, meta: Any = None, task_id: str | None = None) -> None:
        """Tell whoever asks how far the call is that runs.

        Args:
            state: In upper case, as "PROGRESS"; what `AsyncResult.state` says from now on.
            meta: What `AsyncResult.info` says.
            task_id: Of which call; by default of the one that runs.
        """
        id = task_id or self.request.id
        if id is None:
            raise RuntimeError(f"could not update the state of `{self.name}`: it was called as a function")
        if not self.request.is_eager:
            self.app._put(id, state, meta, self.request)

    def run_request(self, request: Request, args: Iterable[Any], kwargs: Mapping[str, Any]) -> R:
        """Make the call of a message. For workers; an ``async def`` function gives its coroutine's result.

        Raises:
            Retry: It is to be tried again: it said so, or raised what is in `retry_on`.
            Reject: The message is to be refused.
            Ignore: No result is to be stored.
        """
        if self.is_coroutine:
            value: R = _completed(self.arun_request(request, args, kwargs))
            return value
        token = _running.set((self, request))
        try:
            return self(*args, **kwargs)
        except _CONTROL:
            raise
        except self.retry_on as error:
            raise self._again(error) from error
        finally:
            _running.reset(token)

    async def arun_request(self, request: Request, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """`run_request` for ``async def`` functions, on the event loop that runs."""
        token = _running.set((self, request))
        try:
            called: Any = self(*args, **kwargs)
            return await called if isinstance(called, Awaitable) else called
        except _CONTROL:
            raise
        except self.retry_on as error:
            raise self._again(error) from error
        finally:
            _running.reset(token)

    def _again(self, error: BaseException) -> BaseException:
        request = self.request
        if self.retries is not None and request.retries >= self.retries:
            return error
        return Retry(None, error, self.pause(request.retries))

    def _check(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the function does not take, before anybody is told to run it."""
        if self._arity is None:
            self._arity = _Arity(self.function, self.bind)
        if not self._arity.fits(len(args), kwargs):
            self._arity.explain(self.name, args, kwargs)

    def __reduce__(self) -> str:
        """Pickle by name: it is where its function would be."""
        return self.__qualname__

    __qualname__: str

    def __repr__(self) -> str:
        """Its name."""
        return f"<Task {self.name}>"


class _Arity:
    """Which arguments a function takes, to be asked for each call.

    The standard library's own answer takes longer than all else that is done to send one.
    """

    def __init__(self, function: Callable[..., Any], is_bound: bool) -> None:
        import inspect  # a large module, which workers do not need

        signature = inspect.signature(function)
        if is_bound:
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        self._signature = signature
        parameters = list(signature.parameters.values())
        is_plain = all(each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) for each in parameters)
        places = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        # For each number of positional arguments, the names that may follow, and those that must.
        self._following: list[tuple[frozenset[str], frozenset[str]]] = []
        for count in range(len(places) + 1) if is_plain else ():
            left = [each for each in parameters if each not in places[:count]]
            must = frozenset(each.name for each in left if each.default is each.empty)
            self._following.append((frozenset(each.name for each in left), must))

    def fits(self, count: int, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call surely fits."""
        if count >= len(self._following):
            return False
        may, must = self._following[count]
        return must <= kwargs.keys() <= may if kwargs else not must

    def explain(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Say why it does not, unless it does after all."""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"could not send `{name}{self._signature}`: {error}") from None


def _completed(coroutine: Any) -> Any:
    """The result of a coroutine: in this thread, or in another if an event loop runs in this one."""
    import asyncio  # a large module, which plain functions do not need

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((True, asyncio.run(coroutine)))
        except BaseException as error:
            outcome.extend((False, error))

    import contextvars

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join()
    succeeded, value = outcome
    if succeeded:
        return value
    raise value
