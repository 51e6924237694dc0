"""A running command on an event loop: what it writes, its end, and the end of everything that it started.

A command leads a session, and so a process group, of its own: a signal to the group reaches its children and
theirs, but not those that made a group for themselves. The group's number stays taken until its leader is
reaped; so the leader is reaped last, when no signal will be sent any more, and none can hit a stranger.

Nothing here waits in a thread: pipes and the process are descriptors that the loop watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine
from typing import IO, Any

__all__: list[str] = []

_CHUNK = 1 << 16  # bytes: what a pipe holds by default


class Child:
    """A running process with its pipes, watched by a loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes], input: bytes | None
    ) -> None:
        self._process = process
        self._watched: list[_Watched] = []
        self._outputs: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            exit = os.fdopen(os.pidfd_open(process.pid), "rb", buffering=0)
            self._exit = self._watch(_Watched(loop, exit, _nothing_more))
            for pipe, chunks in zip((process.stdout, process.stderr), self._outputs, strict=True):
                assert pipe is not None
                self._watch(_Watched(loop, pipe, _reading(pipe, chunks)))
            if process.stdin is not None:
                self._watch(_Watched(loop, process.stdin, _writing(process.stdin, input or b""), writes=True))
        except BaseException:
            self.release()
            raise

    def _watch(self, watched: _Watched) -> _Watched:
        self._watched.append(watched)
        return watched

    @property
    def returncode(self) -> int:
        return self._process.returncode

    def outputs(self) -> tuple[bytes, bytes]:
        stdout, stderr = self._outputs
        return b"".join(stdout), b"".join(stderr)

    async def over(self, timeout: float | None = None) -> None:
        """Wait until the process has ended and its pipes are closed, or for `timeout` seconds."""
        await asyncio.wait([watched.ended for watched in self._watched], timeout=timeout)

    async def stop(self, grace: float) -> None:
        """End the process and its group: politely, and by force those that are left after `grace` seconds."""
        self._signal(signal.SIGTERM)
        await self.over(grace)
        self._signal(signal.SIGKILL)
        await asyncio.wait([self._exit.ended])

    def release(self) -> None:
        """Close every descriptor and reap the process; end it if nobody has waited for that."""
        has_ended = bool(self._watched) and self._exit.ended.done()
        for watched in self._watched:
            watched.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if not has_ended:
            self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # One that is gone, or that became somebody else's (sudo), cannot be signalled.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Watched:
    """A descriptor that a loop watches, until `step` says that it is at its end."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, file: IO[bytes], step: Callable[[], bool], writes: bool = False
    ) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop, self._file, self._step, self._writes = loop, file, step, writes
        if writes:
            loop.add_writer(file.fileno(), self._go_on)
        else:
            loop.add_reader(file.fileno(), self._go_on)

    def _go_on(self) -> None:
        try:
            at_end = self._step()
        except BlockingIOError:
            return
        except OSError:  # a pipe whose other end is closed
            at_end = True
        if at_end:
            self.close()

    def close(self) -> None:
        if self._file.closed:
            return
        forget = self._loop.remove_writer if self._writes else self._loop.remove_reader
        forget(self._file.fileno())
        self._file.close()
        if not self.ended.done():
            self.ended.set_result(None)


def _nothing_more() -> bool:
    return True


def _reading(pipe: IO[bytes], chunks: list[bytes]) -> Callable[[], bool]:
    """What takes in what a pipe has, each time that there is something."""
    descriptor = pipe.fileno()
    os.set_blocking(descriptor, False)

    def step() -> bool:
        chunk = os.read(descriptor, _CHUNK)
        chunks.append(chunk)
        return not chunk

    return step


def _writing(pipe: IO[bytes], data: bytes) -> Callable[[], bool]:
    """What gives a pipe as much as it takes, each time that it has room."""
    descriptor = pipe.fileno()
    os.set_blocking(descriptor, False)
    left = memoryview(data)

    def step() -> bool:
        nonlocal left
        left = left[os.write(descriptor, left[:_CHUNK]) :] if left else left
        return not left

    return step


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Have it done, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
