"""Real faults, each repeated under seeds; how often is chosen for a couple of minutes in all."""

import os

import pytest
from noting import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
