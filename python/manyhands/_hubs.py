"""Hubs: how a green thread waits for a primitive of ours while the others of its thread go on.

Whoever schedules green threads registers a `Hub`. The core asks it, when somebody is about to wait, whether
he is one of its green threads, and waits through it then; everybody else sleeps as a thread.
"""

from __future__ import annotations

from typing import Protocol

from manyhands import _core

__all__ = ["Hub", "Wait", "register"]


class Wait(Protocol):
    """One wait of one green thread. It is made before anybody can wake it, and closed when it is over."""

    def sleep(self, seconds: float | None) -> None:
        """Let others run until somebody calls `wake`, or did since the last sleep, or the seconds are over.

        It may return without a reason. What is thrown into the green thread meanwhile, it raises.
        """

    def wake(self) -> None:
        """End the sleep, or the next one. Called from any thread, also after `close`.

        Whatever it raises means that the green thread will never run again.
        """

    def close(self) -> None:
        """Let go of what it has: nobody will sleep any more. Called by the green thread itself."""


class Hub(Protocol):
    """What runs green threads. Its methods are called by the thread in question, and must not switch."""

    def green(self) -> object | None:
        """Return the green thread that runs, as the owner of locks.

        None for a thread's own stack, and for the hub's.
        """

    def wait(self) -> Wait | None:
        """Return a wait for whoever runs.

        None if he can only wait as a thread: there is no hub here, or he is it.
        """


def register(hub: Hub) -> None:
    """Have the green threads of `hub` wait through it, in every thread, from now on."""
    _core.register_hub(hub)
