"""`async def` functions: mapped from plain code, and from a program that has a loop of its own.

python examples/async_functions.py
"""

from __future__ import annotations

import asyncio

import manyhands as mh


async def length(word: str) -> int:
    """Ask a slow service; `asyncio.sleep` is the network."""
    await asyncio.sleep(0.02)
    return len(word)


def count(word: str) -> int:
    """Do the same by computing, without waiting: a plain function."""
    return len(word)


async def on_a_loop(words: list[str]) -> None:
    """Iterate with ``async for``, here over a plain function on threads; this loop is free meanwhile."""
    total = 0
    async for letters in mh.map(count, words, workers=4):
        total += letters
    print("from a loop, a function on threads:", total, "letters")

    with mh.AsyncExecutor() as pool:
        print("one coroutine, awaited:", await pool.submit(length, "rhubarb"))


def main() -> None:
    """Show all three."""
    words = ["lantern", "moss", "harbour", "plum"] * 25
    # No loop here: manyhands runs one in the background, with up to 100 coroutines in flight.
    print("from plain code, coroutines:", sum(mh.map(length, words)), "letters")
    asyncio.run(on_a_loop(words))


if __name__ == "__main__":
    main()
