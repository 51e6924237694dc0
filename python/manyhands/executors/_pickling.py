"""What the standard pickle cannot send: by cloudpickle, and context variables by their names."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import cloudpickle

__all__ = ["Pickler", "dumps", "dumps_by_value", "place", "variable"]

_MAIN = ""
"""Stands for the main module. Its own name in a pickle says that there is something to be sent by value."""
_PROTOCOL = 5
_GENERATORS = {"random": "_inst", "numpy.random.mtrand": "_rand"}
"""Whose methods ``random.random`` and the like are. Each worker has its own: a copy would draw the same."""
_MOST_PLACES = 10_000
"""Variables made in a loop must not pile up here."""

_places: dict[ContextVar[Any], tuple[str, str] | None] = {}
_modules_seen = 0
_of_main: dict[str, ContextVar[Any]] = {}


def dumps(value: object) -> bytes:
    """Pickle what the standard pickle can; by value what lives in ``__main__``, which workers do not have."""
    data = pickle.dumps(value, _PROTOCOL)
    return dumps_by_value(value) if b"__main__" in data else data


def dumps_by_value(
    value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes:
    """Pickle with cloudpickle, which sends by value what cannot be imported by name."""
    file = io.BytesIO()
    Pickler(file, _PROTOCOL, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Also sends the context variables that a function of ``__main__`` uses, and no generator of a module."""

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


def place(wanted: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module that has a variable, and its name there; None if no module has it."""
    global _modules_seen
    if wanted in _places and (found := _places[wanted]) is not None:
        return found
    if len(_places) > _MOST_PLACES:
        _places.clear()
    elif wanted in _places and len(sys.modules) == _modules_seen:
        return None
    if len(sys.modules) != _modules_seen:
        _modules_seen = len(sys.modules)
        for name, module in list(sys.modules.items()):
            if name != "__main__":
                _look_through(name, module)
    # Last: a worker does not have it, but has the module from which it imported the variable.
    _look_through(_MAIN, sys.modules.get("__main__"))
    return _places.setdefault(wanted, None)


def _look_through(name: str, module: object) -> None:
    for attribute, value in list(getattr(module, "__dict__", {}).items()):
        if type(value) is ContextVar and _places.get(value) is None:
            _places[value] = (name, attribute)


def variable(module: str, name: str) -> ContextVar[Any]:
    """Return the variable that has its place there; in a worker, a stand-in for the main module's."""
    if module == _MAIN:
        stand_in = _of_main.setdefault(name, ContextVar(name))
        _places[stand_in] = _MAIN, name
        return stand_in
    found: ContextVar[Any] = getattr(importlib.import_module(module), name)
    return found
