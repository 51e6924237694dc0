"""Servers, started when a test first asks for one, and shared by the whole run."""

import pytest
from servers import Rabbit, Redis, running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with running(Redis, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory):
    with running(Rabbit, tmp_path_factory.mktemp("rabbit")) as server:
        yield server
