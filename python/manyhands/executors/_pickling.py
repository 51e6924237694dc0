"""What the standard pickle cannot send: by cloudpickle."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import cloudpickle

from manyhands.executors._main_names import finish
from manyhands.executors._variables import place, variable

__all__ = ["Pickler", "dumps_by_value"]

_PROTOCOL = 5
_GENERATORS = {"random": "_inst", "numpy.random.mtrand": "_rand"}
"""Whose methods ``random.random`` and the like are. Each worker has its own: a copy would draw the same."""


def dumps_by_value(
    value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes:
    """Pickle with cloudpickle, which sends by value what cannot be imported by name."""
    file = io.BytesIO()
    Pickler(file, _PROTOCOL, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Also sends the context variables that a function of ``__main__`` uses, and no generator of a module.

    A function of ``__main__`` finds the names there as the worker's initializer has left them.
    """

    def _dynamic_function_reduce(self, func: Any) -> tuple[Any, ...]:
        reduced: tuple[Any, ...] = super()._dynamic_function_reduce(func)
        if func.__globals__.get("__name__") != "__main__":
            return reduced
        *parts, set_state = reduced
        return (*parts, functools.partial(finish, set_state))

    def reducer_override(self, obj: Any) -> tuple[Callable[..., Any], tuple[str, str]] | Any:
        if type(obj) is ContextVar:
            found = place(obj)
            return NotImplemented if found is None else (variable, found)
        home = type(obj).__module__
        if home in _GENERATORS and getattr(sys.modules.get(home), _GENERATORS[home], None) is obj:
            return _generator, (home, _GENERATORS[home])
        return super().reducer_override(obj)


def _generator(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)
