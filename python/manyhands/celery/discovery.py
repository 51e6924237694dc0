"""Where the modules are that have an application's tasks."""

from __future__ import annotations

import importlib
import importlib.util

__all__: list[str] = []


def _django_applications() -> list[str]:
    try:
        apps = importlib.import_module("django.apps").apps
    except ModuleNotFoundError:
        return []
    return [config.name for config in apps.get_app_configs()]


def _related(package: str, name: str | None) -> str | None:
    """The module of a package that has its tasks, if there is one."""
    if name is None:
        return package
    # Within a package is good enough, as Django's settings name applications.
    inner = package
    while not _is_package(inner) and "." in inner:
        inner = inner.rpartition(".")[0]
    if not _is_package(inner):
        if importlib.util.find_spec(inner) is not None:
            return None
        raise ModuleNotFoundError(
            f"could not look for tasks in {package!r}: found no such package\n"
            "hint: autodiscover_tasks takes the names of packages, as in app.autodiscover_tasks(['shop'])",
            name=inner,
        )
    module = f"{inner}.{name}"
    return module if importlib.util.find_spec(module) is not None else None


def _is_package(name: str) -> bool:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return False
    return found is not None and found.submodule_search_locations is not None
