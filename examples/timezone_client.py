"""Look a row's time zone up at the service of `timezone_service.py`, whose port is in TIMEZONE_PORT.

    export TIMEZONE_PORT=8080
    manyhands map examples/timezone_client.py:look_up zones.csv -o zones.jsonl --timeout 1s --retries 5

`look_up` has no time limit and no second try of its own: those are the caller's to set.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

HOST = "127.0.0.1"


def port() -> int:
    """Return where the service listens."""
    return int(os.environ["TIMEZONE_PORT"])


def path(row: dict[str, str]) -> str:
    """Return the path of a row's zone; the service makes each `run` of the demo as unlucky as the others."""
    return f"/zones/{row['zone']}?run={os.environ.get('TIMEZONE_RUN', '')}"


def look_up(row: dict[str, str], timeout: float | None = None) -> dict[str, Any]:
    """Return the row with what the service says of its zone."""
    with urlopen(f"http://{HOST}:{port()}{path(row)}", timeout=timeout) as answer:
        return {**row, **json.load(answer)}


async def look_up_async(row: dict[str, str]) -> dict[str, Any]:
    """Do the same on an event loop."""
    reader, writer = await asyncio.open_connection(HOST, port())
    try:
        writer.write(f"GET {path(row)} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status = int(head.split(None, 2)[1])
    if status != 200:
        raise HTTPError(path(row), status, "the service said no", hdrs=None, fp=None)  # type: ignore[arg-type]
    return {**row, **json.loads(body)}
