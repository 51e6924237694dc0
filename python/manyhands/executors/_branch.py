"""What a branch of the zygote imports, and whether workers may be forked with it in place.

They may if nothing came of the import but definitions: what it opened, started, drew or changed would be
common to all workers, where each shall have its own. If in doubt, they import the module themselves.
"""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import sys
import threading  # noqa: F401  now, for its main thread keeps the stream that it finds when it is imported
import time
import weakref

from manyhands import _core
from manyhands.executors._zygote_process import children

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["import_cleanly"]

_EACH_ITS_OWN = (
    ("random", "Random"),
    ("numpy.random", "BitGenerator"),
    ("numpy.random", "Generator"),
    ("numpy.random", "RandomState"),
    ("manyhands.executors.base", "Executor"),
)
"""Classes of objects that must not be copied into several processes: they draw the same, or do not work."""


def import_cleanly(module: str) -> Callable[[], bool] | None:
    """Import a module.

    Returns:
        Tells whether the files of all that was imported are still the same.
        None if workers must not be forked from here.
    """
    begun = time.time_ns()
    loaded, things, owned = {*sys.modules}, _things(), _owned()
    if not _import_silently(module):
        return None
    # What is garbage is not shared; and a collection in each worker would copy its pages.
    gc.collect()
    if _things() != things or any(all(new is not old for old in owned) for new in _owned()) or _is_seeded():
        return None
    stamps = _stamps(sys.modules[name] for name in {*sys.modules} - loaded)
    # A file may have been written while it was read.
    if any(stamp is None or stamp[0] >= begun for stamp in stamps.values()):
        return None
    return lambda: all(_stamp(file) == stamp for file, stamp in stamps.items())


def _import_silently(module: str) -> bool:
    """Import it, and say whether it went well, without a word: workers send theirs to their pool."""
    streams = sys.stdout, sys.stderr
    listener = sys.stdout = sys.stderr = _Listener()
    try:
        _core.import_module(module)
    except BaseException:
        return False
    finally:
        are_kept = sys.stdout is listener is sys.stderr
        sys.stdout, sys.stderr = streams
    has_heard, listening = listener.has_heard, weakref.ref(listener)
    del listener
    gc.collect()
    # Whoever has kept it would write there in each worker.
    return are_kept and not has_heard and listening() is None


class _Listener(io.TextIOBase):
    """Takes output, to say that there was some."""

    has_heard = False

    def write(self, text: str) -> int:
        self.has_heard = True
        return len(text)


def _things() -> tuple[object, ...]:
    """What the process has and has set, as far as others or a worker's beginning would disturb it."""
    return (
        *(sorted(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd")),  # noqa: PTH208
        children(os.getpid()),
        _shared_mappings(),
        [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        dict(os.environ),
        [*sys.path],
        [*sys.argv],
        os.getcwd(),  # noqa: PTH109
        random.getstate(),
    )


def _shared_mappings() -> int:
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        return sum(line.split(maxsplit=2)[1][1::2] == "ws" for line in maps)


def _owned() -> list[object]:
    """Objects that belong to one process; not those that each worker seeds anew, or that have no state."""
    named = [(sys.modules.get(module), name) for module, name in _EACH_ITS_OWN]
    kinds = tuple(getattr(module, name) for module, name in named if hasattr(module, name))
    of_numpy = _numpys_generator()
    of_all = (getattr(random, "_inst", None), of_numpy, getattr(of_numpy, "_bit_generator", None))
    return [
        each
        for each in gc.get_objects()
        # By its type: a proxy would be asked for its class, and might do anything.
        if issubclass(type(each), kinds)
        and not issubclass(type(each), random.SystemRandom)
        and all(each is not common for common in of_all)
    ]


def _numpys_generator() -> Any:
    return getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)


def _is_seeded() -> bool:
    """Whether numpy's global generator was given a seed, which a worker's own would replace."""
    bits = getattr(_numpys_generator(), "_bit_generator", None)
    return bits is not None and bits._seed_seq is None


def _stamps(modules: Iterable[object]) -> dict[str, tuple[int, int] | None]:
    files = (getattr(module, "__dict__", {}).get("__file__") for module in modules)
    return {file: _stamp(file) for file in files if isinstance(file, str)}


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
