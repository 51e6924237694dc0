"""Prints how long the first two pools of a program take to give their first result.

    python first.py KIND MODULE

As small as a program that uses processes gets: where workers import it, they import little.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Opened = tuple[Callable[..., Any], Callable[[], Any]]


def nothing() -> None:
    pass


def standard(method: str | None = None) -> Opened:
    import concurrent.futures
    import multiprocessing

    context = multiprocessing.get_context(method) if method else None
    pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    return lambda function: pool.submit(function).result(), pool.shutdown


def forkserver() -> Opened:
    return standard("forkserver")


def multiprocessing_pool() -> Opened:
    import multiprocessing

    pool = multiprocessing.Pool(2)
    return pool.apply, lambda: (pool.close(), pool.join())


def manyhands() -> Opened:
    import manyhands as mh

    pool = mh.ProcessExecutor(2)
    return lambda function: pool.submit(function).result(), pool.shutdown


def loky() -> Opened:
    import loky

    pool = loky.ProcessPoolExecutor(2)
    return lambda function: pool.submit(function).result(), pool.shutdown


def mpire() -> Opened:
    import mpire

    pool = mpire.WorkerPool(2)
    return pool.apply, pool.stop_and_join


def pebble() -> Opened:
    import pebble

    pool = pebble.ProcessPool(2)
    return lambda function: pool.schedule(function).result(), lambda: (pool.close(), pool.join())


def first_result(kind: Callable[[], Opened]) -> float:
    began = time.perf_counter()
    call, close = kind()
    call(nothing)
    took = time.perf_counter() - began
    close()
    return took


if __name__ == "__main__":
    kind, module = sys.argv[1:]
    # Importing is not starting.
    importlib.import_module(module)
    print(json.dumps({"first": first_result(globals()[kind]), "second": first_result(globals()[kind])}))
