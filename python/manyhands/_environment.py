"""The environment variables of this process, for processes that it starts."""

from __future__ import annotations

import os

__all__ = ["variables"]


def variables() -> dict[str, str]:
    """This process's variables as they are now, whatever other threads do to them meanwhile.

    A program that is given none is started with the C library's own list. A variable that is set at that
    moment, by C code or where threads run side by side, moves the list, and the start fails with EFAULT.
    """
    return {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}
