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
Order = dict[str, Any]


class NoOrder(Exception):
    """What is signed does not say what an order must say."""


def is_order(body: Any) -> bool:
    """Whether it says all that we use."""
    if not isinstance(body, dict):
        return False
    texts = all(isinstance(body.get(name), str) for name in ("tenant", "key_id", "order", "action", "verb"))
    numbers = all(isinstance(body.get(name), (int, float)) for name in ("sequence", "expires_at"))
    return texts and numbers and isinstance(body.get("parameters"), dict)


class Receiver(ThreadingHTTPServer):
    """`POST /hook` takes orders, `GET /throttled` lists what is throttled now. Listens on 127.0.0.1 only."""

    daemon_threads = True

    def __init__(self, secret: str, port: int = 0) -> None:
        self.webhook = Webhook(secret)
        self.known: set[str] = set()
        self.newest: dict[tuple[str, str], int] = {}
        self.throttles: dict[tuple[str, str], Order] = {}
        self.effects: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Endpoint)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Obey one order, once.

        Raises WebhookVerificationError or ValueError where it is not signed by our secret, JSONDecodeError or NoOrder where
        it is, but is no order.
        """
        order = self.verified(body, headers)
        if not is_order(order):
            raise NoOrder
        entity = (order["tenant"], order["key_id"])
        with self.lock:
            if self.seen(headers["webhook-id"]) or order["sequence"] < self.newest.get(entity, 0):
                return
            self.newest[entity] = order["sequence"]
            if order["verb"] == "revert":
                self.throttles.pop(entity, None)
            else:
                self.throttles[entity] = order
            self.tell(order["verb"], order)

    def verified(self, body: bytes, headers: dict[str, str]) -> Order:
        """The order, if the Standard Webhooks signature is ours and at most 5 min old."""
        order: Order = self.webhook.verify(body, headers)
        return order

    def seen(self, webhook_id: str) -> bool:
        """Whether it came before; from now on it did."""
        before = webhook_id in self.known
        self.known.add(webhook_id)
        return before

    def over(self, order: Order) -> bool:
        """Whether the lease has ended."""
        return bool(order["expires_at"] <= time.time())

    def service_actions(self) -> None:
        """Lift what is over, whoever forgot to revert it; `serve_forever` calls this twice a second."""
        with self.lock:
            for entity in [e for e, order in self.throttles.items() if self.over(order)]:
                self.tell("expire", self.throttles.pop(entity))

    def tell(self, what: str, order: Order) -> None:
        self.effects.append((what, order["order"]))
        print(f"{what} {order['action']} of {order['tenant']}/{order['key_id']}", flush=True)

    def throttled(self) -> list[Order]:
        """What is throttled now."""
        self.service_actions()
        with self.lock:
            live = list(self.throttles.values())
        return [{n: t[n] for n in ("tenant", "key_id", "expires_at", "order")} | t["parameters"] for t in live]


class Endpoint(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 10

    def do_POST(self) -> None:
        given = self.headers.get("content-length", "")
        length = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else MAX_BODY + 1
        if self.path != "/hook" or length > MAX_BODY:
            return self.send_error(404 if self.path != "/hook" else 413)
        try:
            self.server.take(self.rfile.read(length), {k.lower(): v for k, v in self.headers.items()})
        except (NoOrder, json.JSONDecodeError):
            return self.send_error(400)
        except (WebhookVerificationError, ValueError):
            return self.send_error(401)
        self.answer([])

    def do_GET(self) -> None:
        self.answer(self.server.throttled()) if self.path == "/throttled" else self.send_error(404)

    def answer(self, value: list[Order]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged; what was done is printed by `tell`."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--secret-file", type=Path, required=True)
    given = parser.parse_args()
    receiver = Receiver(given.secret_file.read_text().strip(), given.port)
    print(f"listening on {receiver.url}", flush=True)
    receiver.serve_forever()
