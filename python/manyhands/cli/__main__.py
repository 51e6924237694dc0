"""The `manyhands` command: where it begins."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Iterable


def main() -> None:
    """Run the command line and leave with its exit code."""
    # What is imported stays: to look for cycles in it takes time that every run would wait for.
    gc.disable()
    if _is_for_processes(sys.argv[1:]):
        # It takes as long to start as the rest of this command to be imported.
        from manyhands.executors._zygote import zygote

        zygote(())
    from manyhands.cli.program import run

    gc.freeze()
    gc.enable()
    code = run()
    # What is left goes with the process.
    gc.freeze()
    sys.exit(code)


def _is_for_processes(arguments: Iterable[str]) -> bool:
    """Whether that is how the command line looks; nothing depends on it but the time that a run takes."""
    words = list(arguments)
    on = [word for option, word in pairwise(words) if option == "--on"]
    on += [word.removeprefix("--on=") for word in words if word.startswith("--on=")]
    if not on and words[:1] == ["worker"]:
        return "--help" not in words
    return any(word.startswith("process") for word in on)


if __name__ == "__main__":
    main()
