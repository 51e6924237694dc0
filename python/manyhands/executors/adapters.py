"""Where other people's systems meet ours. What they need is imported when somebody asks for it."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["register_joblib"]


def register_joblib() -> None:
    """Make "manyhands" a backend of joblib, on which ``joblib.Parallel`` and so scikit-learn can run.

    Functions run in processes of ours: one that dies fails the call with `WorkerDied` and breaks nothing,
    and functions of ``__main__`` and lambdas can be sent. Importing ``manyhands.executors.joblib`` does
    the same.

    Raises:
        ModuleNotFoundError: joblib is not installed: ``pip install manyhands[joblib]``.

    Example:
        >>> import manyhands as mh
        >>> import joblib
        >>> mh.register_joblib()
        >>> with joblib.parallel_config(backend="manyhands", n_jobs=2):
        ...     joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(4))
        [0, 1, 4, 9]
    """
    _imported("joblib", "joblib", "register the backend for joblib")
    importlib.import_module("manyhands.executors.joblib")


def _imported(library: str, extra: str, purpose: str) -> ModuleType:
    """The library; says what to install if it is not there."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"could not {purpose}: found no module {error.name!r}\nhint: pip install 'manyhands[{extra}]'",
            name=error.name,
        ) from None
