"""Sends tasks by one of the queues, in a program of its own.

python produce.py MODULE send N           prints the seconds that one took
python produce.py MODULE many N           the same, if many are sent at once
python produce.py MODULE fill N PATH      first a note, then N that do nothing, then notes that end it
python produce.py MODULE note PATH        one note
python produce.py MODULE later N          N that are due in an hour
python produce.py MODULE trip N           prints the median of the seconds until a result was back
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time

ENDS = 100
"""So many notes end a series: whoever has a few of the last in hand is waited for."""


def main(module: str, action: str, *given: str) -> None:
    library = importlib.import_module(module)
    if action == "note":
        library.send(library.note, given[0])
        return
    size = int(given[0])
    library.send(library.nothing)  # connects, and declares
    if action == "send":
        began = time.perf_counter()
        for _ in range(size):
            library.send(library.nothing)
        print((time.perf_counter() - began) / size)
    elif action == "many":
        began = time.perf_counter()
        library.send_many(library.nothing, size)
        print((time.perf_counter() - began) / size)
    elif action == "fill":
        library.send(library.note, given[1])
        if hasattr(library, "send_many"):
            library.send_many(library.nothing, size)
        else:
            for _ in range(size):
                library.send(library.nothing)
        for _ in range(ENDS):
            library.send(library.note, given[1])
    elif action == "later":
        for _ in range(size):
            library.send_later(library.nothing, 3600)
    else:
        print(statistics.median(trip(library) for _ in range(size)))


def trip(library: object) -> float:
    began = time.perf_counter()
    library.wait(library.send(library.nothing))  # type: ignore[attr-defined]
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
