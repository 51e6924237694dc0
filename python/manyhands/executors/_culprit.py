"""Where in a value the thing is that cannot be pickled.

Looked for once pickling has failed, by pickling once more with the standard library's pickler in Python,
which can be watched: whatever it is at when it fails is at the end of a chain of objects, each of which led
to the next. So nothing of the user's code is called that pickling does not call. The chain is then put into
words: ``args[1].client._lock``.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import time
import types
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from manyhands.executors._pickling import Pickler

__all__ = ["path_to_culprit"]

_PATIENCE = 0.5
"""Seconds. A large value takes this pickler long, and somebody waits for the error."""
_LONGEST = 160
"""Characters of a path; the middle of a longer one is left out."""
_LONGEST_KEY = 40
_PROTOCOL = 5


def path_to_culprit(value: object, *names: str) -> str | None:
    """Return the path to what cannot be pickled in a value; None if it is not found, or the value itself.

    Args:
        value: What could not be pickled.
        names: What to call the value; several, if it is a tuple of things that have names of their own.
    """
    chain = _chain_to_culprit(value)
    if len(names) > 1 and len(chain) > 1:
        position = next((index for index, part in enumerate(chain[0].object) if part is chain[1].object), 0)
        return _words(names[position], chain[1:])
    return _words(names[0], chain) if len(chain) > 1 else None


class _Link(NamedTuple):
    """An object on the way, and what the pickler makes of it: function, arguments, state."""

    object: Any
    reduced: tuple[Any, Any, Any] | None = None


def _chain_to_culprit(value: object) -> list[_Link]:
    watched = _Watched()
    try:
        watched.dump(value)
    except (_TooLong, RecursionError):
        return []
    except Exception:
        return watched.chain
    return []


class _TooLong(Exception):
    """The search takes too long."""


class _Watched(pickle._Pickler):
    """A pickler that keeps the chain of objects that it is at."""

    def __init__(self) -> None:
        # Nobody reads what it writes, so buffers need not be copied.
        super().__init__(_Nowhere(), _PROTOCOL, buffer_callback=lambda _: None)
        self._real = Pickler(io.BytesIO(), _PROTOCOL)
        self.dispatch_table = self._real.dispatch_table
        self.chain: list[_Link] = []
        self._until = time.monotonic() + _PATIENCE

    def reducer_override(self, obj: Any) -> Any:
        return self._real.reducer_override(obj)

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if time.monotonic() > self._until:
            raise _TooLong
        self.chain.append(_Link(obj))
        super().save(obj, save_persistent_id)  # type: ignore[misc]
        self.chain.pop()

    def save_reduce(self, func: Any, args: Any, state: Any = None, *rest: Any, **options: Any) -> None:
        self.chain[-1] = _Link(self.chain[-1].object, (func, args, state))
        super().save_reduce(func, args, state, *rest, **options)  # type: ignore[misc]


class _Nowhere:
    def write(self, _: object) -> None:
        pass


Step = Callable[[Any, Any], "tuple[str, Step | None]"]
"""Puts the way from an object to the next into words; also says how to go on from there, if not as usual."""


def _words(name: str, chain: list[_Link]) -> str | None:
    words, step = [name], None
    for link, following in pairwise(chain):
        word, step = (step or functools.partial(_from, link.reduced))(link.object, following.object)
        words.append(word)
    path = "".join(words)
    if len(path) > _LONGEST:
        path = f"{path[: _LONGEST // 2]}…{path[-_LONGEST // 2 :]}"
    return path if path != name else None


def _from(reduced: tuple[Any, Any, Any] | None, parent: Any, child: Any) -> tuple[str, Step | None]:
    """From any object."""
    if reduced is not None:
        function, arguments, state = reduced
        if child is state:
            return _to_state(parent, state)
        if child is type(parent):
            return ".__class__", None
        if child is function:
            return ".__reduce__()[0]", None
        if _are_arguments(child, arguments):
            return _to_arguments(parent, function)
    if isinstance(parent, dict):
        return _key_of(child, dict.items(parent)), None
    ordered: Any
    for ordered in (list, tuple, collections.deque):
        if isinstance(parent, ordered):
            return f"[{_index(child, ordered.__iter__(parent))}]", None
    return "[…]", None


def _are_arguments(child: Any, arguments: tuple[Any, ...]) -> bool:
    # The pickler sends a class that comes first by itself.
    return child is arguments or (
        type(child) is tuple
        and len(child) == len(arguments) - 1
        and all(one is other for one, other in zip(child, arguments[1:], strict=True))
    )


def _to_state(parent: Any, state: Any) -> tuple[str, Step | None]:
    if isinstance(parent, types.FunctionType):
        return "", lambda both, one: ("", functools.partial(_from_function, parent))
    if isinstance(parent, functools.partial):
        return "", lambda fields, field: ((".func", ".args", ".keywords", "")[_index(field, fields)], None)
    if isinstance(state, dict):
        return "", _from_attributes
    if (
        isinstance(state, tuple)
        and len(state) == 2
        and all(isinstance(part, (dict, type(None))) for part in state)
    ):
        return "", lambda both, one: ("", _from_attributes)
    has_own = "__getstate__" in type(parent).__dict__
    return ".__getstate__()" if has_own else ".__reduce__()[2]", None


def _to_arguments(parent: Any, function: Any) -> tuple[str, Step | None]:
    if isinstance(parent, types.MethodType):
        return "", lambda parts, part: ((".__func__", ".__self__")[_index(part, parts)], None)
    if isinstance(parent, types.CellType):
        return "", lambda parts, part: ("", None)
    if isinstance(parent, functools.partial):
        return ".func", lambda parts, part: ("", None)
    if isinstance(parent, BaseException) and function is type(parent):
        return ".args", None
    return ".__reduce__()[1]", None


def _from_attributes(attributes: dict[Any, Any], child: Any) -> tuple[str, Step | None]:
    name = next((name for name, value in attributes.items() if value is child), None)
    if type(name) is str and name.isidentifier():
        return f".{name}", None
    return f".__dict__{_key_of(child, attributes.items())}", None


def _from_function(
    function: types.FunctionType, fields: dict[str, Any], child: Any
) -> tuple[str, Step | None]:
    """From a function that is sent by value: what it uses of its surroundings."""
    word, _ = _from_attributes(fields, child)
    if word != ".__closure__":
        return word, None
    names = function.__code__.co_freevars
    return word, lambda cells, cell: (f"[{names[_index(cell, cells)]!r}]", None)


def _key_of(child: Any, items: Iterable[tuple[Any, Any]]) -> str:
    for key, value in items:
        if value is child:
            return f"[{_short(key)}]"
    return ".keys()"


def _short(key: Any) -> str:
    # Others may show themselves in any way, and take any time to.
    text = repr(key) if type(key) in (str, int, float, bool, bytes, type(None)) else f"<{type(key).__name__}>"
    return text if len(text) <= _LONGEST_KEY else f"{text[: _LONGEST_KEY - 1]}…"


def _index(child: Any, parts: Iterable[Any]) -> int:
    return next((index for index, part in enumerate(parts) if part is child), 0)
