"""Every benchmark runs and says something: tiny sizes, and not a word about how fast it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSUS = [sys.executable, "-m", "bench.versus"]


def run(*arguments):
    command = [*VERSUS, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


SUBJECTS = [line.split()[0] for line in run("--list").splitlines()]


@pytest.mark.skipif(
    sys.version_info[:2] > (3, 10),
    reason="no part of the package: what runs on the oldest Python runs on all",
)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_benchmark_measures_both_sides_and_judges_them(subject):
    rows = json.loads(run("--only", subject, "--rounds", "1", "--scale", "0.005", "--json", "-"))["rows"]
    assert rows
    for row in rows:
        assert row["subject"] == subject
        assert row["ours"]["median"] >= 0
        assert all(isinstance(reached, bool) for reached in row["bars"].values())
        assert set(row["ratios"]) <= set(row["peers"])


def test_results_kept_as_json_make_the_same_page_as_the_run_that_gave_them(tmp_path):
    kept, page, again = tmp_path / "results.json", tmp_path / "page.md", tmp_path / "again.md"
    run(
        "--only",
        "future,process-start",
        "--rounds",
        "2",
        "--scale",
        "0.01",
        "--json",
        str(kept),
        "--render",
        str(page),
    )
    printed = run("--results", str(kept), "--render", str(again))
    assert "set_result" in printed
    assert page.read_text() == again.read_text()
    assert "< 1 µs" in page.read_text()
    assert "| first result of a new pool of 2, second pool | **" in page.read_text()
    assert "| ProcessPoolExecutor | multiprocessing.Pool |" in page.read_text()


def test_a_subject_that_does_not_exist_is_named():
    refused = subprocess.run(
        [*VERSUS, "--only", "speed"], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert refused.returncode != 0
    assert "could not measure speed" in refused.stderr
