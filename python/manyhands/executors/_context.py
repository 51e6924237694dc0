"""Context variables on their way to a worker process.

A ``ContextVar`` cannot be pickled; it is known by the module and the name under which that module has it. So
variables of modules travel, with those of their values that can be pickled; others are left out.
"""

from __future__ import annotations

import contextlib
import pickle
from contextvars import Context, ContextVar
from typing import Any, NamedTuple

from manyhands.executors._variables import place, variable

__all__ = ["apply", "pack"]

_ABSENT = object()
_ATOMS = (str, int, float, bool, bytes, type(None))
"""Types whose objects never change: the same object is the same value."""


class _Packed(NamedTuple):
    """A context in pickled form.

    Attributes:
        values: The value of each variable, all atoms; `_ABSENT` for one without a place, whatever its value.
        data: What to send; None for nothing.
    """

    values: dict[ContextVar[Any], Any]
    data: bytes | None


_last = _Packed({}, None)


def pack(context: Context) -> bytes | None:
    """Pickle what can be sent of a context; None if that is nothing."""
    global _last
    last = _last
    if len(context) == len(last.values) and _is_same(context, last.values):
        return last.data
    values: dict[ContextVar[Any], Any] = {}
    sent: list[tuple[str, str, bytes]] = []
    for each, value in context.items():
        found = place(each)
        values[each] = _ABSENT if found is None else value
        if found is None:
            continue
        # Documented: what does not pickle is left out.
        with contextlib.suppress(Exception):
            sent.append((*found, _dumps(value)))
    data = pickle.dumps(sent, 5) if sent else None
    if all(value is _ABSENT or type(value) in _ATOMS for value in values.values()):
        _last = _Packed(values, data)
    return data


def _dumps(value: object) -> bytes:
    """Pickle a value; by value what lives in ``__main__``, which workers do not have."""
    data = pickle.dumps(value, 5)
    if b"__main__" not in data:
        return data
    from manyhands.executors._pickling import dumps_by_value

    return dumps_by_value(value)


def _is_same(context: Context, values: dict[ContextVar[Any], Any]) -> bool:
    for each, value in values.items():
        if value is _ABSENT:
            if each not in context:
                return False
        elif context.get(each, _ABSENT) is not value:
            return False
    return True


def apply(data: bytes) -> None:
    """Set the variables in the current context."""
    global _last_applied
    known, pairs = _last_applied
    if data != known:
        pairs = []
        for module, name, pickled in pickle.loads(data):
            # Left out, too: what belongs to a module or a class that this process cannot have.
            with contextlib.suppress(Exception):
                pairs.append((variable(module, name), pickle.loads(pickled)))
        if all(type(value) in _ATOMS for _, value in pairs):
            _last_applied = data, pairs
    for each, value in pairs:
        each.set(value)


_last_applied: tuple[bytes, list[tuple[ContextVar[Any], Any]]] = (b"", [])
