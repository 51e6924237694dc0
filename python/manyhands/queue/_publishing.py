"""How a call becomes a message, and how messages get to the broker."""

from __future__ import annotations

import atexit
import fnmatch
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Any

from manyhands import _core
from manyhands.errors import BrokerError
from manyhands.queue import _sending, _serial
from manyhands.queue._eager import _Here
from manyhands.queue._terms import _listed
from manyhands.queue.request import _running
from manyhands.queue.results import AsyncResult, _brought

if TYPE_CHECKING:
    from manyhands.queue.task import Task

__all__: list[str] = []

_log = logging.getLogger("manyhands.queue")

_CALL_OPTIONS = frozenset(
    (
        "argsrepr",
        "compression",
        "countdown",
        "eta",
        "expires",
        "headers",
        "ignore_result",
        "kwargsrepr",
        "parent_id",
        "priority",
        "queue",
        "retry",
        "root_id",
        "serializer",
        "shadow",
        "soft_time_limit",
        "task_id",
        "time_limit",
    )
)

_PORTION = 512
"""So many calls of many are published together."""


class _Sender(_Here):
    """The part of a queue that sends calls."""

    default_queue: str
    routes: dict[str, str | Mapping[str, Any]]
    serializer: str
    compression: str | None
    zone: tzinfo
    _defaults: dict[str, Any]
    _broker: _core.QueueBroker
    _results: _core.ResultStore | None
    _are_messages: bool
    """Whether results come as messages of the broker."""

    def _send(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult:
        if self.eager:
            return self._run_here(task, args, kwargs, options)
        batch = _core.TaskBatch()
        id = self._write(batch, task, args, kwargs, options)
        self._broker.publish(batch, patience=_patience(options))
        return self.result(id)

    async def _asend(
        self, task: Task[..., Any] | str, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult:
        if self.eager:
            return await self._arun_here(task, args, kwargs, options)
        batch = _core.TaskBatch()
        id = self._write(batch, task, args, kwargs, options)
        await _brought(self._broker.begin(batch, patience=_patience(options)))
        return self.result(id)

    def _send_many(
        self, task: Task[..., Any] | str, calls: Iterable[Any], options: Mapping[str, Any]
    ) -> list[AsyncResult]:
        if self.eager:
            return [self._run_here(task, *_arguments(call), options) for call in calls]
        ids: list[str] = []
        confirmed = 0
        sending: tuple[_core.Errand, int] | None = None
        try:
            for batch in self._batches(task, calls, options, ids):
                # One is published while the next is written, and only one: they are to arrive in order.
                if sending is not None:
                    sending[0].result()
                    confirmed += sending[1]
                size = len(batch)
                sending = self._broker.begin(batch, patience=_patience(options)), size
            if sending is not None:
                sending[0].result()
        except BrokerError as error:
            error.confirmed = confirmed + (error.confirmed or 0)
            raise
        except BaseException:
            if sending is not None:
                sending[0].result()
            raise
        return [self.result(id) for id in ids]

    def _batches(
        self, task: Task[..., Any] | str, calls: Iterable[Any], options: Mapping[str, Any], ids: list[str]
    ) -> Iterator[_core.TaskBatch]:
        left = iter(calls)
        while portion := list(islice(left, _PORTION)):
            batch = _core.TaskBatch()
            for call in portion:
                ids.append(self._write(batch, task, *_arguments(call), options))
            yield batch

    def _write(
        self,
        batch: _core.TaskBatch,
        task: Task[..., Any] | str,
        args: Any,
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Write the message of a call; returns the task's id."""
        if isinstance(task, str):
            name, terms = task, self._defaults
        else:
            task._check(args, kwargs)
            name, terms = task.name, task.__dict__
        if self.routes:
            options = {**self._route(name), **options}
        if options and not _CALL_OPTIONS.issuperset(options):
            unknown = sorted(set(options) - _CALL_OPTIONS)
            raise TypeError(
                f"could not send {name!r}: found {_listed(unknown)}, expected {_listed(_CALL_OPTIONS)}"
            )
        serializer, compression = options.get("serializer"), options.get("compression")
        body, content_type, content_encoding, compressed = _serial.encode_body(
            args,
            kwargs,
            serializer=serializer or terms["serializer"] or self.serializer,
            compression=compression or terms["compression"] or self.compression,
        )
        running = _running.get()
        more: dict[str, Any] = {}
        if running is not None and running[1].id is not None:
            more["root_id"], more["parent_id"] = running[1].root_id or running[1].id, running[1].id
        if options:
            more.update(self._extras(options))
        if self._are_messages and self._results is not None:
            more["reply_to"] = self._results.reply_to
        get = options.get
        hard, soft = get("time_limit", terms["timeout"]), get("soft_time_limit", terms["soft_timeout"])
        priority, ignored = get("priority", terms["priority"]), get("ignore_result")
        size = len(body)
        return batch.add(
            name,
            get("queue") or terms["queue"] or self.default_queue,
            body,
            id=get("task_id"),
            content_type=content_type,
            content_encoding=content_encoding,
            compression=compressed,
            argsrepr=get("argsrepr") or _sending._shown(args, size),
            kwargsrepr=get("kwargsrepr") or _sending._shown(kwargs, size),
            origin=_sending._origin or _sending.origin(),
            priority=priority or 0,
            time_limit=hard,
            soft_time_limit=soft,
            ignore_result=(None if isinstance(task, str) else terms["ignore_result"])
            if ignored is None
            else ignored,
            **more,
        )

    def _extras(self, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """What few calls have."""
        eta = _sending.not_before(options.get("countdown"), options.get("eta"), self.zone)
        expires, expiration = _sending.not_after(options.get("expires"), self.zone)
        yield from {
            "eta": eta,
            "expires": expires,
            "expiration": expiration,
            "headers": _sending.headers_text(options.get("headers")),
        }.items()
        for name in ("shadow", "root_id", "parent_id"):
            if name in options:
                yield name, options[name]

    def _route(self, name: str) -> Mapping[str, Any]:
        for pattern, route in self.routes.items():
            if fnmatch.fnmatchcase(name, pattern):
                return {"queue": route} if isinstance(route, str) else route
        return {}

    def _queue_of(self, task: Task[..., Any]) -> str:
        """Where calls of a task go that say nothing of it."""
        return self._route(task.name).get("queue") or task.queue or self.default_queue

    def _usual_queues(self) -> list[str]:
        """Where calls of its tasks go."""
        return list(dict.fromkeys([self.default_queue, *map(self._queue_of, self.tasks.values())]))


def _patience(options: Mapping[str, Any]) -> float | None:
    return 0.0 if options.get("retry") is False else None


def _arguments(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), dict(call)) if isinstance(call, Mapping) else (tuple(call), {})


_flushing: list[float] = []


def _flush_at_exit(patience: float) -> None:
    if not _flushing:
        atexit.register(_flush)
    _flushing.append(patience)


def _flush() -> None:
    left, refused = _core.flush_queues(max(_flushing))
    if left or refused:
        text = f"lost {left + refused} tasks that were kept in memory: the broker did not take them"
        _log.error("%s", text)
        # There may be no handler any more, and this must be seen.
        print(f"manyhands: {text}", file=sys.stderr)


os.register_at_fork(after_in_child=_flushing.clear)
