"""Servers behind TLS."""

from contextlib import closing

import pytest
from servers import CERTIFICATES

import manyhands as mh
from manyhands.queue import Worker


def test_tasks_and_their_results_travel_through_tls(rabbit_server):
    broker = f"{rabbit_server.tls_url}?ssl_ca_certs={CERTIFICATES}/ca.pem"
    with closing(mh.Queue("tls", broker=broker, default_queue="tls")) as queue:

        @queue.task
        def double(n):
            return 2 * n

        with Worker(queue, on="thread"):
            assert double.delay(21).get(timeout=60) == 42


def test_a_server_that_nobody_has_vouched_for_is_refused(rabbit_server):
    with closing(mh.Queue("tls", broker=rabbit_server.tls_url)) as queue:
        with pytest.raises(mh.BrokerError, match="UnknownIssuer") as refused:
            queue.depth("tls")
        assert "guest:guest" not in str(refused.value)
