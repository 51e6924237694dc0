"""Every example in a docstring runs, whether its author wrote it in Python or in Rust."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import manyhands

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Public modules that cannot be imported without a library which a user may not have.
ADAPTERS = {"manyhands.executors.joblib": "joblib"}
NEEDS_NO_EXAMPLE = (BaseException,)


def public_names() -> dict[str, object]:
    modules = [manyhands]
    for module in pkgutil.walk_packages(manyhands.__path__, "manyhands."):
        parts = module.name.split(".")
        is_public = not any(part.startswith("_") for part in parts) and parts[1] != "cli"
        if is_public and find_spec(ADAPTERS.get(module.name, "manyhands")):
            modules.append(importlib.import_module(module.name))
    found: dict[int, tuple[str, object]] = {}
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if (getattr(thing, "__module__", None) or "").startswith("manyhands"):
                found.setdefault(id(thing), (f"{module.__name__}.{name}", thing))
    return dict(found.values())


def members(kind: type) -> Iterator[tuple[str, object]]:
    for owner in kind.__mro__:
        if owner.__module__.startswith("manyhands"):
            yield from ((f"{kind.__name__}.{name}", member) for name, member in vars(owner).items())


def docstrings() -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, thing in public_names().items():
        texts[name] = inspect.getdoc(thing) or ""
        for member_name, member in members(thing) if inspect.isclass(thing) else ():
            texts.setdefault(member_name, inspect.getdoc(member) or "")
    return {name: text for name, text in texts.items() if ">>>" in text}


PUBLIC = public_names()
EXAMPLES = docstrings()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_docstring_run(name):
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, None, None)
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert results.attempted
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if callable(thing)])
def test_a_public_name_has_an_example(name):
    thing = PUBLIC[name]
    if inspect.isclass(thing) and (issubclass(thing, NEEDS_NO_EXAMPLE) or is_a_mere_record(thing)):
        return
    assert name in EXAMPLES


def is_a_mere_record(kind: type) -> bool:
    """Whether it only holds fields, each described, and is made by something that has an example."""
    return hasattr(kind, "__dataclass_fields__")
