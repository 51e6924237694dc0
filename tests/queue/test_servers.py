"""The servers of these tests keep what they were given, and go with whoever started them."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from servers import Rabbit, Redis, running

PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import servers
with servers.running(getattr(servers, sys.argv[2]), Path(sys.argv[3])) as server:
    print(server.port, flush=True)
    time.sleep(600)
"""


def say(server, line):
    """The answer of a Redis to a command."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(1000)


def test_a_redis_that_is_killed_keeps_what_it_has_confirmed(tmp_path):
    with running(Redis, tmp_path) as server:
        assert say(server, "SET greeting hello") == b"+OK\r\n"
        server.restart()
        assert say(server, "GET greeting") == b"$5\r\nhello\r\n"


def test_a_server_that_is_paused_is_silent_and_loses_nothing(tmp_path):
    with (
        running(Redis, tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        with server.paused():
            connection.sendall(b"PING\r\n")
            connection.settimeout(0.05)
            with pytest.raises(TimeoutError):
                connection.recv(100)
        connection.settimeout(20)
        assert connection.recv(100) == b"+PONG\r\n"


def was_closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.timeout(180)  # of a RabbitMQ that starts beside much else
@pytest.mark.parametrize("kind", [Redis, Rabbit])
def test_a_server_dies_with_whoever_started_it(kind, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), kind.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        port = int(program.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            program.kill()
            assert was_closed(connection)
