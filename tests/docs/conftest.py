"""The servers that pages speak of, as the tests of the queue start them."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "queue"))

from servers import Redis, running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with running(Redis, tmp_path_factory.mktemp("redis")) as server:
        yield server
