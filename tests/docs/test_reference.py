"""The reference says what the docstrings say."""

import subprocess
import sys

from documentation import ROOT


def test_no_page_of_the_reference_is_stale():
    command = [sys.executable, "scripts/reference", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
