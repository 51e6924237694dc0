"""The zygote: a clean, single-threaded Python process that forks workers on request.

The parent starts it once per set of preloaded modules, and asks over a socket for workers; descriptors
travel with the request. It tells when a worker has ended, and how. It ends when the parent does, however
that ends, and takes every descendant with it. Each worker is the subreaper of what its tasks start, and the
zygote that of its workers: what a dead worker leaves behind comes to the zygote at that moment, and is
ended, so nothing a task started can slip away.

If the zygote itself is killed, its workers go with it; their tasks fail or move as with any other death,
and the next worker is asked of a new zygote.

Wire format, both ways: packets of pickled tuples between a process and its own child, nobody else can
write them.
"""

from __future__ import annotations

import array
import contextlib
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from manyhands import _core

__all__ = ["Ended", "Zygote", "ZygoteGone", "directory", "serve", "zygote"]

_PACKET = 1 << 16
"""The largest message within a packet; a larger one travels in memory of its own."""
_MOST_FDS = 8
_NOTHING: Mapping[str, str] = MappingProxyType({})
_OF_EVERY_WORKER = ("manyhands.executors._worker", "manyhands.executors._pickling", "multiprocessing.process")


OnEnd: TypeAlias = Callable[[int, int], object]
"""Called with the exit code and the peak memory, in bytes."""


class Ended(NamedTuple):
    """How a worker ended: its exit code (negative for a signal) and the most memory it held, in bytes."""

    pid: int
    exitcode: int
    peak_memory: int


class ZygoteGone(RuntimeError):
    """The zygote has ended, so it could not start a worker."""


def directory() -> str:
    """Return the working directory; the root if it is gone, and who needs it will say so."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return "/"


def _send(sock: socket.socket, message: Any, fds: Iterable[int] = ()) -> None:
    data = pickle.dumps(message)
    with contextlib.ExitStack() as opened:
        descriptors = [*fds]
        if len(data) > _PACKET:
            memory = opened.enter_context(os.fdopen(os.memfd_create("manyhands"), "wb"))
            memory.write(data)
            memory.flush()
            descriptors.append(memory.fileno())
            data = b""
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        # One byte first: a packet of none would look like the end.
        sock.sendmsg([b"-", data], ancillary)


def _receive(sock: socket.socket) -> tuple[Any, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(
        _PACKET + 1, socket.CMSG_SPACE(_MOST_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if not data:
        raise EOFError
    if len(data) > 1:
        return pickle.loads(data[1:]), list(fds)
    with os.fdopen(fds.pop(), "rb") as memory:
        memory.seek(0)
        return pickle.load(memory), list(fds)


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
            f"import sys; sys.path[:] = {sys.path!r}; from manyhands.executors._zygote import serve; "
            f"serve({theirs.fileno()}, {os.getpid()}, {preload!r})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **environment},
                # Python 3.13 cannot load extension modules in one that is gone.
                cwd=directory(),
            )
        self._socket = ours
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
                _send(self._socket, ("start", settings), fds)
            except ConnectionError:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_gone)
            with self._changed:
                self._changed.wait_for(lambda: self._replies or self._is_gone)
                if not self._replies:
                    raise ZygoteGone("could not start a worker: the zygote process has ended")
                reply, got = self._replies.pop(0)
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
            _send(self._socket, ("kill", pid, grace))

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._is_gone

    def _listen(self) -> None:
        while True:
            try:
                message, fds = _receive(self._socket)
            except (EOFError, OSError):
                break
            if message[0] == "ended":
                self._ended(Ended(*message[1:]))
            else:
                with self._changed:
                    self._replies.append((message, fds))
                    self._changed.notify_all()
        # Once it is reaped, its workers have been sent SIGKILL by the kernel.
        self._process.wait()
        with self._changed:
            self._is_gone = True
            orphans = list(self._workers.values())
            self._workers.clear()
            self._changed.notify_all()
        with self._asking:
            self._socket.close()
        for known in orphans:
            known.on_end(_kill_now(known.pidfd), 0)

    def _ended(self, ended: Ended) -> None:
        with self._changed:
            known = self._workers.pop(ended.pid, None)
            if known is None:
                self._early[ended.pid] = ended
        if known is not None:
            os.close(known.pidfd)
            known.on_end(ended.exitcode, ended.peak_memory)


class _Known(NamedTuple):
    """A worker that runs: whom to tell of its end, and the descriptor of its process."""

    on_end: OnEnd
    pidfd: int


def _kill_now(pidfd: int) -> int:
    """See to it that a worker without a zygote has ended: until then its tasks are not anybody else's."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.select()
    os.close(pidfd)
    return -signal.SIGKILL


def _interpreter_flags() -> list[str]:
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
        known._socket.close()
        for worker in known._workers.values():
            os.close(worker.pidfd)
        # Nobody's child here.
        known._process.returncode = 0
    _zygotes.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def serve(fd: int, parent: int, preload: tuple[str, ...]) -> None:
    """Be the zygote until the other end of the socket is closed, or the process `parent` has ended."""
    # The thread that started this process may have blocked signals, which would be inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _core.become_subreaper()
    for module in (*_OF_EVERY_WORKER, *preload):
        try:
            _core.import_module(module)
        except Exception:
            # The worker's own import says what is wrong, to whoever needs the module.
            traceback.print_exc()
    with contextlib.closing(_Server(socket.socket(fileno=fd), parent)) as server:
        server.run()


class _Server:
    """The zygote's main loop: requests from the socket, deaths from SIGCHLD."""

    def __init__(self, sock: socket.socket, parent: int) -> None:
        self._socket = sock
        self._parent = parent
        # What preloaded modules have started stays.
        self._own = set(_children(os.getpid()))
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

    def run(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.suppress(EOFError, ConnectionError):
            selector.register(self._socket, selectors.EVENT_READ, self._request)
            selector.register(self._wake, selectors.EVENT_READ, self._reap)
            # The socket alone does not tell if somebody else has inherited the other end.
            selector.register(self._watch_parent(), selectors.EVENT_READ, self._parent_ended)
            while True:
                for key, _ in selector.select(self._patience()):
                    key.data()
                self._kill_overdue()
        end_descendants()

    def _watch_parent(self) -> int:
        pidfd = os.pidfd_open(os.getppid())
        if os.getppid() != self._parent:
            self._parent_ended()
        return pidfd

    def _parent_ended(self) -> None:
        raise EOFError

    def _request(self) -> None:
        message, fds = _receive(self._socket)
        try:
            if message[0] == "start":
                self._start(message[1], fds)
            elif message[1] in self._workers:
                self._kill(*message[1:])
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, settings: dict[str, Any], fds: list[int]) -> None:
        try:
            settings["zygote"] = os.getpid()
            pid = self._exec(settings, fds) if settings.pop("fresh", False) else self._fork(settings, fds)
        except OSError as error:
            _send(self._socket, ("refused", str(error)))
            return
        self._workers.add(pid)
        pidfd = os.pidfd_open(pid)
        _send(self._socket, ("started", pid), [pidfd])
        os.close(pidfd)

    def _fork(self, settings: dict[str, Any], fds: list[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = _work(settings, fds)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _exec(self, settings: dict[str, Any], fds: list[int]) -> int:
        # In a file: an argument of a command is no place for what may be large.
        with os.fdopen(os.memfd_create("manyhands"), "wb") as memory:
            pickle.dump(settings, memory)
            memory.flush()
            command = (
                f"import sys; sys.path[:] = {settings['path']!r}; "
                "from manyhands.executors._zygote import _work_fresh; "
                f"_work_fresh({memory.fileno()}, {fds!r})"
            )
            process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", command],
                pass_fds=[*fds, memory.fileno()],
                stdin=subprocess.DEVNULL,
                env=settings["environment"],
            )
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
            if pid in self._workers:
                self._workers.discard(pid)
                self._deadlines.pop(pid, None)
                self._end_leftovers()
                exitcode = os.waitstatus_to_exitcode(status)
                _send(self._socket, ("ended", pid, exitcode, usage.ru_maxrss * 1024))
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        """End what dead workers have left: every child that is neither a worker nor one of our own."""
        for child in _children(os.getpid()):
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
        if not self._deadlines:
            return None
        return max(0.0, min(self._deadlines.values()) - time.monotonic())

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
    for child in _children(pid):
        kill_descendants(child, number)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child, number)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def _work_fresh(settings: int, fds: list[int]) -> None:
    with os.fdopen(settings, "rb") as memory:
        memory.seek(0)
        known = pickle.load(memory)
    os._exit(_work(known, fds))


def _work(settings: dict[str, Any], fds: list[int]) -> int:
    """Be a worker."""
    from manyhands.executors._worker import main

    return main(fds, **settings)
