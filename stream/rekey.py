"""A topic of others' becomes usage events: read, judged, delivered, and only then committed, so that nothing is lost.

What is delivered and not committed is read and delivered again; its events have the same ids, so workers drop the repeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from schemas.adapters.who import Who
from stream import metrics
from stream.intake import Origin, Source, note_clock, read, records
from stream.partition import Away, Fenced
from stream.passing import Foreign, Outgoing, Sink, Topic
from stream.settings import KafkaSettings
from stream.skew import Clocks

log = structlog.get_logger()
FETCH_S, AGAIN_S = 1.0, 1.0


class Rekey:
    """One reader of a topic."""

    def __init__(self, name: str, source: Source, who: Who, topic: Topic, sink: Sink, kafka: KafkaSettings) -> None:
        self._name = name
        self._source = source
        self._who = who
        self._topic = topic
        self._sink = sink
        self._kafka = kafka
        self._delivered = True
        self._clocks = Clocks()

    async def go(self) -> None:
        """Until cancelled."""
        while True:
            fetched = await self._topic.fetch(FETCH_S)
            if fetched:
                await self._pass_on(fetched)

    def ready(self) -> bool:
        """Whether deliveries do not fail."""
        return self._delivered

    async def _pass_on(self, fetched: Sequence[Foreign]) -> None:
        counts: Counter[str] = Counter()
        outgoing = [record for each in fetched for record in self._judge(each, counts)]
        while True:
            try:
                await self._sink.deliver(outgoing)
                break
            except Away as error:
                self._delivered = False
                metrics.INTAKE_AWAY.inc()
                log.warning("not delivered yet", topic=self._name, said=str(error))
                await asyncio.sleep(AGAIN_S)
        self._delivered = True
        metrics.taken(self._name, self._source, counts["calls"], counts["refused"], counts["passed"])
        positions = {each.partition: each.offset + 1 for each in fetched}
        try:
            await self._topic.commit(positions)
        except (Fenced, Away) as error:
            metrics.INTAKE_LAG.clear()
            log.info("not committed", topic=self._name, said=str(error))
            return
        for number, position in positions.items():
            metrics.INTAKE_LAG.labels(str(number)).set((self._topic.end(number) or position) - position)

    def _judge(self, record: Foreign, counts: Counter[str]) -> list[Outgoing]:
        if record.value is None:
            return []
        reading = read(self._source, record.value, self._who, record.clock / 1000)
        note_clock(self._clocks, self._name, self._source, reading, record.clock / 1000)
        counts.update(calls=len(reading.events), refused=len(reading.refused), passed=sum(reading.passed.values()))
        return records(reading, record.value, Origin(f"topic {self._name}", record.partition, record.offset), self._kafka)
