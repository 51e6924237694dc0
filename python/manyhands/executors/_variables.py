"""Context variables by their names: by the module that has one, and how it is called there."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from importlib import import_module
from typing import Any

__all__ = ["place", "variable"]

_MAIN = ""
"""Stands for the main module. Its own name in a pickle says that there is something to be sent by value."""
_MOST_PLACES = 10_000
"""Variables made in a loop must not pile up here."""

_places: dict[ContextVar[Any], tuple[str, str] | None] = {}
_modules_seen = 0
_of_main: dict[str, ContextVar[Any]] = {}


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
    found: ContextVar[Any] = getattr(import_module(module), name)
    return found
