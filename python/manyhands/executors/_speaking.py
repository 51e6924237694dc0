"""What workers say besides results: lines of output, log records, warnings. The worker's side of `_notes`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from _pickle import dumps

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, TextIO

    from manyhands import _core
    from manyhands.executors._records import Handler

__all__ = ["ERR", "OUT", "RECORD", "WARNING", "speaking"]

OUT, ERR, RECORD, WARNING = range(4)
_CHUNK = 1 << 14
"""Characters of one message."""


@contextlib.contextmanager
def speaking(worker: _core.ProcessWorker, name: str, levels: dict[str, Any]) -> Iterator[None]:
    """Have this process's output, records and warnings sent to the pool, in this process alone."""
    records = _Records(worker, name, levels)
    records.begin()
    show = warnings.showwarning
    warnings.showwarning = _warning_sender(worker, show)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(worker, OUT, sys.stdout), _Stream(worker, ERR, sys.stderr)

    def fall_silent() -> None:
        records.end()
        warnings.showwarning = show
        sys.stdout, sys.stderr = streams

    # What a task forks has descriptors of its own to write to, and no place in the worker's ring.
    os.register_at_fork(after_in_child=fall_silent)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        fall_silent()


class _Records:
    """Log records, from when `logging` is imported: it is large, and few functions need it.

    Until then it is one of ``sys.meta_path``, the finders of modules.
    """

    def __init__(self, worker: _core.ProcessWorker, name: str, levels: dict[str, Any]) -> None:
        self._worker, self._name, self._levels = worker, name, levels
        self._handler: Handler | None = None

    def begin(self) -> None:
        if "logging" in sys.modules:
            self._set_up()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "logging":
            return None
        from importlib.machinery import PathFinder

        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenLoader(spec.loader, self._set_up)  # type: ignore[assignment]
        return spec

    def _set_up(self) -> None:
        import logging

        from manyhands.executors._records import Handler

        self._handler = Handler(self._worker, self._name)
        logging.root.addHandler(self._handler)
        logging.root.setLevel(self._levels["root"])
        logging.disable(self._levels["disable"])
        for logger, level in self._levels["loggers"].items():
            logging.getLogger(logger).setLevel(level)

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self._handler is not None:
            import logging

            logging.root.removeHandler(self._handler)


class _ThenLoader:
    """Loads a module as another loader does, and then does something else."""

    def __init__(self, loader: Any, then: Callable[[], object]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()


class _Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a worker. What it does not know of is asked of the one beneath."""

    def __init__(self, worker: _core.ProcessWorker, number: int, beneath: TextIO) -> None:
        self._worker, self._number, self._beneath = worker, number, beneath

    def write(self, text: str, /) -> int:
        """Send whole lines, keep the rest."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        for start in range(0, len(text), _CHUNK):
            piece = text[start : start + _CHUNK]
            self._worker.write(self._number, piece.encode("utf-8", "surrogatepass"))
        return len(text)

    def flush(self) -> None:
        """Send what there is of a line."""
        self._beneath.flush()
        self._worker.flush(self._number)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the inherited descriptor: for programs that a task starts."""
        return self._beneath.fileno()

    def isatty(self) -> bool:
        """Say whether the inherited descriptor is a terminal."""
        return self._beneath.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream beneath."""
        return self._beneath.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the stream beneath treats what it cannot encode."""
        return self._beneath.errors

    def __getattr__(self, name: str) -> Any:
        """Look it up in the stream beneath: ``buffer``, ``reconfigure`` and the like."""
        return getattr(self._beneath, name)


def _warning_sender(worker: _core.ProcessWorker, show: Any) -> Any:
    def showwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:
            show(message, category, filename, lineno, file, line)
            return
        text = str(message)[:_CHUNK]
        try:
            data = dumps((text, category, filename, lineno), 5)
        except Exception:
            # A class that the parent cannot know.
            data = dumps((f"{category.__name__}: {text}", UserWarning, filename, lineno), 5)
        worker.note(WARNING, data)

    return showwarning
