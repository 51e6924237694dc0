"""Whether the environment wants deadlocks to be looked for, asked by the modules that have locks."""

import os
import sys

from manyhands._core import watch_locks, watches_locks

__all__ = ["watch_if_wanted"]


def watch_if_wanted() -> None:
    """Look for deadlocks if ``MANYHANDS_DEADLOCK`` or ``-X dev`` asks for it, and nobody does yet."""
    is_wanted = sys.flags.dev_mode or os.environ.get("MANYHANDS_DEADLOCK", "0") not in ("", "0")
    if is_wanted and not watches_locks():
        watch_locks(True)
