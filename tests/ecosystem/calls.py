"""What the tests have clusters do; on its own, for the workers there import it."""

import asyncio
import contextvars
import os

from watching import eventually


async def add_on_loop(left, right):
    await asyncio.sleep(0)
    return left + right


def keywords(**given):
    return given


def identity(value):
    return value


def wait_for(file, value=None):
    eventually(file.exists)
    return value


def announce(file):
    """Say which process this is."""
    file.with_suffix(".new").write_text(str(os.getpid()))
    file.with_suffix(".new").rename(file)


def announce_and_wait(announced, file):
    announce(announced)
    return wait_for(file, os.getpid())


def note(file):
    """Add a line, and return how many there are."""
    with file.open("a") as lines:
        lines.write("x\n")
    return len(file.read_text()) // 2


CALLER = contextvars.ContextVar("CALLER", default="nobody")


def caller():
    return CALLER.get()


def draw(_):
    import manyhands

    return manyhands.item_random().random()


async def draw_on_loop(item):
    return draw(item)


def fail_until(file, times):
    if (tries := note(file)) < times:
        raise ArithmeticError("not yet")
    return tries


def die_until(file, times):
    if note(file) < times:
        os._exit(1)
    return "alive"
