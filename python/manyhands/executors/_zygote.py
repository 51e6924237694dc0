"""The zygote: a clean, single-threaded Python process that forks workers on request. The parent's side.

The parent starts it once per set of preloaded modules, and asks over a socket for workers; descriptors
travel with the request. It tells when a worker has ended, and how. What it does itself is in
`_zygote_process`.

If the zygote itself is killed, its workers go with it; their tasks fail or move as with any other death,
and the next worker is asked of a new zygote.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from manyhands._environment import variables
from manyhands.executors._packets import receive, send

__all__ = ["Ended", "OnEnd", "Zygote", "ZygoteGone", "directory", "wait_for", "zygote"]

_NOTHING: Mapping[str, str] = MappingProxyType({})

OnEnd: TypeAlias = Callable[[int, int], object]
"""Called with the exit code and the peak memory, in bytes."""


class Ended:
    """How a worker ended: its exit code (negative for a signal) and the most memory it held, in bytes."""

    __slots__ = ("exitcode", "peak_memory", "pid")

    def __init__(self, pid: int, exitcode: int, peak_memory: int) -> None:
        self.pid, self.exitcode, self.peak_memory = pid, exitcode, peak_memory


class ZygoteGone(RuntimeError):
    """The zygote has ended, so it could not start a worker."""


def directory() -> str:
    """Return the working directory; the root if it is gone, and who needs it will say so."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return "/"


class Zygote:
    """The parent's side: starts the process, asks for workers, tells who has ended.

    Thread safety: yes. A daemon thread reads what the process says.

    Args:
        preload: Modules that the process imports before it forks the first worker.
        environment: Variables that it is given before that, besides this process's own.

    Raises:
        RuntimeError: The process did not come up; the message has what it printed.
    """

    def __init__(self, preload: tuple[str, ...] = (), environment: Mapping[str, str] = _NOTHING) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The path first: this package may be found through it alone.
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; from manyhands.executors._zygote_process import serve; "
            f"serve({theirs.fileno()}, {os.getpid()}, {preload!r})"
        )
        with theirs:
            self._pid = _spawn(command, theirs.fileno(), {**variables(), **environment})
        self._listen_to(ours)

    def _listen_to(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._replies: list[Any] = []
        self._changed = threading.Condition(self._lock)
        self._is_gone = False
        self._workers: dict[int, _Known] = {}
        self._early: dict[int, Ended] = {}
        self._asking = threading.Lock()
        threading.Thread(target=self._listen, name="manyhands-zygote", daemon=True).start()

    def start_worker(self, settings: dict[str, Any], fds: list[int], on_end: OnEnd) -> int:
        """Start a worker with those descriptors; return its pid.

        Args:
            settings: Keywords of the worker's main function.
            fds: Passed on, in this order.
            on_end: Called as ``on_end(exitcode, peak_memory)`` from the listening thread.

        Raises:
            ZygoteGone: There is no zygote any more.
            RuntimeError: It could not start a worker.
        """
        with self._asking:
            if self._is_gone:
                raise ZygoteGone("could not start a worker: the zygote process has ended")
            try:
                send(self._socket, ("start", settings), fds)
            except ConnectionError:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_gone)
            with self._changed:
                self._changed.wait_for(lambda: self._replies or self._is_gone)
                if not self._replies:
                    raise ZygoteGone("could not start a worker: the zygote process has ended")
                reply, got = self._replies.pop(0)
                if reply[0] == "stale":
                    raise ZygoteGone("could not start a worker: modules in the zygote are no longer current")
                if reply[0] == "refused":
                    raise RuntimeError(f"could not start a worker: {reply[1]}")
                pid: int = reply[1]
                early = self._early.pop(pid, None)
                if early is None and not self._is_gone:
                    self._workers[pid] = _Known(on_end, got[0])
                    return pid
        if early is None:
            early = Ended(pid, _kill_now(got[0]), 0)
        else:
            os.close(got[0])
        on_end(early.exitcode, early.peak_memory)
        return pid

    def kill(self, pid: int, grace: float) -> None:
        """End a worker and what it started: SIGTERM now, SIGKILL after `grace` seconds."""
        with contextlib.suppress(OSError):
            send(self._socket, ("kill", pid, grace))

    def ask_for_branch(self, end: socket.socket, module: str, surroundings: dict[str, Any]) -> None:
        """Ask for a branch that has imported a module, to be spoken to over that socket: see `_branches`."""
        with contextlib.suppress(OSError):
            send(self._socket, ("branch", module, surroundings), [end.fileno()])

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._is_gone

    def _listen(self) -> None:
        while True:
            try:
                message, fds = receive(self._socket)
            except (EOFError, OSError):
                break
            self._hear(message, fds)
        # Once it has ended, its workers have been sent SIGKILL by the kernel.
        self._wait_for_end()
        with self._changed:
            self._is_gone = True
            orphans = list(self._workers.values())
            self._workers.clear()
            self._changed.notify_all()
        with self._asking:
            self._socket.close()
        for known in orphans:
            known.on_end(_kill_now(known.pidfd), 0)

    def _hear(self, message: tuple[Any, ...], fds: list[int]) -> None:
        if message[0] == "ended":
            self._ended(Ended(*message[1:]))
            return
        with self._changed:
            self._replies.append((message, fds))
            self._changed.notify_all()

    def _wait_for_end(self) -> None:
        # A program that ignores SIGCHLD, or waits for just any child, has done so for us.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def close_after_fork(self) -> None:
        """Let go of descriptors, in a forked child: the process is nobody's child here."""
        self._close_ends()

    def _close_ends(self) -> None:
        self._socket.close()
        for worker in self._workers.values():
            os.close(worker.pidfd)

    def _ended(self, ended: Ended) -> None:
        with self._changed:
            known = self._workers.pop(ended.pid, None)
            if known is None:
                self._early[ended.pid] = ended
        if known is not None:
            os.close(known.pidfd)
            known.on_end(ended.exitcode, ended.peak_memory)


class _Known:
    """A worker that runs: whom to tell of its end, and the descriptor of its process."""

    __slots__ = ("on_end", "pidfd")

    def __init__(self, on_end: OnEnd, pidfd: int) -> None:
        self.on_end, self.pidfd = on_end, pidfd


def _kill_now(pidfd: int) -> int:
    """See to it that a worker without a zygote has ended: until then its tasks are not anybody else's."""
    import signal  # costs what `enum` does

    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for(pidfd)
    return -signal.SIGKILL


def wait_for(pidfd: int) -> None:
    """Wait until a process has ended, and close its descriptor."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)


def _spawn(command: str, end: int, environment: Mapping[str, str]) -> int:
    """Start an interpreter that runs `command`, in a session of its own; of our descriptors it keeps `end`.

    Not by `subprocess`, which takes longer to import than the process to be started. What else it inherits
    that anybody has made inheritable, it closes itself: see `_zygote_process`.
    """
    if directory() == "/":
        # It may be one that is gone, in which Python 3.13 cannot load extension modules.
        command = f"import os; os.chdir('/'); {command}"
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *_interpreter_flags(), "-c", command],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            # Onto itself: that lets the new process have it.
            (os.POSIX_SPAWN_DUP2, end, end),
        ],
        setsid=True,
    )


def _interpreter_flags() -> list[str]:
    """The options of this interpreter, to be given to another."""
    flags = sys.flags
    has_others = (
        *(flags.debug, flags.optimize, flags.no_site, flags.verbose, flags.bytes_warning, flags.quiet),
        *(flags.isolated, flags.ignore_environment, flags.no_user_site, getattr(flags, "safe_path", False)),
        *(sys.warnoptions, sys._xoptions),
    )
    if not any(has_others):
        return ["-B"] if flags.dont_write_bytecode else []
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined, no-any-return]


_zygotes: dict[tuple[Any, ...], Zygote] = {}
_zygotes_lock = threading.Lock()


def zygote(preload: tuple[str, ...], environment: Mapping[str, str] = _NOTHING) -> Zygote:
    """Return the process's zygote for those modules, which read those variables; start it if need be."""
    # Without modules there is nothing that reads them before a worker does.
    place = (preload, *sorted(environment.items())) if preload else ()
    with _zygotes_lock:
        known = _zygotes.get(place)
        if known is None or known.is_gone:
            known = _zygotes[place] = Zygote(preload, environment if preload else {})
        return known


def _after_fork_in_child() -> None:
    global _zygotes_lock
    _zygotes_lock = threading.Lock()
    for known in _zygotes.values():
        known.close_after_fork()
    _zygotes.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
