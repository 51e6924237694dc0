"""Branches of the zygote: processes forked from it that have imported a module, and fork workers with it.

The first pool that calls functions of a module has workers that import it themselves; a branch is made when
workers are asked for once more. So a program with one pool does not pay for it, and what happens in the
import has happened in a worker before. Until the branch is ready, and if it cannot be, workers come from the
zygote as ever. What the branch does itself is in `_branch`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import weakref
from typing import Any, NamedTuple

from manyhands.executors._packets import send
from manyhands.executors._zygote import OnEnd, Zygote, ZygoteGone, wait_for

__all__ = ["Branch", "start_worker"]

_MOST = 4
"""How many branches a zygote has."""
_all: weakref.WeakSet[Branch] = weakref.WeakSet()


class Branch(Zygote):
    """The parent's side of a branch, as that of the zygote from which it is forked."""

    def __init__(self, base: Zygote, module: str, surroundings: dict[str, Any]) -> None:
        self._pidfd: int | None = None
        self._is_ready = self._is_retired = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            base.ask_for_branch(theirs, module, surroundings)
        self._listen_to(ours)
        _all.add(self)

    @property
    def is_ready(self) -> bool:
        """Whether it has begun to serve; it may have ended since."""
        return self._is_ready

    def retire(self) -> None:
        """Have it end when the workers that it has have ended."""
        with contextlib.suppress(OSError):
            send(self._socket, ("retire",))
        with self._lock:
            self._is_retired = True
            self._kill_if_useless()

    def _kill_if_useless(self) -> None:
        # It would not read that before it has imported the module, which may take for ever.
        if self._is_retired and not self._is_ready and self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _hear(self, message: tuple[Any, ...], fds: list[int]) -> None:
        if message[0] == "begun":
            with self._lock:
                self._pidfd = fds[0]
                self._kill_if_useless()
        elif message[0] == "ready":
            with self._lock:
                self._is_ready = True
        else:
            super()._hear(message, fds)

    def _wait_for_end(self) -> None:
        with self._lock:
            pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            wait_for(pidfd)

    def close_after_fork(self) -> None:
        self._close_ends()
        if self._pidfd is not None:
            os.close(self._pidfd)


class _Record(NamedTuple):
    """What is known of a module: as what it is imported, by whom first, and its branch, if there is one."""

    shape: tuple[object, ...]
    pool: str
    branch: Branch | None


class _Branches:
    """The branches of one zygote, one for each of the modules that were used last."""

    def __init__(self, base: Zygote) -> None:
        self._base = base
        self._records: dict[str, _Record] = {}

    def branch(self, module: str, surroundings: dict[str, Any], pool: str | None) -> Branch | None:
        """Return the branch for a module if it serves; make it, for later, if it is time.

        Args:
            module: The module.
            surroundings: What else decides what it defines: path, arguments, directory and environment.
            pool: Who asks; None for a pool that asks once more, for the place of another worker.
        """
        stamp = _stamp(module)
        if stamp is None:
            return None
        shape = (stamp, surroundings)
        known = self._records.pop(module, None)
        if known is None or known.shape != shape:
            self._retire(known)
            self._records[module] = _Record(shape, pool or "", None)
        elif known.branch is None:
            is_later = pool != known.pool
            branch = Branch(self._base, module, surroundings) if is_later else None
            self._records[module] = known._replace(branch=branch)
        elif known.branch.is_gone and known.branch.is_ready:
            # Somebody has ended it; one that has not come so far would not do so next time.
            self._records[module] = known._replace(branch=None)
        else:
            self._records[module] = known
            return known.branch if known.branch.is_ready else None
        self._make_room()
        return None

    def _make_room(self) -> None:
        grown = [name for name, each in self._records.items() if each.branch and not each.branch.is_gone]
        for name in grown[:-_MOST]:
            self._retire(self._records.pop(name))

    def _retire(self, record: _Record | None) -> None:
        if record is not None and record.branch is not None:
            record.branch.retire()


def _stamp(module: str) -> tuple[int, int] | None:
    """When the file of a module was changed, and its size; None if workers do not need a branch for it."""
    package = module.partition(".")[0]
    if package in ("__main__", "manyhands") or package in sys.stdlib_module_names:
        return None
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None or spec.name != module or not spec.has_location or spec.origin is None:
        return None
    try:
        found = os.stat(spec.origin)  # noqa: PTH116
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


_branches: dict[Zygote, _Branches] = {}
_lock = threading.Lock()


def start_worker(
    base: Zygote,
    module: str | None,
    pool: str | None,
    settings: dict[str, Any],
    fds: list[int],
    on_end: OnEnd,
) -> tuple[int, Zygote]:
    """Start a worker from the best place: see `_Branches.branch` and `Zygote.start_worker`.

    Returns:
        Its pid, and what it was forked from.
    """
    branch = None if module is None or settings["fresh"] else _branch(base, module, pool, settings)
    if branch is not None:
        with contextlib.suppress(ZygoteGone):
            return branch.start_worker(settings, fds, on_end), branch
    return base.start_worker(settings, fds, on_end), base


def _branch(base: Zygote, module: str, pool: str | None, settings: dict[str, Any]) -> Branch | None:
    surroundings = {name: settings[name] for name in ("path", "arguments", "directory", "environment")}
    with _lock:
        for gone in [each for each in _branches if each.is_gone]:
            del _branches[gone]
        return _branches.setdefault(base, _Branches(base)).branch(module, surroundings, pool)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _branches.clear()
    for branch in [*_all]:
        branch.close_after_fork()
    _all.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
