"""Servers for the tests alone: a Redis and a RabbitMQ on free ports of this machine, in folders of their own.

They die with the process that started them, also when it is killed. Each can be killed, stopped for a while,
and started again where it was; what they confirm is on the disk.
"""

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

START_WITHIN = 120.0  # seconds; RabbitMQ takes 5 of an idle machine
CERTIFICATES = Path(__file__).parents[2] / "crates/queue/tests/servers/tls"
"""`ca.pem` has signed `server.pem`, which names this machine."""
RABBIT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # below Debian's wrapper, which would change the user


class Server(ABC):
    """A server and its folder: what it has kept outlives its process, not this object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, as a user would give it."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What runs it in the foreground."""

    @property
    def environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def answers(self, connection: socket.socket) -> bool:
        """Whether it is ready for clients, and not only listening."""

    def start(self) -> None:
        """Return when clients are served."""
        log = self.folder / "output.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_WITHIN
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"could not start {self.command[0]}:\n{log.read_text(errors='replace')[-4000:]}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a loss of power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.kill()

    def restart(self) -> None:
        """Kill it and start it again with what it had written."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It neither answers nor closes a connection meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return self.answers(connection)
        return False


class Redis(Server):
    sync = "always"
    """When what was confirmed is on the disk."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        listen = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return ["redis-server", *listen, "--save", "", "--appendonly", "yes", "--appendfsync", self.sync]

    def answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")  # a server that is loading its file answers with an error
        return connection.recv(64).startswith(b"+PONG")


class UsualRedis(Redis):
    """As most people run it: a loss of power costs the last second."""

    sync = "everysec"


class Rabbit(Server):
    """One node of its own: its name and its port for the others of a cluster are known to nobody."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tls = free_port()
        self._names = free_port()  # of epmd, which tells nodes from each other
        self._distribution = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console.level = warning\nloopback_users = none\n"
            f"listeners.ssl.1 = 127.0.0.1:{self._tls}\nssl_options.cacertfile = {CERTIFICATES}/ca.pem\n"
            f"ssl_options.certfile = {CERTIFICATES}/server.pem\n"
            f"ssl_options.keyfile = {CERTIFICATES}/server.key\n"
        )

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def tls_url(self) -> str:
        return f"amqps://guest:guest@localhost:{self._tls}//"

    @property
    def command(self) -> list[str]:
        return [str(RABBIT)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"manyhands{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
            "RUNNING_UNDER_SYSTEMD": "true",  # so that no shell stays between us and it
        }

    def start(self) -> None:
        if self._epmd is None:
            names = ["epmd", "-port", str(self._names), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *names], stderr=subprocess.DEVNULL
            )
            wait_for_listener(self._names)
        super().start()

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(7)[:1] == b"\x01"  # it begins the handshake


@contextmanager
def running(kind: type[Server], folder: Path) -> Iterator[Server]:
    """A server of that kind while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        server = kind(folder)
        undo.callback(server.close)
        server.start()
        yield server


def free_port() -> int:
    """A port below those that the kernel gives to clients: nobody has it when a server comes back to it."""
    numbers = random.SystemRandom()  # the usual one, once seeded, draws the ports of another run
    while True:
        port = numbers.randrange(10_000, 30_000)
        with socket.socket() as attempt, suppress(OSError):
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("127.0.0.1", port))
            return port


def wait_for_listener(port: int) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.01)
    raise RuntimeError(f"could not connect to port {port}: nobody listens")
