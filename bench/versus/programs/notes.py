"""When something happened, as lines of a file that many write to."""

from __future__ import annotations

import os
import time


def write(path: str) -> None:
    """Add a line that says what time it is."""
    notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(notes, f"{time.time()}\n".encode())
    finally:
        os.close(notes)
