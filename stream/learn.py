"""`burnguard learn`: a file's past becomes the first checkpoint of every partition, before any worker has started.

What Kafka holds has its append time as clock, so a topic that is new has no past: every key would be young for 150
minutes. The past is not sent through the topic (a producer must not move the clock); it is folded here as a worker would
have folded it, and left where workers look: chunks in the state topic, pointers in the group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NoError,
    NotCoordinatorError,
)
from kafka.structs import OffsetAndMetadata

from schemas.batch import Ms
from schemas.prices import Entry
from schemas.scan import MAX_LINE
from schemas.snapshot import joined, of_numbers
from stream.assembly import Assembly
from stream.checkpoint import EMPTY, Buffer, Checkpoint, Pointer, chunk_key, chunks, compress, pack
from stream.emit import Keyed, lines_of, partition_of
from stream.reach import PATIENCE_MS, Unreachable, admin, brief
from stream.settings import KafkaSettings
from stream.sources import FileClock, LineReader, opened, read_out
from stream.topics import UNKNOWN

LINES = 10_000
"""Decoded together."""
WRITTEN_WITHIN_S = 60.0
COORDINATOR_WITHIN_S = 20.0
_OF_CALLS = ("pipeline.counters.", "pipeline.usage.", "pipeline.skew.")
GENERATION = 0
"""Before every generation of the group: those begin at 1."""


class Refused(Exception):
    """Nothing may be learnt now, and why."""


@dataclass(slots=True)
class Past:
    """What a partition learnt; `until` is the clock of its newest call, `next` the offset that it goes on at."""

    partition: int
    calls: int
    keys: int
    usd: int
    refused: int
    until: Ms
    next: int = 0
    pieces: list[bytes] = field(default_factory=list)


def learn(settings: KafkaSettings, file: Path, prices: Sequence[Entry], now: Ms) -> Iterator[Past]:
    """Learn the file, one partition after the other, then let the group point at all of it in one commit.

    Every partition goes on at the first call that was appended after the newest of its own in the file; calls that are in
    both are known by their ids. Nothing is acted on. Raises Refused, Unreachable, SettingsError, OSError, EOFError.
    """
    with admin(settings) as kafka:
        partitions = _fresh(kafka, settings)
        begin = kafka.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        # As a worker's very first start does: from here on it starts over wherever we stop.
        _commit(kafka, settings, {tp: (at.offset, EMPTY) for tp, at in begin.items()})
        commits: dict[TopicPartition, tuple[int, str]] = {}
        for tp in partitions:
            assembly, past = _fold(file, tp.partition, len(partitions), prices)
            if not past.calls:
                continue
            if past.until > now:
                raise Refused(f"{file}: calls of partition {tp.partition} are later than now: the clock would stand still")
            past.next = _after(kafka, tp, past.until)
            past.pieces = chunks(compress(pack(_checkpoint(assembly, past.next), Buffer())))
            commits[tp] = (past.next, _write(settings, past))
            past.pieces = []
            yield past
        _commit(kafka, settings, commits)


def _fresh(kafka: KafkaAdminClient, settings: KafkaSettings) -> list[TopicPartition]:
    """The partitions of usage, none of which may have been worked on. Raises Refused, Unreachable."""
    name = settings.usage_topic
    (topic,) = kafka.describe_topics([name])
    if topic["error_code"] == UNKNOWN:
        raise Unreachable(f"{name}: missing: burnguard topics init")
    committed = _committed(kafka, settings.group)
    worked = sorted(tp.partition for tp, at in committed.items() if tp.topic == name and at.metadata != EMPTY)
    if worked:
        raise Refused(f"group {settings.group} has a past already (partitions {worked}): only a new one can be given another")
    return [TopicPartition(name, number) for number in range(len(topic["partitions"]))]


def _committed(kafka: KafkaAdminClient, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """The first question about any group makes a new cluster create its topic of groups."""
    deadline = time.monotonic() + COORDINATOR_WITHIN_S
    while True:
        try:
            found: dict[TopicPartition, OffsetAndMetadata] = kafka.list_group_offsets(group)[group]
            return found
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _commit(kafka: KafkaAdminClient, settings: KafkaSettings, commits: dict[TopicPartition, tuple[int, str]]) -> None:
    """The broker refuses it while the group has a member. Raises Refused."""
    offsets = {tp: OffsetAndMetadata(offset, metadata, -1) for tp, (offset, metadata) in commits.items()}
    for tp, error in (kafka.alter_group_offsets(settings.group, offsets) if offsets else {}).items():
        if error is not NoError:
            raise Refused(f"group {settings.group}, partition {tp.partition}: {error.__name__}; is a worker running?")


def _fold(file: Path, number: int, partitions: int, prices: Sequence[Entry]) -> tuple[Assembly, Past]:
    """A partition's share of the file, folded; its signals are dropped."""
    assembly = Assembly(prices, partition=number)
    reader, clock = LineReader(assembly.decoder), FileClock()
    mine = _share(number, partitions)
    refused = 0
    with opened(file) as source:
        lines = (line for _, line in lines_of(source) if mine(line))
        while block := b"".join(line + b"\n" for line in islice(lines, LINES)):
            assembly.pipeline.feed(clock.feed(reader.read(block, held=clock.held)))
            refused += len(reader.quarantined)
            reader.quarantined.clear()
    for batch in read_out(reader, clock):
        assembly.pipeline.feed(batch)
    counters = assembly.pipeline.counters
    keys = len(assembly.decoder.keys.names)
    return assembly, Past(number, counters["unique"], keys, counters["usd"], refused, assembly.pipeline.clock or 0)


def _checkpoint(assembly: Assembly, next: int) -> Checkpoint:
    """As if the topic had brought nothing yet: offsets, counters and usage are about its calls only."""
    state = assembly.snapshot() | joined(pipeline=of_numbers(covered=next - 1))
    state = {name: column for name, column in state.items() if not name.startswith(_OF_CALLS)}
    return Checkpoint(state, assembly.config, {"next": next})


def _share(number: int, partitions: int) -> Callable[[bytes], bool]:
    """Whether a line is of this partition, where `burnguard emit` sends it; what cannot be keyed is refused in the first."""
    decode = msgspec.json.Decoder(Keyed).decode

    def mine(line: bytes) -> bool:
        try:
            tenant = decode(line).tenant.encode() if len(line) <= MAX_LINE else b""
        except (msgspec.MsgspecError, UnicodeDecodeError):
            tenant = b""
        return (partition_of(tenant, partitions) if tenant else 0) == number

    return mine


def _after(kafka: KafkaAdminClient, tp: TopicPartition, until: Ms) -> int:
    """The offset of the first call that was appended after `until`, else the end."""
    found: int = kafka.list_partition_offsets({tp: until + 1})[tp].offset
    return found if found >= 0 else int(kafka.list_partition_offsets({tp: OffsetSpec.LATEST})[tp].offset)


def _write(settings: KafkaSettings, past: Past) -> str:
    """The pointer to its chunks, once all of them are acknowledged. Raises Unreachable."""
    producer = KafkaProducer(**settings.client(), bootstrap_timeout_ms=PATIENCE_MS, max_request_size=1_100_000)
    try:
        sent = [
            producer.send(settings.state_topic, piece, chunk_key(GENERATION, 0, i), partition=past.partition)
            for i, piece in enumerate(past.pieces)
        ]
        first = min(future.get(WRITTEN_WITHIN_S).offset for future in sent)
    except KafkaError as error:
        raise Unreachable(f"{settings.state_topic}-{past.partition}: {brief(error)}") from error
    finally:
        producer.close(timeout=WRITTEN_WITHIN_S)
    return Pointer.to(past.pieces, GENERATION, 0, first).to_metadata()
