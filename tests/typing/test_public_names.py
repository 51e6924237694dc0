"""What the package shows: names, where they say they live, and their words.

A module is public when no part of its name begins with an underscore; `cli` is a program, not a module.
"""

import ast
import importlib
import inspect
import pkgutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

import pytest

import manyhands

# Public modules that cannot be imported without a library which a user may not have.
ADAPTERS = {"manyhands.executors.joblib": "joblib"}


def public_modules() -> list[str]:
    found = (module.name for module in pkgutil.walk_packages(manyhands.__path__, "manyhands."))
    shown = (name for name in found if is_public(name) and name.split(".")[1] != "cli")
    return ["manyhands", *(name for name in shown if name not in ADAPTERS or find_spec(ADAPTERS[name]))]


def is_public(dotted_name: str) -> bool:
    return not any(part.startswith("_") for part in dotted_name.split("."))


def is_ours(thing: object) -> bool:
    """Whether a class or function is made here; some names, and bases, are other libraries'."""
    return home(thing).split(".")[0] == "manyhands"


def home(thing: object) -> str:
    return getattr(thing, "__module__", None) or ""


def defined_names(module: ModuleType) -> set[str]:
    """The names without an underscore that the module's own code binds; no imports, no type variables."""
    names: set[str] = set()
    for node in source(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    values = vars(module)
    names.discard("TYPE_CHECKING")
    return {name for name in names if is_public(name) and not isinstance(values[name], TypeVar | ParamSpec)}


def documented_values(module: ModuleType) -> set[str]:
    """The assigned names that a string on the next line describes."""
    return {
        target.id
        for node, following in pairwise(source(module).body)
        if isinstance(node, ast.Assign) and is_text(following)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def source(module: ModuleType) -> ast.Module:
    assert module.__file__
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def is_text(node: ast.stmt) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


MODULES = {name: importlib.import_module(name) for name in public_modules()}
SHOWN = {
    f"{place}.{name}": getattr(module, name)
    for place, module in MODULES.items()
    for name in getattr(module, "__all__", ())
    if hasattr(module, name)
}
CALLABLES = {name: it for name, it in SHOWN.items() if inspect.isclass(it) or inspect.isroutine(it)}
OURS = {name: it for name, it in CALLABLES.items() if is_ours(it)}
CLASSES = {name: it for name, it in OURS.items() if inspect.isclass(it)}

each_module = pytest.mark.parametrize("module", MODULES.values(), ids=[*MODULES])
each_of_ours = pytest.mark.parametrize("thing", OURS.values(), ids=[*OURS])
each_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=[*CLASSES])


def test_the_package_shows_something():
    assert OURS


@each_module
def test_a_public_module_has_a_docstring_and_lists_each_name_once(module):
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@each_module
def test_a_name_without_an_underscore_is_listed(module):
    assert sorted(defined_names(module) - set(module.__all__)) == []


@each_module
def test_a_listed_value_is_described_below_its_assignment(module):
    listed = defined_names(module) & set(module.__all__)
    values = {name for name in listed if f"{module.__name__}.{name}" not in CALLABLES}
    assert sorted(values - documented_values(module)) == []


@each_of_ours
def test_a_class_or_function_has_a_docstring(thing):
    assert inspect.getdoc(thing)


@each_class
def test_every_public_member_of_a_class_has_words_of_its_own_or_in_the_class_docstring(kind):
    owners = [owner for owner in kind.__mro__ if is_ours(owner)]
    members = {name: member for owner in owners for name, member in vars(owner).items() if is_public(name)}
    spoken_of = {name for name, member in members.items() if callable(member) or hasattr(member, "__get__")}
    silent = {name for name in spoken_of if not inspect.getdoc(getattr(kind, name))}
    assert sorted(name for name in silent if f"{name}:" not in (inspect.getdoc(kind) or "")) == []


@each_class
def test_a_class_lives_where_it_says_and_that_place_is_public(kind):
    assert home(kind) in MODULES
    assert kind.__name__ in MODULES[home(kind)].__all__
    assert getattr(MODULES[home(kind)], kind.__name__) is kind
