"""The bundled receiver over loopback: what a gateway may rely on, and what each protection is for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from examples.receiver import receiver as bundled
from examples.receiver.receiver import MAX_BODY, Order, Receiver

SECRET = "whsec_" + "dGVzdHMgb25seSwgbm90IGEgcmVhbCBzZWNyZXQhIQ=="
FORGED = "whsec_" + "c29tZWJvZHkgZWxzZSdzIHNlY3JldCwgMzIgYnl0ZXM="


class Unsigned(Receiver):
    def verified(self, body: bytes, headers: dict[str, str]) -> Order:
        order: Order = json.loads(body)
        return order


class Forgetful(Receiver):
    def seen(self, webhook_id: str) -> bool:
        return False


class Endless(Receiver):
    def over(self, order: Order) -> bool:
        return False


@contextmanager
def serving(kind: type[Receiver] = Receiver) -> Iterator[Receiver]:
    receiver = kind(SECRET)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


def body(verb: str = "apply", sequence: int = 1, lease_s: float = 60, key_id: str = "k1") -> bytes:
    order = {"order": "o1", "sequence": sequence, "incident": "i1", "verb": verb, "action": "throttle", "tenant": "acme"}
    rest = {"key_id": key_id, "parameters": {"strength": 0.9}, "expires_at": time.time() + lease_s, "runbook": "r"}
    return json.dumps(order | rest | {"reason": "burns", "evidence": {}}).encode()


def send(receiver: Receiver, content: bytes, webhook_id: str = "w1", secret: str = SECRET, age_s: float = 0) -> int:
    at = datetime.fromtimestamp(time.time() - age_s, UTC)
    signature = Webhook(secret).sign(webhook_id, at, content.decode())
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    return post(receiver, "/hook", content, headers)


def post(receiver: Receiver, path: str, content: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(receiver.url + path, data=content, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def throttled(receiver: Receiver) -> list[dict[str, Any]]:
    with urllib.request.urlopen(receiver.url + "/throttled", timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def test_a_signed_order_throttles_until_it_is_reverted() -> None:
    with serving() as receiver:
        assert send(receiver, body()) == 200
        (throttle,) = throttled(receiver)
        assert throttle.pop("expires_at") > time.time()
        assert throttle == {"tenant": "acme", "key_id": "k1", "order": "o1", "strength": 0.9}
        assert send(receiver, body("revert", sequence=2), "w2") == 200
        assert throttled(receiver) == []


def test_a_renewal_extends_the_lease() -> None:
    with serving() as receiver:
        send(receiver, body(lease_s=60))
        send(receiver, body("renew", sequence=2, lease_s=600), "w2")
        assert throttled(receiver)[0]["expires_at"] > time.time() + 500


@pytest.mark.parametrize(("kind", "status", "live"), [(Receiver, 401, 0), (Unsigned, 200, 1)])
def test_a_forged_throttle_is_refused_and_without_signatures_it_would_be_obeyed(
    kind: type[Receiver], status: int, live: int
) -> None:
    with serving(kind) as receiver:
        assert send(receiver, body(), secret=FORGED) == status
        assert len(throttled(receiver)) == live


@pytest.mark.parametrize(("kind", "effects"), [(Receiver, 1), (Forgetful, 2)])
def test_a_repeat_counts_once_and_without_dedupe_it_would_count_twice(kind: type[Receiver], effects: int) -> None:
    with serving(kind) as receiver:
        once = body()
        assert [send(receiver, once), send(receiver, once)] == [200, 200]
        assert receiver.effects == [("apply", "o1")] * effects


@pytest.mark.parametrize(("kind", "live"), [(Receiver, 0), (Endless, 1)])
def test_a_throttle_lifts_itself_and_without_self_expiry_it_would_be_orphaned(kind: type[Receiver], live: int) -> None:
    with serving(kind) as receiver:
        send(receiver, body(lease_s=0.2))
        assert len(throttled(receiver)) == 1
        time.sleep(0.25)
        assert len(throttled(receiver)) == live


def test_a_lease_that_ends_is_told_even_if_nobody_asks(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as receiver:
        send(receiver, body(lease_s=-1))
        limit = time.monotonic() + 5
        while len(receiver.effects) < 2 and time.monotonic() < limit:
            time.sleep(0.01)
    assert capsys.readouterr().out.splitlines() == ["apply throttle of acme/k1", "expire throttle of acme/k1"]


def test_an_apply_that_arrives_after_its_own_revert_changes_nothing() -> None:
    with serving() as receiver:
        send(receiver, body("revert", sequence=2), "w2")
        assert send(receiver, body("apply", sequence=1), "w1") == 200
        assert throttled(receiver) == []
        send(receiver, body("apply", sequence=1, key_id="k2"), "w3")
        assert [t["key_id"] for t in throttled(receiver)] == ["k2"]


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"7", b"{}", body().replace(b'"tenant"', b'"tenat"'), b'{"tenant": []}'])
def test_signed_garbage_is_answered_and_changes_nothing(garbage: bytes) -> None:
    with serving() as receiver:
        assert send(receiver, garbage) == 400
        assert not receiver.effects
        assert send(receiver, body()) == 200


def test_an_old_recording_of_a_signed_order_is_refused() -> None:
    with serving() as receiver:
        assert send(receiver, body(), age_s=600) == 401


def test_a_body_over_the_cap_or_of_unknown_length_is_refused_unread() -> None:
    with serving() as receiver:
        assert post(receiver, "/hook", b"", {"content-length": str(MAX_BODY + 1)}) == 413
        assert post(receiver, "/hook", b"", {"content-length": "-1"}) == 413
        assert post(receiver, "/other", b"{}", {}) == 404
        assert send(receiver, body()) == 200


def test_the_program_says_its_address_first(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    command = [sys.executable, str(Path(bundled.__file__)), "--port", "0", "--secret-file", str(secret)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().split()[-1]
        try:
            with urllib.request.urlopen(url + "/throttled", timeout=5) as answer:
                assert json.load(answer) == []
        finally:
            program.terminate()
