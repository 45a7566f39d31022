"""How an intake listens: TLS, clients that only keep connections, and tokens that change while it runs."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stream import serving, tokens
from stream.settings import IntakeSettings, SettingsError
from stream.tokens import Tokens
from tests.foreign import body
from tests.intakes import ACME_TOKEN, PRODUCERS, TOKEN, Listening, hashed, intake
from tests.test_intake import event
from tests.workers import eventually

HALF = b"POST /v1/usage/native HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    return certificate, key


def post_over_tls(intake: Listening, trusted: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(*intake.address, timeout=10, context=trusted)
    try:
        connection.request("POST", "/v1/usage/native", body(event()), {"authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_with_a_certificate_only_tls_gets_in(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    trusted = ssl.create_default_context(cafile=certificate)
    with intake(tls=IntakeSettings(cert_file=certificate, key_file=key).tls()) as listening:
        assert post_over_tls(listening, trusted) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            listening.post("/v1/usage/native", body(event(2)))
        with pytest.raises(ssl.SSLError):
            post_over_tls(listening, ssl.create_default_context())
        assert [call["event_id"] for call in listening.kafka.calls()] == ["e1"]


def test_clients_that_never_finish_a_handshake_keep_nobody_out(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    with intake(tls=IntakeSettings(cert_file=certificate, key_file=key).tls()) as listening, ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection(listening.address))
        assert post_over_tls(listening, ssl.create_default_context(cafile=certificate)) == 200


def test_a_certificate_that_cannot_be_used_is_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for wrong in ({"cert_file": tmp_path / "none"}, {"cert_file": tmp_path / "text"}, {"cert_file": pair[0]}):
        with pytest.raises(SettingsError, match="BURNGUARD_INTAKE_CERT_FILE"):
            IntakeSettings.model_validate(wrong).tls()
    with pytest.raises(SettingsError, match="BURNGUARD_INTAKE_CERT_FILE is not set"):
        IntakeSettings(key_file=pair[1])


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    yield held
    for connection in held:
        connection.close()


@pytest.mark.parametrize("sent", [b"", HALF, HALF.replace(b"POST /v1/usage/native", b"GET /health") + b"\r\n"])
def test_a_crowd_of_idle_connections_makes_room_for_who_sends(
    monkeypatch: pytest.MonkeyPatch, crowd: list[socket.socket], sent: bytes
) -> None:
    """They say nothing, half of a head, or one short request each."""
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 20)
    with intake() as listening, ThreadPoolExecutor(3) as aside:
        listening.kafka.open.clear()
        asked = [aside.submit(listening.post, "/v1/usage/native", body(event(n))) for n in range(3)]
        eventually(lambda: listening.kafka.waiting >= 3, 10, "requests are under way")
        for _ in range(100):
            crowd.append(socket.create_connection(listening.address))
            crowd[-1].sendall(sent)
        assert listening.ask("GET", "/health").status == 200
        eventually(lambda: sum(not gone(each) for each in crowd) <= 20, 10, "the others are closed")
        listening.kafka.open.set()
        assert [each.result().status for each in asked] == [200] * 3, "whoever has a request under way is not closed"


def gone(connection: socket.socket) -> bool:
    """Whether it was closed, whatever was answered before."""
    connection.settimeout(0.01)
    try:
        while connection.recv(65_536):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def test_without_that_limit_the_crowd_stays(monkeypatch: pytest.MonkeyPatch, crowd: list[socket.socket]) -> None:
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 10_000)
    with intake() as listening:
        crowd += [socket.create_connection(listening.address) for _ in range(100)]
        assert listening.ask("GET", "/health").status == 200
        assert not any(gone(each) for each in crowd)


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_head_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    """The first of a connection, and a later one."""
    monkeypatch.setattr(serving, "HEAD_WITHIN_S", 0.4)
    with intake() as listening, socket.create_connection(listening.address) as connection:
        if before:
            connection.sendall(before)
            with connection.makefile("rb") as answer:
                assert b"alive\n" in iter(answer.readline, b"never")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 5:
                connection.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - began < 3


def test_a_request_that_waits_long_and_a_connection_between_two_are_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_WITHIN_S", 0.3)
    with intake() as listening, ThreadPoolExecutor(1) as aside:
        listening.kafka.open.clear()
        connection = http.client.HTTPConnection(*listening.address, timeout=10)
        given = {"authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/v1/usage/native", body(event()), given)
        aside.submit(time.sleep, 0.8).result()
        listening.kafka.open.set()
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (200, True)
        time.sleep(0.8)
        kept = connection.sock
        connection.request("POST", "/v1/usage/native", body(event(2)), given)
        assert (connection.getresponse().status, connection.sock) == (200, kept)
        connection.close()


def metrics(listening: Listening) -> str:
    return listening.ask("GET", "/metrics").body.decode()


def status(listening: Listening, token: str) -> int:
    return listening.post("/v1/usage/native", body(event()), token).status


def test_tokens_are_exchanged_and_revoked_while_it_runs_and_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOOK_S", 0.05)
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(PRODUCERS))
    with capture_logs() as logs, intake(producers=Tokens(file)) as listening:
        assert status(listening, ACME_TOKEN) == 200
        file.write_text(json.dumps([PRODUCERS[0], {"name": "gateway", "token_sha256": hashed("fresh")}]))
        eventually(lambda: status(listening, "fresh") == 200, 5, "the fresh one is known")
        assert (status(listening, TOKEN), status(listening, ACME_TOKEN)) == (200, 401)
        for broken in ("", "[", json.dumps([{"name": "a", "token_sha256": TOKEN}])):
            file.write_text(broken)
            time.sleep(0.1)
            assert status(listening, "fresh") == 200
            assert "burnguard_intake_tokens_broken 1.0" in metrics(listening)
        file.unlink()
        time.sleep(0.1)
        assert status(listening, "fresh") == 200
        assert any("tokens cannot be read, those from before hold" in log["event"] for log in logs)
        (tmp_path / "new").write_text(json.dumps(PRODUCERS))
        (tmp_path / "new").replace(file)
        eventually(lambda: status(listening, ACME_TOKEN) == 200, 5, "the file is whole again")
        assert "burnguard_intake_tokens_broken 0.0" in metrics(listening)
        assert status(listening, "fresh") == 401
