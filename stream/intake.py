"""What producers send, judged and delivered: an answer only when Kafka has the calls and the rows of what was refused."""

from __future__ import annotations

import asyncio
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import msgspec

from schemas.adapters import native
from schemas.adapters.reading import Reading, Refusal
from schemas.adapters.sources import usage_events
from schemas.adapters.who import SourceName, Sources, Who
from schemas.producers import Producer
from schemas.quarantine import Quarantined, fingerprint
from stream import metrics
from stream.partition import Away
from stream.passing import Outgoing, Sink
from stream.settings import KafkaSettings

Source = Literal["native"] | SourceName
MOST_ROWS = 1_000
"""Of one body that are quarantined each for itself; one more says how many others there were."""
NOWHERE = -1
"""Partition and position of what came by no topic."""
AWAY_S = 10.0
"""So long after a delivery that failed nobody should be sent here."""


class BadBody(ValueError):
    """A body that is not packed as it says."""


class TooLarge(ValueError):
    """A body that is larger than is taken, as it is or unpacked."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a body came from: who sent it, and for a topic's record which one."""

    name: str
    partition: int = NOWHERE
    position: int = NOWHERE


def unpack(packed: bytes, limit: int) -> bytes:
    """What a gzip body holds. Raises TooLarge as soon as that is more than `limit` bytes, and BadBody."""
    member = zlib.decompressobj(wbits=31)
    try:
        body = member.decompress(packed, limit + 1)
    except zlib.error as error:
        raise BadBody("not gzip") from error
    if len(body) > limit:
        raise TooLarge(f"larger than {limit} bytes unpacked")
    if not member.eof or member.unused_data:
        raise BadBody("not one whole gzip stream")
    return body


def read(source: Source, body: bytes, who: Who, now: float) -> Reading:
    """What a body tells; never raises."""
    return native.calls(body, who, now) if source == "native" else usage_events(source, body, who, now)


def who_sends(source: Source, sources: Sources, producer: Producer) -> Who:
    """Whose the calls of a producer are."""
    if source == "native":
        given = {"tenant": producer.tenant, "key_id": producer.key_id, "model": producer.model}
        who = native.WHO.model_copy(update=given | {"origin_tenant_from": ("origin_tenant",)})
    else:
        who = sources.of(source, producer.tenant, producer.key_id, producer.model)
    own = {"tenant_only": True} if producer.tenant else {}
    return who.model_copy(update=own if producer.trusted else own | {"origin_tenant_from": ()})


def records(reading: Reading, body: bytes, origin: Origin, kafka: KafkaSettings) -> list[Outgoing]:
    """The calls of a body, and a row without its bytes for every call that was refused."""
    calls = [Outgoing(kafka.usage_topic, call["tenant"].encode(), msgspec.json.encode(call)) for call in reading.events]
    told = list(reading.refused[:MOST_ROWS])
    if len(reading.refused) > MOST_ROWS:
        told.append(Refusal(f"and {len(reading.refused) - MOST_ROWS} more calls of this body", "", MOST_ROWS + 1))
    hashed = fingerprint(body) if told else ""
    rows = [
        Quarantined(
            f"{origin.name}: {each.reason}", each.field, origin.partition, origin.position, each.part - 1, len(body), hashed
        )
        for each in told
    ]
    return calls + [Outgoing(kafka.quarantine_topic, None, row.to_json()) for row in rows]


class Intake:
    """Takes bodies one after the other in a thread of its own, so that a large one keeps nobody from being answered."""

    def __init__(self, sink: Sink, kafka: KafkaSettings, sources: Sources, limit: int) -> None:
        self._sink = sink
        self._kafka = kafka
        self._sources = sources
        self._limit = limit
        self._judging = ThreadPoolExecutor(1, "judging")
        self._failed_at = float("-inf")

    async def take(self, source: Source, body: bytes, packed: bool, producer: Producer, now: float) -> Reading:
        """What became of the calls in a body, once all of it is delivered. Raises BadBody, TooLarge, Away."""
        judging = asyncio.get_running_loop().run_in_executor(self._judging, self._judge, source, body, packed, producer, now)
        reading, outgoing = await judging
        began = time.monotonic()
        try:
            await self._sink.deliver(outgoing)
        except Away:
            self._failed_at = time.monotonic()
            metrics.INTAKE_AWAY.inc()
            raise
        metrics.INTAKE_DELIVERY.observe(time.monotonic() - began)
        metrics.taken(producer.name, source, len(reading.events), len(reading.refused), sum(reading.passed.values()))
        return reading

    def ready(self) -> bool:
        """Whether deliveries do not fail."""
        return time.monotonic() - self._failed_at > AWAY_S

    def _judge(
        self, source: Source, body: bytes, packed: bool, producer: Producer, now: float
    ) -> tuple[Reading, list[Outgoing]]:
        whole = unpack(body, self._limit) if packed else body
        reading = read(source, whole, who_sends(source, self._sources, producer), now)
        return reading, records(reading, whole, Origin(f"{producer.name}, {source}"), self._kafka)
