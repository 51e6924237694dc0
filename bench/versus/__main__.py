"""Compares manyhands with the standard library: ``python -m bench.versus --help``."""

from __future__ import annotations

import argparse
import compileall
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import machine, report
from .runner import ROOT, Plan, Row, Subject, run
from .subjects import SUBJECTS

PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure, print, and write what was asked for."""
    options = arguments()
    by_name = {subject.name: subject for subject in SUBJECTS}
    if options.measure:
        name, side, size = options.measure
        print(json.dumps(by_name[name].measure(side, int(size))))
        return 0
    if options.list:
        print("\n".join(f"{subject.name:12} {subject.title}" for subject in SUBJECTS))
        return 0
    if options.results:
        rows, facts = report.from_json(json.loads(options.results.read_text()))
    else:
        rows, facts = measure(chosen(options.only, by_name), options)
    if options.json:
        text = json.dumps(report.as_json(rows, facts), indent=2, ensure_ascii=False)
        sys.stdout.write(text + "\n") if options.json == "-" else Path(options.json).write_text(text + "\n")
    if options.json != "-":
        print(report.table(rows), report.summary(rows), sep="\n\n")
    if options.render:
        options.render.parent.mkdir(exist_ok=True)
        options.render.write_text(report.page(rows, facts, SUBJECTS))
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.versus", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help="subjects, with commas between them; see --list")
    parser.add_argument("--list", action="store_true", help="list the subjects and end")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is measured (default: 7)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of each subject's size (default: 1)")
    parser.add_argument("--long", action="store_true", help="run the endless map over 10,000,000 items")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - for standard output")
    parser.add_argument(
        "--render",
        metavar="PAGE",
        type=Path,
        nargs="?",
        const=PAGE,
        help="write the results as a page (default: docs/benchmarks.md)",
    )
    parser.add_argument(
        "--results", metavar="FILE", type=Path, help="show results kept in a JSON file instead"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(only: str | None, by_name: dict[str, Subject]) -> Sequence[Subject]:
    """Return the subjects that were asked for."""
    if only is None:
        return SUBJECTS
    unknown = [name for name in only.split(",") if name not in by_name]
    if unknown:
        raise SystemExit(f"could not measure {', '.join(unknown)}: expected some of {', '.join(by_name)}")
    return [by_name[name] for name in only.split(",")]


def measure(subjects: Sequence[Subject], options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Run the subjects one after the other."""
    import manyhands

    # As pip does with the libraries that we are compared with.
    compileall.compile_dir(Path(manyhands.__file__).parent, quiet=1)
    facts = machine.facts()
    plan = Plan(options.rounds, options.scale, options.long, narrate)
    rows = [row for subject in subjects for row in run(subject, plan)]
    narrate("")
    return rows, {**facts, "load after": machine.load()}


def narrate(line: str) -> None:
    """Say on a terminal what is being measured."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
