"""From a for loop to `mh.map`: the same function, the same results, in the same order.

python examples/from_a_loop.py
"""

from __future__ import annotations

import time

import manyhands as mh


def price(city: str) -> float:
    """Ask a slow service; `time.sleep` is the network."""
    time.sleep(0.05)
    return 10.0 + len(city)


def main() -> None:
    """Time the loop, then the map."""
    cities = ["Oslo", "Lagos", "Quito", "Hanoi", "Cork", "Turin", "Perth", "Kyoto"] * 2

    began = time.perf_counter()
    one_by_one = []
    for city in cities:
        one_by_one.append(price(city))
    print(f"a for loop   {time.perf_counter() - began:.2f} s")

    began = time.perf_counter()
    at_once = list(mh.map(price, cities, workers=8))
    print(f"mh.map       {time.perf_counter() - began:.2f} s")

    print("same results:", at_once == one_by_one)


if __name__ == "__main__":
    main()
