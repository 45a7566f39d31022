"""A webhook receiver: verifies, dedupes, throttles until the lease ends, and lifts by itself. Copy it into your gateway."""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY = 64 * 1024


class Receiver(ThreadingHTTPServer):
    """`POST /hook` takes orders, `GET /throttled` lists what is throttled now. Listens on 127.0.0.1 only."""

    daemon_threads = True

    def __init__(self, secret: str, port: int = 0) -> None:
        self.webhook = Webhook(secret)
        self.known: set[str] = set()
        self.newest: dict[tuple[str, str], int] = {}
        self.throttles: dict[tuple[str, str], dict[str, Any]] = {}
        self.effects: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Endpoint)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Obey one order, once. Raises WebhookVerificationError or ValueError where it is not signed by our secret."""
        order = self.webhook.verify(body, headers)
        entity = (order["tenant"], order["key_id"])
        with self.lock:
            if headers["webhook-id"] in self.known or order["sequence"] < self.newest.get(entity, 0):
                return
            self.known.add(headers["webhook-id"])
            self.newest[entity] = order["sequence"]
            self.effects.append((order["verb"], order["order"]))
            if order["verb"] == "revert":
                self.throttles.pop(entity, None)
            else:
                self.throttles[entity] = order
        print(f"{order['verb']} {order['action']} of {order['tenant']}/{order['key_id']}", flush=True)

    def throttled(self) -> list[dict[str, Any]]:
        """What is throttled now; a lease that is over counts for nothing, whoever forgot to revert it."""
        with self.lock:
            live = [t for t in self.throttles.values() if t["expires_at"] > time.time()]
            self.throttles = {(t["tenant"], t["key_id"]): t for t in live}
        return [{n: t[n] for n in ("tenant", "key_id", "expires_at", "order")} | t["parameters"] for t in live]


class Endpoint(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", MAX_BODY + 1))
        if self.path != "/hook" or length > MAX_BODY:
            return self.send_error(404 if self.path != "/hook" else 413)
        try:
            self.server.take(self.rfile.read(length), {k.lower(): v for k, v in self.headers.items()})
        except (WebhookVerificationError, ValueError):
            return self.send_error(401)
        self.answer([])

    def do_GET(self) -> None:
        self.answer(self.server.throttled()) if self.path == "/throttled" else self.send_error(404)

    def answer(self, value: list[Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged; what was done is printed by `take`."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--secret-file", type=Path, required=True)
    given = parser.parse_args()
    receiver = Receiver(given.secret_file.read_text().strip(), given.port)
    print(f"listening on {receiver.url}", flush=True)
    receiver.serve_forever()
