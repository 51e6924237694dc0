"""The names of the main module as an initializer has left them in a worker.

A function of ``__main__`` is sent by value, and has globals of its own in a worker: those that it uses, as
they were in the parent. What an initializer of the main module sets or fills there, no task would see. So
that is remembered, and given to each function of the main module that arrives later.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, ModuleType

from manyhands import _core

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["finish", "initialize"]

_arriving: list[dict[str, Any]] | None = None
"""The globals of functions that come with the initializer, while that is read."""
_left: dict[str, Any] = {}
_ATOMS = (str, int, float, complex, bool, bytes, type(None))
_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType)


def finish(set_state: Callable[[FunctionType, Any], None], function: FunctionType, state: Any) -> None:
    """Finish a function of the main module that is made from its pickle, which says by what."""
    set_state(function, state)
    if _arriving is not None:
        _arriving.append(function.__globals__)
    function.__globals__.update(_left)


def initialize(pickled: bytes) -> None:
    """Call an initializer, and remember what it makes of the main module's names."""
    global _arriving
    _arriving = []
    initializer, arguments = _core.unpickle(pickled)
    spaces, _arriving = _arriving, None
    before = [dict(names) for names in spaces]
    initializer(*arguments)
    for names, old in zip(spaces, before, strict=True):
        _left.update((name, value) for name, value in names.items() if _may_be_changed(name, value, old))


def _may_be_changed(name: str, value: object, old: dict[str, Any]) -> bool:
    if name == "__builtins__":
        return False
    # What is filled, like a dictionary, is the same object as before.
    return name not in old or old[name] is not value or not isinstance(value, (*_ATOMS, *_CODE))
