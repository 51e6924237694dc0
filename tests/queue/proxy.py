"""A way to a server that can be cut: nobody is told that the connections through it have gone silent."""

import select
import socket
import threading
from contextlib import contextmanager, suppress

from servers import free_port


class Proxy:
    """Forwards to a port of this machine, but for the time that it is cut."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self._open = threading.Event()
        self._open.set()
        self._served: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def cut(self):
        """What is sent meanwhile arrives later, or never if an end has given up."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def swallow(self) -> None:
        """What the present connections carry never arrives, and no end hears of it; new ones are fine."""
        self._swallowed |= self._served

    def close(self) -> None:
        self._open.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._open.wait()
            self._served.add(client)
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                other = {client: server, server: client}
                while True:
                    for end in select.select([client, server], [], [])[0]:
                        data = end.recv(65536)
                        self._open.wait()
                        if not data:
                            return
                        if client not in self._swallowed:
                            other[end].sendall(data)
