"""gevent's hub: imported by the core when it finds that the program has imported gevent."""

from __future__ import annotations

from typing import Any

from gevent import getcurrent
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

from manyhands import _hubs

__all__ = ["GeventHub", "GeventWait"]

_new_lock = get_original("_thread", "allocate_lock")
"""Of true threads, also where gevent has put its own in their place."""


class GeventHub:
    """The hub of whatever thread asks, if that has one."""

    def green(self) -> object | None:
        """Return the greenlet that runs, unless it is the hub or the thread's own stack."""
        hub, current = get_hub_if_exists(), getcurrent()
        is_green = hub is not None and current is not hub and current.parent is not None
        return current if is_green else None

    def wait(self) -> GeventWait | None:
        """Return a wait for the greenlet that runs, also for the thread's own stack."""
        hub = get_hub_if_exists()
        return None if hub is None or getcurrent() is hub else GeventWait(hub)


class GeventWait:
    """A wait for a watcher that any thread may ring. It keeps the loop alive, for others may wake us."""

    __slots__ = ("_bell", "_greenlet", "_hub", "_is_asleep", "_is_woken", "_lock")

    def __init__(self, hub: Any) -> None:
        self._hub, self._greenlet, self._lock = hub, getcurrent(), _new_lock()
        self._is_asleep = self._is_woken = False
        self._bell = hub.loop.async_()
        # From now on: what is rung before it is started is not heard.
        self._bell.start(self._wake_here)

    def sleep(self, seconds: float | None) -> None:
        """Switch to the hub until the bell or a timer rings, or something is thrown."""
        timer = None
        if seconds is not None:
            timer = self._hub.loop.timer(seconds)
            timer.start(self._wake_here, update=True)
        try:
            self._is_asleep = True
            if not self._is_woken:
                self._hub.switch()
        finally:
            self._is_asleep = self._is_woken = False
            if timer is not None:
                timer.stop()
                timer.close()

    def wake(self) -> None:
        """Ring the bell, from any thread."""
        with self._lock:
            if self._bell is not None:
                self._bell.send()

    def close(self) -> None:
        """Take the bell down. The lock keeps it from being rung meanwhile."""
        with self._lock:
            bell, self._bell = self._bell, None
        bell.stop()
        bell.close()

    def _wake_here(self) -> None:
        """Run by the hub: go on where it sleeps, at once; if it does not, it will not."""
        self._is_woken = True
        if self._is_asleep:
            self._greenlet.switch()


_hubs.register(GeventHub())
