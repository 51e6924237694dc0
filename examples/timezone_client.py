"""Look a row's time zone up at the service of `timezone_service.py`, whose port is in TIMEZONE_PORT.

    export TIMEZONE_PORT=8080
    manyhands map examples/timezone_client.py:look_up zones.csv -o zones.jsonl --timeout 1s --retries 5

`look_up` has no time limit and no second try of its own: those are the caller's to set.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - the first connection would import it, in all threads and within their time limits
import json
import os
from http.client import HTTPConnection
from typing import Any

HOST = "127.0.0.1"


def port() -> int:
    """Return where the service listens."""
    return int(os.environ["TIMEZONE_PORT"])


def path(row: dict[str, str]) -> str:
    """Return the path of a row's zone; the service makes each `run` of the demo as unlucky as the others."""
    return f"/zones/{row['zone']}?run={os.environ.get('TIMEZONE_RUN', '')}"


def result(row: dict[str, str], status: int, body: bytes) -> dict[str, Any]:
    """Return the row with what the service said of it, if it did."""
    if status != 200:
        raise ConnectionError(f"the service answered {status}")
    return {**row, **json.loads(body)}


def look_up(row: dict[str, str], timeout: float | None = None) -> dict[str, Any]:
    """Return the row with what the service says of its zone."""
    connection = HTTPConnection(HOST, port(), timeout=timeout)
    try:
        connection.request("GET", path(row))
        answer = connection.getresponse()
        return result(row, answer.status, answer.read())
    finally:
        connection.close()


async def look_up_async(row: dict[str, str]) -> dict[str, Any]:
    """Do the same on an event loop."""
    reader, writer = await asyncio.open_connection(HOST, port())
    try:
        writer.write(f"GET {path(row)} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return result(row, int(head.split(None, 2)[1]), body)
