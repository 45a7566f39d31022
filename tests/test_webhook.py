"""Webhooks as they leave: signed, guarded, patient with receivers that misbehave; and the bundled receiver."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from actions.deliver import Courier
from actions.webhook import Guard, NoGuard, post, read_answer, session, signed
from examples.receiver.receiver import Receiver
from schemas.orders import Delivery, Receipt
from stream.duty import wall
from tests.conftest import SECRET

OTHER = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhl"
LOOPBACK = Guard([ipaddress.ip_network("127.0.0.0/8")])


def delivery(verb: Any = "apply", sequence: int = 1, expires_in_s: float = 60, key_id: str = "k") -> Delivery:
    body = {
        "order": "o1",
        "sequence": sequence,
        "incident": "i1",
        "verb": verb,
        "action": "throttle",
        "tenant": "acme",
        "key_id": key_id,
        "parameters": {"strength": 0.9},
        "expires_at": time.time() + expires_in_s,
    }
    return Delivery(f"id{sequence}{verb}", "o1", verb, sequence, "acme", key_id, json.dumps(body), 0, 2**60)


async def send(url: str, what: Delivery, guard: Guard = LOOPBACK, secrets: tuple[str, ...] = (SECRET,)) -> Receipt:
    now = wall()
    async with session(guard) as client:
        return await post(client, url, what, signed(what, secrets, now), now)


async def test_a_signed_order_is_obeyed_once_and_an_older_one_never(receiver: Receiver) -> None:
    hook = f"{receiver.url}/hook"
    assert (await send(hook, delivery(sequence=2))).ok
    assert (await send(hook, delivery(sequence=2))).ok
    assert receiver.effects == [("apply", "o1")]
    assert receiver.throttled()[0]["strength"] == 0.9
    assert (await send(hook, delivery("revert", sequence=1))).ok
    assert receiver.throttled(), "an older revert must not lift a newer throttle"
    assert (await send(hook, delivery("revert", sequence=3))).ok
    assert not receiver.throttled()


async def test_a_forged_order_is_refused_and_either_of_two_secrets_will_do(receiver: Receiver) -> None:
    refused = await send(f"{receiver.url}/hook", delivery(), secrets=(OTHER,))
    assert (refused.ok, refused.retry, refused.said) == (False, False, "HTTP 401")
    assert not receiver.effects
    assert (await send(f"{receiver.url}/hook", delivery(), secrets=(OTHER, SECRET))).ok


def test_the_id_stays_and_the_timestamp_moves_between_attempts() -> None:
    what = delivery()
    first, second = signed(what, (SECRET,), 1_800_000_000_000), signed(what, (SECRET,), 1_800_000_060_000)
    assert first["webhook-id"] == second["webhook-id"] == what.webhook_id
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 60
    headers = signed(what, (SECRET,), wall())
    assert Webhook(SECRET).verify(what.body, headers)["order"] == "o1"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.0.8",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
        "2002:a00:1::", "2001:0:a00:1::", "ff02::1", "fec0::1", "::7f00:1", "::ffff:0:7f00:1", "192.88.99.1",
    ],
)  # fmt: skip
def test_no_webhook_goes_to_an_inner_address(address: str) -> None:
    with pytest.raises(OSError, match="may not go"):
        Guard().check(address)
    Guard().check("93.184.215.14")


async def test_the_guard_stops_a_name_that_resolves_to_loopback_and_without_it_the_post_arrives(receiver: Receiver) -> None:
    hook = receiver.url.replace("127.0.0.1", "localhost") + "/hook"
    refused = await send(hook, delivery(), Guard())
    assert not refused.ok
    assert "BURNGUARD_WEBHOOK_ALLOW_NETWORKS" in refused.said
    assert not receiver.effects
    assert (await send(hook, delivery(), NoGuard())).ok
    assert receiver.effects


Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def odd() -> AsyncIterator[Callable[[Endpoint], Awaitable[str]]]:
    runners = []

    async def serve(endpoint: Endpoint) -> str:
        app = web.Application()
        app.router.add_post("/", endpoint)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_redirects_are_not_followed_and_are_failures(odd: Any) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://169.254.169.254/")

    receipt = await send(await odd(redirect), delivery())
    assert (receipt.ok, receipt.said) == (False, "HTTP 307")


async def test_garbage_endless_and_silent_answers_end_in_time(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    monkeypatch.setattr("actions.webhook.TIMEOUT_S", 0.3)
    assert (await send(await odd(endless), delivery())).ok
    late = await send(await odd(silent), delivery())
    assert (late.ok, late.retry) == (False, True)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00garbage\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    garbage = await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", delivery())
    server.close()
    await server.wait_closed()
    assert (garbage.ok, garbage.retry) == (False, True)


async def test_nobody_listening_is_a_failure_that_may_pass() -> None:
    receipt = await send("http://127.0.0.1:1/", delivery())
    assert (receipt.ok, receipt.retry) == (False, True)


@pytest.mark.parametrize(
    ("verb", "status", "ok", "retry"),
    [
        ("apply", 200, True, False), ("apply", 204, True, False),
        ("apply", 302, False, False), ("apply", 400, False, False),
        ("apply", 404, False, False), ("apply", 410, False, False), ("apply", 429, False, True), ("apply", 500, False, True),
        ("revert", 404, True, False),
        ("revert", 400, False, True), ("revert", 410, False, False), ("revert", 503, False, True),
    ],
)  # fmt: skip
def test_what_an_answer_means(verb: str, status: int, ok: bool, retry: bool) -> None:
    receipt = read_answer(delivery(verb), status, "", 0)
    assert (receipt.ok, receipt.retry) == (ok, retry)


def test_retry_after_is_honoured() -> None:
    assert read_answer(delivery(), 503, "120", 0).wait == 120_000
    assert read_answer(delivery(), 503, "soon", 0).wait == 0


async def test_a_receiver_that_hangs_for_one_key_holds_up_no_other(odd: Any) -> None:
    arrived = []

    async def picky(request: web.Request) -> web.StreamResponse:
        key = (await request.json())["key_id"]
        if key == "hangs":
            await asyncio.sleep(2)
        arrived.append(key)
        return web.Response()

    class Outbox:
        def __init__(self) -> None:
            self.waiting = [delivery(sequence=n, key_id=k) for n, k in enumerate(("hangs", "a", "b"), 1)]

        def due(self, now: int) -> list[Delivery]:
            return self.waiting

        def claim(self, what: Delivery, now: int) -> bool:
            return True

        def settle(self, receipt: Receipt) -> None:
            self.waiting = [d for d in self.waiting if d.webhook_id != receipt.webhook_id]

    outbox = Outbox()
    async with Courier(outbox, await odd(picky), (SECRET,), LOOPBACK, wall) as courier:
        began = time.monotonic()
        while len(outbox.waiting) > 1 and time.monotonic() < began + 5:
            courier.start_due()
            await asyncio.sleep(0.01)
    assert sorted(arrived) == ["a", "b"]
    assert time.monotonic() - began < 1.5


async def test_answers_are_not_unpacked(odd: Any) -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"not gzip at all", headers={"content-encoding": "gzip"})

    assert (await send(await odd(bomb), delivery())).ok
