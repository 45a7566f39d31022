"""Recorded calls out of a Kafka topic, partition by partition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from schemas.batch import Lines, Ms
from stream.reach import PATIENCE_MS, Unreachable, admin, brief
from stream.settings import KafkaSettings

SCHEME = "kafka:"
AT_ONCE = 20_000
"""Records that are decoded together."""
UNKNOWN = 3
"""Kafka's error code of a topic that does not exist."""


class BadSpan(ValueError):
    """A source in Kafka is not written as it should be."""


@dataclass(frozen=True, slots=True)
class Span:
    """A topic's records that were appended from `begin` on and before `end` (Ms, None: as far as it reaches)."""

    topic: str
    begin: Ms | None
    end: Ms | None

    @staticmethod
    def read(text: str) -> Span:
        """`kafka:TOPIC@FROM..TO`: times are ISO 8601 (UTC if they do not say) or epoch seconds, and may be left out.

        >>> Span.read("kafka:usage@2026-11-01..1793750400")
        Span(topic='usage', begin=1793491200000, end=1793750400000)
        >>> Span.read("kafka:usage@2026-11-01..").end

        Raises BadSpan.
        """
        found = re.fullmatch(re.escape(SCHEME) + r"([a-zA-Z0-9._-]+)(?:@(.*?)\.\.(.*))?", text)
        if found is None:
            raise BadSpan(f"{text}: a topic is written kafka:TOPIC@FROM..TO, such as kafka:usage@2026-11-01..2026-11-08")
        topic, begin, end = found.groups()
        return Span(topic, _time(begin or ""), _time(end or ""))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One partition: its records from offset `begin` to the one before `end`."""

    partition: int
    begin: int
    end: int


def recorded(settings: KafkaSettings, span: Span) -> list[Recorded]:
    """The partitions of the topic and which of their records are in the span. Raises Unreachable, SettingsError."""
    with admin(settings) as kafka:
        (topic,) = kafka.describe_topics([span.topic])
        if topic["error_code"] == UNKNOWN:
            raise Unreachable(f"{span.topic}: there is no such topic")
        partitions = [TopicPartition(span.topic, number) for number in range(len(topic["partitions"]))]
        ends = (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        found = [kafka.list_partition_offsets(dict.fromkeys(partitions, which)) for which in ends]
        bounds = [{tp: at.offset for tp, at in offsets.items()} for offsets in found]
        for side, time in enumerate((span.begin, span.end)):
            if time is not None:
                later = kafka.list_partition_offsets(dict.fromkeys(partitions, time))
                bounds[side] |= {tp: at.offset if at.offset >= 0 else bounds[1][tp] for tp, at in later.items()}
    return [Recorded(tp.partition, bounds[0][tp], bounds[1][tp]) for tp in partitions]


def lines(settings: KafkaSettings, topic: str, part: Recorded) -> Iterator[Lines]:
    """The records' values as lines, with the times at which they were appended. Raises Unreachable, SettingsError."""
    if part.begin >= part.end:
        return
    tp = TopicPartition(topic, part.partition)
    try:
        consumer = KafkaConsumer(**settings.client(), enable_auto_commit=False, isolation_level="read_committed")
        try:
            consumer.assign([tp])
            consumer.seek(tp, part.begin)
            while consumer.position(tp) < part.end:
                fetched = consumer.poll(PATIENCE_MS, max_records=AT_ONCE).get(tp, [])
                wanted = [record for record in fetched if record.offset < part.end]
                if wanted:
                    yield _lines(wanted)
        finally:
            consumer.close()
    except KafkaError as error:
        raise Unreachable(f"{topic}-{part.partition}: {brief(error)}") from error


def _lines(records: Sequence[ConsumerRecord]) -> Lines:
    values = [record.value or b"" for record in records]
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    return Lines(
        buffer=np.frombuffer(b"".join(values), np.uint8),
        start=np.concatenate([[0], ends[:-1]]),
        end=ends,
        position=np.array([record.offset for record in records], np.int64),
        clock=np.array([record.timestamp for record in records], np.int64),
    )


def _time(text: str) -> Ms | None:
    if not text:
        return None
    try:
        return round(float(text) * 1000)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadSpan(f"{text!r} is neither an ISO 8601 time nor epoch seconds") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
