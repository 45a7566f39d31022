"""What producers send, judged and delivered: an answer only when the calls and the rows of what was refused are safe."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from schemas.adapters import native
from schemas.adapters.reading import Reading, Refusal
from schemas.adapters.sources import usage_events
from schemas.adapters.who import SourceName, Sources, Who
from schemas.producers import Producer
from schemas.quarantine import Quarantined, fingerprint
from stream import metrics
from stream.partition import Away
from stream.passing import Outgoing, Sink, Topics
from stream.skew import Clocks

Source = Literal["native"] | SourceName
MOST_ROWS = 1_000
"""Of one body that are quarantined each for itself; one more says how many others there were."""
MOST_SHOWN = 100
"""Of one body that the sender is told of."""
NOWHERE = -1
"""Partition and position of what came by no topic."""
AWAY_S = 10.0
"""So long after a delivery that failed nobody should be sent here."""


class BadBody(ValueError):
    """A body that is not packed as it says."""


class TooLarge(ValueError):
    """A body that is larger than is taken, as it is or unpacked."""


@dataclass(frozen=True, slots=True)
class Body:
    """What was sent as what, and whether it is gzip."""

    source: Source
    sent: bytes
    packed: bool = False


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


def ends(refused: list[Refusal], most: int) -> list[Refusal]:
    """The first of them and the last, which says so where the rest of a body was not looked at."""
    return list(refused) if len(refused) <= most else [*refused[: most - 1], refused[-1]]


def records(reading: Reading, body: bytes, origin: Origin, topics: Topics) -> list[Outgoing]:
    """The calls of a body, and a row without its bytes for every call that was refused."""
    calls = [Outgoing(topics.usage_topic, call["tenant"].encode(), msgspec.json.encode(call)) for call in reading.events]
    told = ends(reading.refused, MOST_ROWS)
    if len(told) < len(reading.refused):
        told.insert(-1, Refusal(f"and {len(reading.refused) - len(told)} more calls of this body", "", MOST_ROWS))
    hashed = fingerprint(body) if told else ""
    rows = [
        Quarantined(
            f"{origin.name}: {each.reason}", each.field, origin.partition, origin.position, each.part - 1, len(body), hashed
        )
        for each in told
    ]
    return calls + [Outgoing(topics.quarantine_topic, None, row.to_json()) for row in rows]


def note_clock(clocks: Clocks, producer: str, source: Source, reading: Reading, now: float) -> None:
    """Note what the calls of a body that came `now` say of their producer's clock."""
    if reading.events:
        came, ts = round(now * 1000), np.array([round(call["ts"] * 1000) for call in reading.events])
        metrics.heard(producer, source, (came - ts).tolist(), clocks.hear((producer, source), came, ts))


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a body: every call counted, and the ends of what was refused."""

    calls: int
    refused: int
    passed: int
    reasons: list[Refusal]

    @property
    def nothing(self) -> bool:
        """Whether all that was sent was refused."""
        return bool(self.refused) and not (self.calls or self.passed)


class Intake:
    """Takes bodies one after the other in a thread of its own, so that a large one keeps nobody from being answered.

    None is larger than `limit` bytes, as it is or unpacked.
    """

    def __init__(self, sink: Sink, topics: Topics, sources: Sources, limit: int) -> None:
        self._sink = sink
        self._topics = topics
        self._sources = sources
        self.limit = limit
        self._judging = ThreadPoolExecutor(1, "judging")
        self._failed_at = float("-inf")
        self._clocks = Clocks()

    async def take(self, body: Body, producer: Producer, hold: Callable[[int], None], now: float) -> Taken:
        """Returns once all of it is delivered; `hold` hears how many bytes wait for that, and may raise.

        Raises BadBody, TooLarge, Away.
        """
        loop = asyncio.get_running_loop()
        taken, outgoing = await loop.run_in_executor(self._judging, self._judge, body, producer, now)
        hold(sum(len(record.value) for record in outgoing))
        began = time.monotonic()
        try:
            await self._sink.deliver(outgoing)
        except Away:
            self._failed_at = time.monotonic()
            metrics.INTAKE_AWAY.inc()
            raise
        self._failed_at = float("-inf")
        metrics.INTAKE_DELIVERY.observe(time.monotonic() - began)
        metrics.taken(producer.name, body.source, taken.calls, taken.refused, taken.passed)
        return taken

    def ready(self) -> bool:
        """Whether deliveries do not fail."""
        return time.monotonic() - self._failed_at > AWAY_S

    def _judge(self, body: Body, producer: Producer, now: float) -> tuple[Taken, list[Outgoing]]:
        whole = unpack(body.sent, self.limit) if body.packed else body.sent
        reading = read(body.source, whole, who_sends(body.source, self._sources, producer), now)
        note_clock(self._clocks, producer.name, body.source, reading, now)
        taken = Taken(
            len(reading.events), len(reading.refused), sum(reading.passed.values()), ends(reading.refused, MOST_SHOWN)
        )
        return taken, records(reading, whole, Origin(f"{producer.name}, {body.source}"), self._topics)
