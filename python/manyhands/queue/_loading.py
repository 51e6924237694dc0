"""Finding an application by the name that a command is given."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from manyhands.queue._terms import _listed

if TYPE_CHECKING:
    from types import ModuleType

    from manyhands.queue.app import Queue

__all__: list[str] = []


def load(text: str) -> Queue:
    """See `Queue.load`."""
    from manyhands.queue.app import Queue

    name, _, attribute = text.partition(":")
    here = os.getcwd()  # noqa: PTH109  # worker processes come here, and pathlib is large
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    module, within = _module(name)
    attribute = attribute or within
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if isinstance(found, Queue):
            return found
        if not within:
            raise ValueError(f"could not load {text!r}: found {found!r}, expected a Queue")
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _only_queue(module)


def _module(name: str) -> tuple[ModuleType, str]:
    """The module of that name; or, as Celery takes it, the one that has something of that name."""
    try:
        return importlib.import_module(name), ""
    except ModuleNotFoundError as error:
        module, _, attribute = name.rpartition(".")
        if error.name != name or not module:
            raise
        return importlib.import_module(module), attribute


def _only_queue(module: ModuleType) -> Queue:
    from manyhands.queue.app import Queue

    found = {name: value for name, value in vars(module).items() if isinstance(value, Queue)}
    for usual in ("queue", "app", "celery"):
        if usual in found:
            return found[usual]
    if not found and hasattr(module, "__path__"):
        from importlib.util import find_spec

        if find_spec(f"{module.__name__}.celery"):  # where Celery looks, too
            return _only_queue(importlib.import_module(f"{module.__name__}.celery"))
    if len(set(map(id, found.values()))) != 1:
        raise ValueError(
            f"could not load {module.__name__!r}: found {_listed(found)}, expected one Queue\n"
            f"hint: say which, as in {module.__name__}:queue"
        )
    return next(iter(found.values()))
