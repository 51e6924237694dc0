"""Messages between a process and the zygote that it started: pickled tuples, each with descriptors.

Nobody else can write them: the socket is a pair, and each end is known to one process.
"""

from __future__ import annotations

import array
import os
import socket
from _pickle import dumps, loads  # `pickle` brings its twin in Python, which needs regular expressions

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["from_memory", "in_memory", "receive", "send"]

_PACKET = 1 << 16
"""The largest message within a packet; a larger one travels in memory of its own."""
_MOST_FDS = 8


def send(sock: socket.socket, message: Any, fds: Iterable[int] = ()) -> None:
    """Send a message and duplicates of those descriptors."""
    data, descriptors = dumps(message), [*fds]
    memory = None
    try:
        if len(data) > _PACKET:
            memory = in_memory(data)
            descriptors.append(memory)
            data = b""
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        # One byte first: a packet of none would look like the end.
        sock.sendmsg([b"-", data], ancillary)
    finally:
        if memory is not None:
            os.close(memory)


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """Return the next message, and its descriptors.

    Raises:
        EOFError: The other end is closed.
    """
    data, ancillary, _, _ = sock.recvmsg(
        _PACKET + 1, socket.CMSG_SPACE(_MOST_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if not data:
        raise EOFError
    if len(data) > 1:
        return loads(data[1:]), list(fds)
    return loads(from_memory(fds.pop())), list(fds)


def in_memory(data: bytes) -> int:
    """Return the descriptor of memory with those bytes."""
    fd = os.memfd_create("manyhands")
    try:
        with os.fdopen(fd, "wb", closefd=False) as memory:
            memory.write(data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def from_memory(fd: int) -> bytes:
    """Return the bytes in such memory, and close its descriptor."""
    with os.fdopen(fd, "rb") as memory:
        memory.seek(0)
        return memory.read()
