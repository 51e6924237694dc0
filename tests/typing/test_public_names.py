"""What the package shows: names, where they say they live, and their words.

A module is public when no part of its name begins with an underscore; `cli` is a program, not a module.
"""

import ast
import importlib
import inspect
import pkgutil
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import manyhands


def public_modules() -> list[str]:
    found = (module.name for module in pkgutil.walk_packages(manyhands.__path__, "manyhands."))
    return ["manyhands", *(name for name in found if is_public(name) and name.split(".")[1] != "cli")]


def is_public(dotted_name: str) -> bool:
    return not any(part.startswith("_") for part in dotted_name.split("."))


MODULES = public_modules()
NAMES = [
    (module, name) for module in MODULES for name in getattr(importlib.import_module(module), "__all__", ())
]
each_module = pytest.mark.parametrize("module", [*map(importlib.import_module, MODULES)], ids=MODULES)
each_name = pytest.mark.parametrize(("module_name", "name"), NAMES)


def defined_names(module: ModuleType) -> set[str]:
    """The names without an underscore that the module's own code binds, imports aside."""
    names: set[str] = set()
    for node in source(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def documented_values(module: ModuleType) -> set[str]:
    """The assigned names that a string on the next line describes."""
    body = source(module).body
    return {
        target.id
        for node, following in pairwise(body)
        if isinstance(node, ast.Assign) and is_text(following)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def source(module: ModuleType) -> ast.Module:
    assert module.__file__
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def home(thing: object) -> str:
    return getattr(thing, "__module__", None) or ""


@each_module
def test_a_public_module_has_a_docstring_and_lists_its_names_once(module):
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@each_module
def test_a_name_without_an_underscore_is_listed(module):
    assert defined_names(module) <= set(module.__all__)


@each_name
def test_a_public_name_is_documented(module_name, name):
    module = importlib.import_module(module_name)
    thing = getattr(module, name)
    if inspect.ismodule(thing) or not home(thing).startswith("manyhands"):
        return  # the standard library's, under our name
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert inspect.getdoc(thing)
    else:
        assert name in documented_values(module)


@each_name
def test_every_public_member_of_a_class_is_documented(module_name, name):
    thing = getattr(importlib.import_module(module_name), name)
    if not inspect.isclass(thing) or not home(thing).startswith("manyhands"):
        return
    members = {member: value for member, value in vars(thing).items() if not member.startswith("_")}
    called = {member for member, value in members.items() if callable(value) or isinstance(value, property)}
    assert [member for member in called if not inspect.getdoc(getattr(thing, member))] == []


@each_name
def test_a_public_name_says_it_lives_where_it_can_be_imported_from(module_name, name):
    thing = getattr(importlib.import_module(module_name), name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not home(thing).startswith("manyhands"):
        return
    assert is_public(home(thing))
    assert getattr(importlib.import_module(home(thing)), thing.__name__) is thing


def test_what_the_package_shows_is_public_in_the_module_that_defines_it():
    hidden = [
        name
        for name in manyhands.__all__
        if is_public(name)
        and not inspect.ismodule(getattr(manyhands, name))
        and not any((module, name) in NAMES for module in MODULES if module != "manyhands")
    ]
    assert hidden == []
