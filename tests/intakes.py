"""An intake that really listens, before a Kafka in memory that is late, full or away as a test says."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from schemas.adapters.who import Sources
from schemas.producers import Producers
from stream.intake import Intake
from stream.intake_http import intake_app
from stream.partition import Away
from stream.passing import Outgoing
from stream.serving import listener, server
from stream.settings import IntakeSettings, KafkaSettings
from stream.tokens import Holders

TOKEN, ACME_TOKEN, TRUSTED_TOKEN = "of-everyone", "of-acme", "of-a-trusted-one"
KAFKA = KafkaSettings(bootstrap="127.0.0.1:1")
ADDRESS = tuple[str, int]


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


PRODUCERS = [
    {"name": "gateway", "token_sha256": hashed(TOKEN), "key_id": "key-1", "model": "model-1"},
    {"name": "acme-app", "token_sha256": hashed(ACME_TOKEN), "tenant": "acme", "key_id": "key-1", "model": "model-1"},
    {"name": "platform", "token_sha256": hashed(TRUSTED_TOKEN), "trusted": True},
]


class MemoryKafka:
    """Acknowledges while `open` is set; otherwise keeps whoever delivers waiting, or is away at once."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.open = threading.Event()
        self.open.set()
        self.away = False
        self.waiting = 0

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        self.waiting += 1
        while not self.open.is_set():
            await asyncio.sleep(0.002)
        self.waiting -= 1
        if self.away:
            self.records += records[: len(records) // 2]
            raise Away("nobody answered")
        self.records += records

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(r.value) for r in self.records if r.topic == KAFKA.usage_topic]

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(r.value) for r in self.records if r.topic == KAFKA.quarantine_topic]


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Listening:
    """Where an intake listens, and the Kafka behind it."""

    address: ADDRESS
    kafka: MemoryKafka

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes, token: str = TOKEN, kind: str = "application/json", **headers: str) -> Answered:
        return self.ask("POST", path, body, authorization=f"Bearer {token}", content_type=kind, **headers)


@contextmanager
def intake(
    sources: Sources | None = None,
    body_limit: int = 1 << 20,
    buffer: int = 4 << 20,
    producers: Holders | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Listening]:
    """An intake, with PRODUCERS if no others are given."""
    kafka = MemoryKafka()
    inside = Intake(kafka, KAFKA, sources or Sources({}), body_limit)
    app = intake_app(inside, producers or Producers.model_validate(PRODUCERS), buffer)
    socket = listener(IntakeSettings(port=0))
    serving = server(app, tls)
    thread = threading.Thread(target=serving.run, args=([socket],))
    thread.start()
    while not serving.started:
        time.sleep(0.005)
    try:
        yield Listening(socket.getsockname(), kafka)
    finally:
        serving.should_exit = True
        kafka.open.set()
        thread.join()
