"""Signed webhooks: Standard Webhooks headers, and a guard on where they may go."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
from standardwebhooks import Webhook

from schemas.batch import Ms
from schemas.orders import Delivery, Receipt

TIMEOUT_S = 15.0
MAX_ANSWER = 64 * 1024
FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "224.0.0.0/3",
        "::/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
        "ff00::/8",
    )
)
"""What `is_global` lets or may let through and no receiver has: CGNAT, Azure's wire server, NAT64, SIIT, Teredo, 6to4,
documentation, segment routing, site-local, multicast."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forbidden(OSError):
    """A destination that webhooks must not reach."""


class Guard:
    """Lets webhooks reach public addresses and the networks that the operator allows (SSRF protection).

    It sees the resolved address of every connection attempt, so a name that resolves elsewhere later changes nothing.
    """

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def check(self, address: str) -> None:
        """Raises Forbidden."""
        ip = ipaddress.ip_address(address.split("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip in network for network in self._allowed):
            return
        if not ip.is_global or any(ip in network for network in FORBIDDEN):
            raise Forbidden(f"webhooks may not go to {ip}: not a public address, and not in BURNGUARD_WEBHOOK_ALLOW_NETWORKS")

    def socket(self, found: Any) -> socket.socket:
        """A socket for a resolved address (aiohttp's socket_factory)."""
        family, kind, protocol, _, address = found
        self.check(address[0])
        return socket.socket(family, kind, protocol)


class NoGuard(Guard):
    """The null protection, for the test that shows what it protects from."""

    def check(self, address: str) -> None:
        return


def signed(delivery: Delivery, secrets: Sequence[str], now: Ms) -> dict[str, str]:
    """Standard Webhooks headers; the id stays on every attempt, the timestamp is the attempt's; one signature a secret."""
    at = datetime.fromtimestamp(now / 1000, UTC)
    signatures = [Webhook(secret).sign(delivery.webhook_id, at, delivery.body) for secret in secrets]
    return {
        "content-type": "application/json",
        "webhook-id": delivery.webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def session(guard: Guard) -> aiohttp.ClientSession:
    """A client that follows nothing, unpacks nothing, trusts no environment and gives up after 15 s."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=guard.socket, force_close=True),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        trust_env=False,
        auto_decompress=False,
    )


async def post(client: aiohttp.ClientSession, url: str, delivery: Delivery, headers: dict[str, str], now: Ms) -> Receipt:
    """One attempt. An answer that never came may still have had its effect: it is retried with the same id."""
    try:
        async with client.post(url, data=delivery.body, headers=headers, allow_redirects=False) as answer:
            await answer.content.read(MAX_ANSWER)
            return read_answer(delivery, answer.status, answer.headers.get("retry-after", ""), now)
    except aiohttp.ClientConnectorError as error:
        return Receipt(delivery.webhook_id, now, ok=False, retry=True, said=str(error.os_error))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: of a host that no name can be
        return Receipt(delivery.webhook_id, now, ok=False, retry=True, said=type(error).__name__)


def read_answer(delivery: Delivery, status: int, retry_after: str, now: Ms) -> Receipt:
    """2xx is done, and so is a revert of what the receiver does not know (404); 408, 409, 425, 429, 5xx may pass.

    A revert is retried whatever the answer but 410 (gone): nothing may stay throttled because of a passing mistake.
    """
    ok = 200 <= status < 300 or (delivery.verb == "revert" and status == 404)
    retry = status >= 500 or status in (408, 409, 425, 429) or (delivery.verb == "revert" and status != 410)
    wait = int(retry_after) * 1000 if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 6 else 0
    return Receipt(delivery.webhook_id, now, ok=ok, retry=not ok and retry, said=f"HTTP {status}", wait=wait)
