"""A small HTTP service that knows time zones, slow and unreliable as real ones are.

    python examples/timezone_service.py [--port 8080] [--until-eof]

GET /zones/Europe/Berlin answers with JSON after 50 ms. Two requests in a hundred get a 503, one in a
hundred is never answered. Which ones is decided by the zone and the number of the request for it in the
``run`` of the query, so that a run of the demo can be repeated.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import sys
import threading
import zoneinfo
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LATENCY = 0.05
ERRORS, HANGS = 0.02, 0.01
WINTER = datetime.datetime(2026, 1, 15, 12)
SUMMER = datetime.datetime(2026, 7, 15, 12)


class Service(ThreadingHTTPServer):
    """The server; `port` says where it listens."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.port = self.server_address[1]
        self.closing = threading.Event()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def mood(self, run: str, zone: str) -> str:
        """Return what becomes of the next request for `zone` in `run`: "answer", "error" or "hang"."""
        with self._lock:
            self._asked[run, zone] += 1
            number = self._asked[run, zone]
        digest = hashlib.blake2b(f"{zone} {number}".encode(), digest_size=8).digest()
        chance = int.from_bytes(digest, "big") / 2**64
        if chance < HANGS:
            return "hang"
        return "error" if chance < HANGS + ERRORS else "answer"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Service

    def do_GET(self) -> None:
        """Look a zone up."""
        url = urlsplit(self.path)
        zone = unquote(url.path).removeprefix("/zones/")
        run = parse_qs(url.query).get("run", [""])[0]
        mood = self.server.mood(run, zone)
        # The latency of the network, and of a database behind it; a hang lasts until the service ends.
        self.server.closing.wait(None if mood == "hang" else LATENCY)
        if self.server.closing.is_set():
            return
        if mood == "error":
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            body = json.dumps(describe(zone)).encode()
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the demo's own output is to be read."""


def describe(zone: str) -> dict[str, object]:
    """Return what is known of a zone: its abbreviations and offsets in winter and in summer."""
    info = zoneinfo.ZoneInfo(zone)
    winter, summer = WINTER.replace(tzinfo=info), SUMMER.replace(tzinfo=info)
    hours = [moment.utcoffset() / datetime.timedelta(hours=1) for moment in (winter, summer)]
    return {"january": winter.tzname(), "july": summer.tzname(), "hours": hours}


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080, help="0 chooses a free one")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    service = Service(options.port)
    print(f"http://127.0.0.1:{service.port}/zones/Europe/Berlin", flush=True)
    if options.until_eof:
        threading.Thread(target=stop_at_eof, args=(service,), daemon=True).start()
    try:
        service.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        service.closing.set()


def stop_at_eof(service: Service) -> None:
    """Stop when whoever holds the other end of standard input closes it, or is gone, however he ended."""
    sys.stdin.read()
    service.shutdown()


if __name__ == "__main__":
    main()
