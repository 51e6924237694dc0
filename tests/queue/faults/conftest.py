"""A broker of each kind that may be killed."""

import pytest
from scenes import scene_at
from servers import Redis, running


@pytest.fixture(params=["redis", "rabbit", "sqlite"])
def broker(request):
    return request.param


@pytest.fixture
def scene(broker, request, tmp_path):
    if broker == "sqlite":
        with scene_at(None, f"sqlite:///{tmp_path}/jobs.db", tmp_path) as made:
            yield made
    elif broker == "redis":
        with running(Redis, tmp_path / "redis") as server, scene_at(server, server.url, tmp_path) as made:
            yield made
    else:
        server = request.getfixturevalue("rabbit_server")
        with scene_at(server, server.url, tmp_path) as made:
            made.app.queue.purge()
            yield made
