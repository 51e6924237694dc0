"""The zygote: a clean, single-threaded Python process that forks workers on request. The process itself.

It ends when its parent does, however that ends, and takes every descendant with it. Each worker is the
subreaper of what its tasks start, and the zygote that of its workers: what a dead worker leaves behind comes
to the zygote at that moment, and is ended, so nothing a task started can slip away.

Every worker waits for what is imported here, and for what `_worker` imports: both do with little.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from _pickle import dumps, loads

from manyhands import _core
from manyhands.executors import _worker
from manyhands.executors._packets import from_memory, in_memory, receive, send

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["children", "end_descendants", "serve"]


def serve(fd: int, parent: int, preload: tuple[str, ...]) -> None:
    """Be the zygote until the other end of the socket is closed, or the process `parent` has ended."""
    # The thread that started this process may have blocked signals, which would be inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _close_inherited(keep=fd)
    _core.become_subreaper()
    _load(preload)
    with contextlib.closing(_Server(socket.socket(fileno=fd), parent)) as server:
        server.run()


def _close_inherited(keep: int) -> None:
    """Close what the parent's other descriptors have left here: this process may outlast their use."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        # What this interpreter has opened itself is not inheritable (PEP 446).
        with contextlib.suppress(OSError):
            if int(name) > 2 and int(name) != keep and os.get_inheritable(int(name)):
                os.close(int(name))


def _be_branch(fd: int, base: int, module: str, surroundings: dict[str, Any]) -> None:
    """Be a zygote that has imported a module, if it can be one with that: else end, which says so."""
    from manyhands.executors._branch import import_cleanly

    _core.die_with_parent()
    if os.getppid() != base:
        return
    _core.become_subreaper()
    sock = socket.socket(fileno=fd)
    # Without the program there is nobody to tell of it.
    with contextlib.suppress(ConnectionError):
        pidfd = os.pidfd_open(os.getpid())
        send(sock, ("begun",), [pidfd])
        os.close(pidfd)
        _worker.take_surroundings(**surroundings)
        is_current = import_cleanly(module)
        if is_current is not None:
            with contextlib.closing(_Server(sock, base, is_current)) as server:
                send(sock, ("ready",))
                server.run()
    end_descendants()


def _load(modules: Iterable[str]) -> None:
    """Import modules that workers will find here."""
    for module in modules:
        try:
            _core.import_module(module)
        except Exception:
            # The worker's own import says what is wrong, to whoever needs the module.
            _print_exception()


def _print_exception() -> None:
    from traceback import print_exc

    print_exc()


class _Server:
    """The zygote's main loop: requests from the socket, deaths from SIGCHLD."""

    def __init__(
        self, sock: socket.socket, parent: int, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        self._socket = sock
        self._parent = parent
        self._is_current = is_current
        self._is_retired = False
        # The socket alone does not tell if somebody else has inherited the other end.
        self._watched = os.pidfd_open(os.getppid())
        # What preloaded modules have started stays.
        self._own = set(children(os.getpid()))
        self._workers: set[int] = set()
        self._deadlines: dict[int, float] = {}
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._wake_end = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def close(self) -> None:
        """Let go of what a worker must not have."""
        signal.set_wakeup_fd(-1)
        for end in (self._socket, self._wake, self._wake_end):
            end.close()
        os.close(self._watched)

    def run(self) -> None:
        """Serve until the parent wants no more, or has ended."""
        actions = {self._socket.fileno(): self._request, self._wake.fileno(): self._reap}
        poll = select.poll()
        for fd in (self._watched, *actions):
            poll.register(fd, select.POLLIN)
        try:
            while os.getppid() == self._parent and not (self._is_retired and not self._workers):
                for fd, _ in poll.poll(self._patience()):
                    if fd in actions:
                        actions[fd]()
                self._kill_overdue()
        except (EOFError, ConnectionError):
            pass
        end_descendants()

    def _request(self) -> None:
        message, fds = receive(self._socket)
        try:
            if message[0] == "start":
                self._start(message[1], fds)
            elif message[0] == "branch":
                self._branch(fds[0], *message[1:])
            elif message[0] == "retire":
                self._is_retired = True
            elif message[1] in self._workers:
                self._kill(*message[1:])
        finally:
            for fd in fds:
                os.close(fd)

    def _branch(self, fd: int, module: str, surroundings: dict[str, Any]) -> None:
        base = os.getpid()
        # Without it the socket is closed, and that is the answer.
        with contextlib.suppress(OSError):
            self._own.add(self._fork(lambda: _be_branch(fd, base, module, surroundings)))

    def _start(self, settings: dict[str, Any], fds: list[int]) -> None:
        if not self._is_current():
            send(self._socket, ("stale",))
            return
        modules = settings.pop("modules")
        try:
            settings["zygote"] = os.getpid()
            if settings.pop("fresh"):
                pid = self._exec(settings, fds)
            else:
                _load(module for module in modules if module not in sys.modules)
                pid = self._fork(lambda: _work(settings, fds))
        except OSError as error:
            send(self._socket, ("refused", str(error)))
            return
        self._workers.add(pid)
        pidfd = os.pidfd_open(pid)
        send(self._socket, ("started", pid), [pidfd])
        os.close(pidfd)

    def _fork(self, be: Callable[[], int | None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = be() or 0
        except BaseException:
            _print_exception()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _exec(self, settings: dict[str, Any], fds: list[int]) -> int:
        import subprocess

        # In memory: an argument of a command is no place for what may be large.
        memory = in_memory(dumps(settings))
        try:
            command = (
                f"import sys; sys.path[:] = {settings['path']!r}; "
                "from manyhands.executors._zygote_process import _work_fresh; "
                f"_work_fresh({memory}, {fds!r})"
            )
            process = subprocess.Popen(
                [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", command],  # type: ignore[attr-defined]
                pass_fds=[*fds, memory],
                stdin=subprocess.DEVNULL,
                env=settings["environment"],
            )
        finally:
            os.close(memory)
        # This loop reaps it; Popen must not warn that nobody did.
        process.returncode = 0
        return process.pid

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            self._own.discard(pid)
            if pid in self._workers:
                self._workers.discard(pid)
                self._deadlines.pop(pid, None)
                self._end_leftovers()
                exitcode = os.waitstatus_to_exitcode(status)
                send(self._socket, ("ended", pid, exitcode, usage.ru_maxrss * 1024))
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        """End what dead workers have left: every child that is neither a worker nor one of our own."""
        for child in children(os.getpid()):
            if child not in self._workers and child not in self._own:
                kill_descendants(child, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)

    def _kill(self, pid: int, grace: float) -> None:
        kill_descendants(pid, signal.SIGTERM if grace else signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM if grace else signal.SIGKILL)
        self._deadlines[pid] = time.monotonic() + grace

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do."""
        if not self._deadlines:
            return None
        return max(0.0, min(self._deadlines.values()) - time.monotonic()) * 1000

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, at in self._deadlines.items() if at <= now]:
            del self._deadlines[pid]
            kill_descendants(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_descendants() -> None:
    """Kill everything that this process is the ancestor of, until nothing is left."""
    with contextlib.suppress(ChildProcessError):
        while True:
            # Again after each death: what a process started in its last moment comes to us only then.
            kill_descendants(os.getpid(), signal.SIGKILL)
            os.wait()


def kill_descendants(pid: int, number: signal.Signals) -> None:
    """Send a signal to all that a process has started, and all that those have."""
    for child in children(pid):
        kill_descendants(child, number)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child, number)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, or has been left with."""
    found: list[int] = []
    tasks = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for task in os.listdir(tasks):  # noqa: PTH208
            with contextlib.suppress(OSError), open(f"{tasks}/{task}/children") as listed:  # noqa: PTH123
                found += map(int, listed.read().split())
    return found


def _work_fresh(settings: int, fds: list[int]) -> None:
    os._exit(_work(loads(from_memory(settings)), fds))


def _work(settings: dict[str, Any], fds: list[int]) -> int:
    """Be a worker."""
    return _worker.main(fds, **settings)
