"""The fault contract: eight things that a pool should do with 20 items, 2 workers and one fault.

Each scenario is run by one library in a fresh interpreter and returns what it found, as plain data; `judge`
says whether that is what the contract asks for, and how the table shows it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .libraries import Library

ITEMS = range(20)
BAD = 7
LIMIT = 2.0
LARGE = 20_000
CALLER = contextvars.ContextVar("CALLER", default="")
LOGGER = logging.getLogger("contract")


def killed(item: int) -> int:
    """The process of one item is killed, as the kernel does when memory runs out."""
    time.sleep(0.02)
    if item == BAD:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def raises(item: int) -> int:
    if item == BAD:
        raise ValueError(item)
    return item


def short(item: int) -> int:
    time.sleep(0.005)
    return item


def spins(item: int) -> int:
    """One item of eight computes for ever, as far as the others are concerned."""
    until = time.monotonic() + 12
    while item == 3 and time.monotonic() < until:
        pass
    return item


async def spins_on_loop(item: int) -> int:
    """The same as a coroutine: it lets others run, and still ends only when it is made to."""
    until = time.monotonic() + 12
    while item == 3 and time.monotonic() < until:
        await asyncio.sleep(0)
    return item


def logs(item: int) -> int:
    LOGGER.warning("item %d", item)
    return item


def caller(_: int) -> str:
    return CALLER.get()


def kill(library: Library) -> dict[str, Any]:
    return {"good": len(library.kept(killed, ITEMS))}


def reuse(library: Library) -> dict[str, Any]:
    library.suffer(killed, ITEMS)
    try:
        return {"usable": library.kept(abs, [-1]) == [1], "error": ""}
    except Exception as error:
        return {"usable": False, "error": type(error).__name__}


def fail(library: Library) -> dict[str, Any]:
    return {"good": len(good(library.mapped(raises, ITEMS)))}


def lazy(library: Library) -> dict[str, Any]:
    pulled = 0

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for number in range(LARGE):
            pulled += 1
            yield number

    next(library.mapped(short, numbers()))
    return {"pulled": pulled}


def limit(library: Library) -> dict[str, Any]:
    found = library.limited(spins, range(8), LIMIT)
    return {"good": len(found), "burning": is_burning()}


def by_value(library: Library) -> dict[str, Any]:
    offset = 1
    try:
        return {"sent": good(library.mapped(lambda item: item + offset, range(3))) == [1, 2, 3]}
    except Exception as error:
        return {"sent": False, "error": type(error).__name__}


def log(library: Library) -> dict[str, Any]:
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    good(library.mapped(logs, range(3)))
    library.close()
    # A worker that was forked has a copy of this handler, and of this list: only ours counts.
    return {"seen": len(seen)}


def context(library: Library) -> dict[str, Any]:
    good(library.mapped(abs, range(4)))
    CALLER.set("seen")
    return {"seen": set(good(library.mapped(caller, range(4)))) == {"seen"}}


def good(results: Iterator[Any]) -> list[Any]:
    """What an iterator hands out, failures left out, until it ends."""
    found = []
    # Some of them go on after a failure; one that does not ends at once.
    for _ in range(LARGE):
        try:
            found.append(next(results))
        except StopIteration:
            break
        except Exception:
            continue
    return found


def is_burning() -> bool:
    """Whether anything of this session, the interpreter included, uses half a processor now."""
    before = processor_seconds()
    time.sleep(0.6)
    after = processor_seconds()
    return any(seconds - before.get(pid, 0) > 0.3 for pid, seconds in after.items())


def processor_seconds() -> dict[int, float]:
    """What each process of this session has used."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            with open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == os.getsid(0) or is_descendant(int(name)):
            found[int(name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def is_descendant(pid: int) -> bool:
    """Whether this process started it, however far down: workers may be in sessions of their own."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


@dataclass(frozen=True)
class Scenario:
    """A column of the table."""

    name: str
    title: str
    run: Callable[[Library], dict[str, Any]]
    passes: Callable[[dict[str, Any]], bool]
    shows: Callable[[dict[str, Any]], str]


def count(key: str, wanted: int) -> tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], str]]:
    """Judge a number that was found: it must be that one."""
    return lambda found: found[key] == wanted, lambda found: str(found[key])


def fact(key: str) -> tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], str]]:
    """Judge whether something was found to be so: it must be."""
    return lambda found: found[key], lambda found: _yes(found[key])


def _yes(found: bool) -> str:
    return "yes" if found else "no"


SCENARIOS = (
    Scenario("kill", "worker killed on 1 item: good results of 19", kill, *count("good", 19)),
    Scenario(
        "reuse",
        "pool usable after",
        reuse,
        lambda found: found["usable"],
        lambda found: _yes(found["usable"]) + (f", `{found['error']}`" if found.get("error") else ""),
    ),
    Scenario("raise", "1 item raises: good results of 19 from `map`", fail, *count("good", 19)),
    Scenario(
        "lazy",
        "pulled from a generator of 20,000 before the first result",
        lazy,
        lambda found: found["pulled"] <= 20,
        lambda found: f"{found['pulled']:,}",
    ),
    Scenario(
        "limit",
        "1 of 8 items spins, limit 2 s: good results of 7 / still burns a processor",
        limit,
        lambda found: found["good"] == 7 and not found["burning"],
        lambda found: f"{found['good']} / {_yes(found['burning'])}",
    ),
    Scenario("lambda", "lambda", by_value, *fact("sent")),
    Scenario("log", "log records of 3 that reach the parent's handler", log, *count("seen", 3)),
    Scenario("context", "context variable of the caller seen", context, *fact("seen")),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
