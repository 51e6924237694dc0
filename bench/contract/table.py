"""The fault contract's results: kept in a file, shown as the table in the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .libraries import BY_CLASS
from .scenarios import SCENARIOS, Scenario

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "README.md"
BEGIN, END = "<!-- fault contract: written by bench/contract -->\n", "<!-- end of the fault contract -->"


def load() -> dict[str, Any]:
    """Return the results of the last whole run."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return kept


def save(results: dict[str, Any]) -> None:
    """Keep the results of a whole run."""
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def write(results: dict[str, Any]) -> None:
    """Put the table into the README."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def rendered(page: str, results: dict[str, Any]) -> str:
    """Return the page with the table between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"could not write the table: found no `{BEGIN.strip()}` … `{END}` in {PAGE.name}")
    return f"{before}{begin}\n{markdown(results)}\n\n{end}{after}"


def markdown(results: dict[str, Any]) -> str:
    """Return the table, and what was run."""
    lines = [
        "| | " + " | ".join(scenario.title for scenario in SCENARIOS) + " |",
        "|---" * (len(SCENARIOS) + 1) + "|",
    ]
    for name, cells in results["cells"].items():
        shown = (show(scenario, cells[scenario.name]) for scenario in SCENARIOS)
        lines.append("| " + " | ".join([BY_CLASS[name].name, *shown]) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in results["facts"].items())
    return "\n".join(lines) + f"\n\n{versions}."


def show(scenario: Scenario, found: dict[str, Any]) -> str:
    """Return a cell: bold where it is what the contract asks for, a dash where the model cannot have it."""
    if "impossible" in found:
        return "–"  # noqa: RUF001
    if "hangs" in found:
        return "hangs"
    if "failed" in found:
        return "fails"
    text = scenario.shows(found)
    return f"**{text}**" if scenario.passes(found) else text
