"""What is written by scripts says what its sources say."""

import subprocess
import sys

import pytest
from documentation import ROOT


@pytest.mark.parametrize("script", ["reference", "chart"])
def test_nothing_written_by_a_script_is_stale(script):
    command = [sys.executable, f"scripts/{script}", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
