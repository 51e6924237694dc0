"""Names of a package that are imported when somebody first asks for them.

Importing the package then costs next to nothing, and a worker process loads only what it runs. See PEP 562.
"""

from __future__ import annotations

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

__all__ = ["imported_on_demand"]


def imported_on_demand(
    package: str, modules: Sequence[str], places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Its full name.
        modules: Modules in it that are attributes of it.
        places: For each name, the module in the package that has it. A module must not be called like a name:
            importing it would hide what is meant.
    """

    def get(name: str) -> Any:
        if name not in places and name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        value = import_module(f"{package}.{places.get(name, name)}")
        if name in places:
            value = getattr(value, name)
        # Found without this function from now on.
        namespace[name] = value
        return value

    def names() -> list[str]:
        return sorted({*namespace, *modules, *places})

    from sys import modules as loaded

    namespace = loaded[package].__dict__
    return get, names
