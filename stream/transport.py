"""Kafka as Burnguard meets it. Only this file and stream/app.py import aiokafka or Faust."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from stream.settings import KafkaSettings

SESSION_MS, HEARTBEAT_MS = 8_000, 2_000
MOST_RECORDS = 500


class Unreachable(Exception):
    """Kafka cannot be used as it should be, and why."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic."""

    offset: int
    key: bytes | None
    value: bytes | None


class Seat:
    """A seat in the responders' group, which elects the member that it gives the topic's one partition.

    `term` is the number of our election, None while another is elected. Whoever sits here must keep calling `fetch`, or
    the group takes the seat away. Offsets are never committed to the group: the ledger has them.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self.term: int | None = None
        self._elections = 0
        self._partition = TopicPartition(kafka.signals_topic, 0)
        self._consumer = AIOKafkaConsumer(
            **kafka.client(),
            group_id=kafka.responder_group,
            client_id="burnguard-responder",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
        )

    async def __aenter__(self) -> Seat:
        """Join the group; returns when it has decided. Raises Unreachable."""
        topic = self._partition.topic
        try:
            self._consumer.subscribe([topic], listener=_Listener(self))
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise Unreachable(f"cannot read {topic}: {error} (see `burnguard topics check`)") from error
        except BaseException:
            await self._consumer.stop()
            raise
        partitions = self._consumer.partitions_for_topic(topic)
        if partitions != {0}:
            await self._consumer.stop()
            raise Unreachable(f"{topic} must have one partition, not {len(partitions or ())} (see `burnguard topics init`)")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Leave the group."""
        self.term = None
        await self._consumer.stop()

    async def bounds(self) -> tuple[int, int]:
        """The offsets of the first record and after the last one. Raises Unreachable."""
        try:
            first = await self._consumer.beginning_offsets([self._partition])
            end = await self._consumer.end_offsets([self._partition])
        except KafkaError as error:
            raise Unreachable(f"cannot read where {self._partition.topic} begins and ends: {error!r}") from error
        return first[self._partition], end[self._partition]

    def seek(self, offset: int) -> None:
        """Read on from there. Only in our term."""
        self._consumer.seek(self._partition, offset)

    async def fetch(self, timeout_s: float) -> list[Record]:
        """What has come, at the latest after `timeout_s`; nothing of a term that is over. Raises Unreachable."""
        term = self.term
        try:
            found = await self._consumer.getmany(timeout_ms=round(timeout_s * 1000), max_records=MOST_RECORDS)
        except KafkaError as error:
            raise Unreachable(f"cannot read {self._partition.topic}: {error!r}") from error
        if term is None or term != self.term:
            return []
        return [Record(r.offset, r.key, r.value) for records in found.values() for r in records]

    def elected(self, partitions: set[TopicPartition]) -> None:
        """The group has decided."""
        if self._partition in partitions:
            self._elections += 1
            self.term = self._elections

    def over(self) -> None:
        """The group decides anew."""
        self.term = None


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka brings no types
    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._seat.over()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._seat.elected(assigned)
