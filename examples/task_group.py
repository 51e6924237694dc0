"""A task group: nothing that is begun in the block outlives it, and the first failure stops the rest.

python examples/task_group.py
"""

from __future__ import annotations

import sys
import time

import manyhands as mh

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def load(part: str) -> str:
    """Load a part of a page; one of them is missing."""
    time.sleep(0.02)
    if part == "advertisement":
        raise LookupError(f"no such part: {part}")
    return f"<{part}>"


def wait_for_ever() -> None:
    """Never return, as a connection does that nobody answers."""
    while True:
        time.sleep(0.01)


def main() -> None:
    """Show a block that succeeds and one that fails."""
    with mh.TaskGroup() as group:
        header = group.submit(load, "header")
        body = group.submit(load, "body")
    print("all are done here:", header.result(), body.result())

    try:
        with mh.TaskGroup() as group:
            hanging = group.submit(wait_for_ever)
            group.submit(load, "advertisement")
    except ExceptionGroup as failure:
        print("the block raised:", failure.exceptions)
    print("the other task was stopped:", hanging.cancelled())


if __name__ == "__main__":
    main()
