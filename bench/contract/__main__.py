"""Runs the fault contract on manyhands and its peers: ``python -m bench.contract --help``.

Each cell of the table is a fresh interpreter in a session of its own, which is killed whole after a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from . import table
from .libraries import BY_CLASS, LIBRARIES, Library
from .scenarios import BY_NAME, SCENARIOS, Scenario

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 25.0
"""Seconds after which a cell hangs. The slowest scenario takes three."""


def main() -> int:
    """Run what was asked for, print it, and write it if all of it was run."""
    options = arguments()
    if options.cell:
        library, scenario = options.cell
        print(json.dumps(BY_NAME[scenario].run(BY_CLASS[library]())), flush=True)
        # Whatever hangs now is not what was asked.
        os._exit(0)
    if options.render:
        table.write(table.load())
        return 0
    libraries = [library for library in LIBRARIES if options.only is None or library.__name__ in options.only]
    results = {"facts": facts(libraries), "cells": run(libraries)}
    print(table.markdown(results))
    if options.only is None:
        table.save(results)
        table.write(results)
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.contract", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAMES",
        type=known_names,
        help=f"some of {', '.join(BY_CLASS)}; writes nothing",
    )
    parser.add_argument("--render", action="store_true", help="only write the README's table again")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def known_names(text: str) -> list[str]:
    """Take the list apart."""
    if unknown := [name for name in text.split(",") if name not in BY_CLASS]:
        raise argparse.ArgumentTypeError(
            f"found {', '.join(unknown)}, expected some of {', '.join(BY_CLASS)}"
        )
    return text.split(",")


def run(libraries: Sequence[type[Library]]) -> dict[str, dict[str, Any]]:
    """Run every cell, one after the other."""
    cells: dict[str, dict[str, Any]] = {}
    for library in libraries:
        if library.requires is not None and version(library.requires) is None:
            print(f"{library.requires} is not installed and left out", file=sys.stderr)
            continue
        cells[library.__name__] = {scenario.name: cell(library, scenario) for scenario in SCENARIOS}
    return cells


def cell(library: type[Library], scenario: Scenario) -> dict[str, Any]:
    """Run one scenario with one library."""
    if scenario.name in library.impossible:
        return {"impossible": library.impossible[scenario.name]}
    command = [sys.executable, "-m", "bench.contract", "--cell", library.__name__, scenario.name]
    # Files, for pipes end only with the last of the workers that a library may leave behind.
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaints:
        try:
            code = run_session(command, said, complaints)
        except subprocess.TimeoutExpired:
            return {"hangs": PATIENCE}
        said.seek(0)
        complaints.seek(0)
        answers, errors = said.read().splitlines(), complaints.read().splitlines()
    if code or not answers:
        return {"failed": errors[-1] if errors else f"exit code {code}"}
    found: dict[str, Any] = json.loads(answers[-1])
    return found


def run_session(command: list[str], out: IO[str], err: IO[str]) -> int:
    """Run a command in a session of its own, and end all of it."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
    try:
        return process.wait(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def facts(libraries: Sequence[type[Library]]) -> dict[str, str]:
    """Return the versions of everything that was run."""
    names = ["manyhands", *(library.requires for library in libraries if library.requires)]
    found = {name: version(name) for name in names}
    return {"Python": sys.version.split()[0], **{name: of for name, of in found.items() if of}}


def version(distribution: str) -> str | None:
    """Return what is installed of it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
