"""Whether the environment wants deadlocks to be looked for, asked by the modules that have locks."""

import os
import sys

from manyhands._core import watch_locks, watches_locks

__all__ = ["watch", "watch_if_wanted"]


def watch_if_wanted() -> None:
    """Look for deadlocks if ``MANYHANDS_DEADLOCK`` or ``-X dev`` asks for it, and nobody does yet."""
    is_wanted = sys.flags.dev_mode or os.environ.get("MANYHANDS_DEADLOCK", "0") not in ("", "0")
    if is_wanted and not watches_locks():
        watch(True)


def watch(on: bool) -> None:
    """Look for deadlocks, or not any more."""
    # It needs asyncio, which whoever does not look for deadlocks may not.
    from manyhands import _deadlock

    watch_locks(on)
    _deadlock.look_at_futures(on)
