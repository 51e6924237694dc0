"""Calls of any function by its name: what goes into a message, and what a worker makes of it.

A function is sent as "module:name" and never as code. A worker calls it only if the application says that
functions of that module may be called, and only if it is defined there: what a module has merely imported is
not meant.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from manyhands.errors import CallRefused
from manyhands.queue._main import main_name
from manyhands.queue.task import _completed
from manyhands.randomness import _seed

__all__ = ["CALL", "caller", "reference"]

CALL = "manyhands.call"
"""The name of the task that makes calls."""


def reference(function: Callable[..., Any]) -> str:
    """The name by which a worker finds the function.

    Raises:
        TypeError: It has none.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise _nameless(function)
    if _at(sys.modules.get(module), name) is not function:
        raise _nameless(function)
    return f"{main_name() if module in ('__main__', '__mp_main__') else module}:{name}"


def _nameless(function: Any) -> TypeError:
    return TypeError(
        f"could not send a call of {function!r}: expected a function that a module has under its own name\n"
        "hint: a queue sends names and no code; define it with `def` at the top of a module that workers have"
    )


def _at(place: Any, name: str) -> Any:
    for part in name.split("."):
        place = getattr(place, part, None)
    return place


def caller(patterns: Collection[str]) -> Callable[..., Any]:
    """The function behind `CALL`, for the modules or "module:name"s that fit one of the patterns."""

    def call(wanted: str, args: Sequence[Any], kwargs: Mapping[str, Any], seed: int | None = None) -> Any:
        function = _found(wanted, patterns)
        token = None if seed is None else _seed.set(seed)
        try:
            value = function(*args, **kwargs)
            return _completed(value) if inspect.iscoroutine(value) else value
        finally:
            if token is not None:
                _seed.reset(token)

    return call


def _found(wanted: str, patterns: Collection[str]) -> Callable[..., Any]:
    module, _, name = wanted.partition(":")
    if not any(fnmatch.fnmatchcase(text, pattern) for text in (module, wanted) for pattern in patterns):
        error = CallRefused(f"could not call {wanted!r:.200}: found {_listed(patterns)} to be accepted")
        error.hint = "let the application of the worker accept it: Queue(..., accept_calls=[...])"
        raise error
    function: Any = _at(importlib.import_module(module), name) if name else None
    is_it = (getattr(function, "__module__", None), getattr(function, "__qualname__", None)) == (module, name)
    # A task stands where its function was, and is that function.
    if not callable(function) or not is_it or isinstance(function, type):
        raise CallRefused(f"could not call {wanted!r:.200}: found no function that is defined there")
    found: Callable[..., Any] = function
    return found


def _listed(patterns: Collection[str]) -> str:
    return ", ".join(sorted(patterns)) or "nothing"
