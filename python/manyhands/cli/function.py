"""Finding the user's function, and telling whether it is the one an earlier run used."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from manyhands._core import digest, is_coroutine_function
from manyhands.cli.problem import Problem
from manyhands.cli.report import user_traceback

Row = Any


@dataclass(frozen=True)
class Target:
    """The function a command applies to rows.

    Attributes:
        function: What is called.
        name: As the user wrote it.
        is_async: Whether calling it gives a coroutine.
        fingerprint: Changes when the function does; see `fingerprint`.
    """

    function: Callable[..., Any]
    name: str
    is_async: bool
    fingerprint: str

    def spread(self) -> Callable[[dict[str, Any]], Any]:
        """The function of a row whose columns become keyword arguments."""
        function = self.function
        if self.is_async:

            async def call_async(row: dict[str, Any]) -> Any:
                return await function(**row)

            return call_async

        def call(row: dict[str, Any]) -> Any:
            return function(**row)

        return call


def load(name: str) -> Target:
    """Import the function called `name`: `MODULE:FUNCTION` or `PATH/FILE.py:FUNCTION`.

    Raises:
        Problem: There is no such module or function, importing it failed, or it cannot be called with a row.
    """
    place, colon, path = name.rpartition(":")
    if not colon or not place or not path:
        raise Problem(
            f"could not find a function: found `{name}`, expected MODULE:FUNCTION or FILE.py:FUNCTION",
            _whole_name_hint(name.strip(":")),
        )
    function = _attribute(_module(place), place, path)
    if not callable(function):
        raise Problem(f"could not call `{name}`: found {type(function).__name__}, expected a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Problem(
            f"could not use `{name}`: found a generator function, expected one result for each row",
            "replace `yield` by `return`; a row with many results can return a list",
        )
    return Target(function, name, is_coroutine_function(function), fingerprint(function))


def _whole_name_hint(name: str) -> str:
    if Path(name).is_file():
        return f"name the function in it: `{name}:FUNCTION`"
    module, _, function = name.rpartition(".")
    return (
        f"perhaps `{module}:{function}`" if module and function != "py" else "for example `cleaning.py:clean`"
    )


def _module(place: str) -> ModuleType:
    is_file = place.endswith(".py") or os.sep in place
    folder = str(Path(place).resolve().parent) if is_file else str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _import_file(Path(place)) if is_file else importlib.import_module(place)
    except (KeyboardInterrupt, Problem):
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise Problem(
                f"could not import `{place}`: found no module `{error.name}`", _file_hint(place)
            ) from None
        raise _import_problem(place, error) from error
    except BaseException as error:
        raise _import_problem(place, error) from error


def _file_hint(place: str) -> str:
    if Path(f"{place}.py").is_file():
        return f"perhaps `{place}.py:FUNCTION`"
    return "run it from the folder that holds the module, or give the path of a .py file"


def _import_problem(place: str, error: BaseException) -> Problem:
    kind = type(error).__name__
    return Problem(f"could not import `{place}`: it raised {kind}", detail=user_traceback(error))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = _close_to(path.name, [found.name for found in path.parent.glob("*.py")])
        hint = f"perhaps {_listed(near)}" if near else None
        raise Problem(f"could not import `{path}`: found no such file", hint)
    # The name a user would import it by, so that pickling and dataclasses find the module again.
    name = path.stem if path.stem not in sys.modules else f"_manyhands_{path.stem}"
    loader = _FreshLoader(name, str(path.resolve()))
    module = sys.modules[name] = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=loader.path))
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


class _FreshLoader(SourceFileLoader):
    """Compiles the source every time: the bytecode cache tells versions apart by the second only."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _attribute(module: ModuleType, place: str, path: str) -> Any:
    owner: Any = module
    for name in path.split("."):
        if not hasattr(owner, name):
            raise Problem(
                f"could not find `{path}` in `{place}`: found no `{name}`", _names_hint(owner, name)
            )
        owner = getattr(owner, name)
    return owner


def _names_hint(owner: Any, name: str) -> str | None:
    names = [
        found for found in dir(owner) if not found.startswith("_") and callable(getattr(owner, found, None))
    ]
    near = _close_to(name, names)
    own = [
        found for found in names if getattr(getattr(owner, found), "__module__", None) == _module_of(owner)
    ]
    if near:
        return f"perhaps {_listed(near)}"
    return f"it has {_listed(own[:8])}" if own else None


def _module_of(owner: Any) -> str | None:
    return owner.__name__ if isinstance(owner, ModuleType) else getattr(owner, "__module__", None)


def _close_to(name: str, names: list[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=3)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def fingerprint(function: Callable[..., Any]) -> str:
    """A text that changes when the function's own code does.

    It sees the function's qualified name and its source text with decorators and comments; without a source,
    its bytecode, constants and names, and those of the functions inside it. Of a class or a callable object
    it sees the source of the class; of a `functools.partial`, also the text of its arguments. It does not see
    what the function calls, the values it reads, or anything else outside its own lines.
    """
    parts = "".join(f"{len(part)}:{part}" for part in _parts(function))
    return digest(parts.encode(errors="surrogatepass"))


def _parts(function: Any) -> list[str]:
    if isinstance(function, functools.partial):
        return [*_parts(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
    plain = inspect.unwrap(getattr(function, "__func__", function))
    seen = plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain)
    name = str(getattr(seen, "__qualname__", type(seen).__qualname__))
    from textwrap import dedent

    try:
        return [name, dedent(inspect.getsource(seen))]
    except (OSError, TypeError):
        code = getattr(seen, "__code__", None)
        return [name, *_code_parts(code)] if code else [name, str(getattr(seen, "__module__", ""))]


def _code_parts(code: CodeType) -> list[str]:
    parts = [code.co_code.hex(), repr(code.co_names), repr(code.co_varnames), repr(code.co_freevars)]
    for constant in code.co_consts:
        parts += _code_parts(constant) if isinstance(constant, CodeType) else [repr(constant)]
    return parts


class ArgumentsCheck:
    """Tells by a row's columns whether the function can take them as keyword arguments."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.required: frozenset[str] = frozenset()
        self.accepted: frozenset[str] | None = None
        try:
            parameters = inspect.signature(target.function).parameters.values()
        except (TypeError, ValueError):
            # Some built-in functions do not tell their parameters: then the call itself has to show it.
            return
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.required = frozenset(p.name for p in named if p.default is p.empty)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            self.accepted = frozenset(p.name for p in named)
        if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
            raise Problem(f"could not use --args with `{self.name}`: found parameters that have no keyword")

    def complaint(self, row: Row) -> tuple[str, str] | None:
        """What is wrong with `row` and a hint, or None."""
        if not isinstance(row, dict):
            return f"found {type(row).__name__}, expected an object with columns", "leave --args away"
        missing = self.required - row.keys()
        if missing:
            return (
                f"found no column {_listed(sorted(missing))}",
                f"`{self.name}` needs it: add it, or give it a default",
            )
        extra = row.keys() - self.accepted if self.accepted is not None else None
        if extra:
            return (
                f"found column {_listed(sorted(extra))}, which `{self.name}` does not take",
                "take other columns with `**rest`, or remove them",
            )
        return None
