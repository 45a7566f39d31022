"""Kafka as Burnguard meets it: raw batches through Faust, a worker's group and topics, the responders' election.

Only this file and stream/app.py import aiokafka or Faust.

Faust hands over what one fetch brought of a partition as one message: no Python object per call. aiokafka looks its
record classes up when a response is processed, so replacing them for the usage topic is enough. Nothing is ever acked in
Faust, so it never commits; we commit offset and pointer in one step, which the broker refuses from a zombie.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast

import aiokafka
import aiokafka.consumer.fetcher as fetching
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from schemas.batch import Ms
from stream.checkpoint import Pointer, read_chunk_key
from stream.emit import partition_of
from stream.partition import Away, Fenced
from stream.passing import Foreign, Outgoing
from stream.reach import Unreachable
from stream.records import BatchReader, Fetched
from stream.settings import KafkaSettings, WorkerSettings

MAX_GROUPS = 4
"""Groups of batches in one message: a few MB, which the pipeline folds in some 30 ms."""
FETCH_BYTES = 4 << 20
FETCH_WAIT_MS = 500
READ_BACK_WAIT_MS = 10
"""State is read to its end, where a fetch ahead waits for more, and the next partition's first fetch for that one."""
STATE_WAIT_S = 60.0
FENCED = (CommitFailedError, IllegalStateError, UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)
"""How a broker, or aiokafka itself, says that a commit comes from a member that is no more."""
SESSION_MS, HEARTBEAT_MS = 8_000, 2_000
MOST_RECORDS = 500
LINGER_MS, BATCH_BYTES = 20, 256 << 10
ACKNOWLEDGED_MS, DELIVERED_WITHIN_S = 10_000, 15.0
MOST_FOREIGN = 2_000


@contextmanager
def asking() -> Iterator[None]:
    """Raises Away for what Kafka says may pass."""
    try:
        yield
    except KafkaError as error:
        if error.retriable:
            raise Away(repr(error)) from error
        raise


class RawRecords:
    """What a fetch response holds of one partition, not yet looked at; the face of aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def has_next(self) -> bool:
        return len(self.data) > 0

    def size_in_bytes(self) -> int:
        return len(self.data)


def read_raw(topic: str) -> None:
    """Let every aiokafka consumer of this process hand over `topic` as raw batches, all other topics as before."""
    usual, records = fetching.PartitionRecords, fetching.MemoryRecords

    def open_records(tp: TopicPartition, raw: RawRecords, aborted: Any, begin: int, *settings: Any) -> Any:
        if tp.topic == topic:
            return BatchReader(f"{tp.topic}-{tp.partition}", raw.data, aborted or (), begin)
        return usual(tp, records(raw.data), aborted, begin, *settings)

    fetching.MemoryRecords = RawRecords
    fetching.PartitionRecords = open_records


class Consumer(driver.Consumer):
    """Faust's consumer; what was fetched of the usage topic is one message whose value is a list of Fetched."""

    usage: str
    Thread: type[ConsumerThread]

    def _new_consumer_thread(self) -> ConsumerThread:
        return self.Thread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        found = await super()._getmany(active_partitions, timeout)
        return {tp: [records] if tp.topic == self.usage else records for tp, records in found.items()}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if tp.topic != self.usage:
            return super()._to_message(tp, record)
        fetched: list[Fetched] = record
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=fetched[-1].end - 1,
            timestamp=0.0,
            timestamp_type=0,
            headers=[],
            key=None,
            value=cast(Any, fetched),
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic != self.usage:
            await super()._add_gap(tp, offset_from, offset_to)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with our settings; remembers up to when each partition was read to its end."""

    kafka: KafkaSettings
    settings: WorkerSettings

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        self._assignor = RoundRobinPartitionAssignor
        session_ms = round(self.settings.session_timeout_s * 1000)
        return AIOKafkaConsumer(
            **self.kafka.client(),
            group_id=self.kafka.group,
            group_instance_id=self.settings.instance,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=MAX_GROUPS,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(3_000, session_ms // 3),
            max_poll_interval_ms=300_000,
        )

    async def on_start(self) -> None:
        await super().on_start()
        self.read_to_end: dict[int, tuple[Ms, int]] = {}
        fetcher = self._ensure_consumer()._fetcher
        fetcher._proc_fetch_request = partial(self._noting_when, fetcher._proc_fetch_request)

    async def _noting_when(self, fetch: Callable[..., Awaitable[bool]], assignment: Any, node: int, request: Any) -> bool:
        """A fetch that began at some time and reached the high watermark has seen all that was appended before."""
        began = time.time_ns() // 1_000_000
        woken = await fetch(assignment, node, request)
        for topic, partitions in request.topics:
            for number, offset, _ in partitions if topic == self.kafka.usage_topic else ():
                state = assignment.state_value(TopicPartition(topic, number)) if assignment.active else None
                if state is not None and (state.timestamp or 0) >= began and state.highwater is not None:
                    if offset >= state.highwater:
                        self.read_to_end[number] = (began, state.highwater)
        return woken


def raw_transport(kafka: KafkaSettings, settings: WorkerSettings) -> type[driver.Transport]:
    """Faust's transport with raw batches for the usage topic."""
    read_raw(kafka.usage_topic)
    thread = type("Thread", (ConsumerThread,), {"kafka": kafka, "settings": settings})
    consumer = type("Raw", (Consumer,), {"usage": kafka.usage_topic, "Thread": thread})
    return type("Transport", (driver.Transport,), {"Consumer": consumer})


class Group:
    """A worker's membership: what it owns, where it stands, and the fenced commit."""

    def __init__(self, app: Any, kafka: KafkaSettings) -> None:
        self._app = app
        self._kafka = kafka

    @property
    def generation(self) -> int:
        """The generation that Faust delivers now."""
        return int(self._app.consumer_generation_id)

    def owned(self) -> frozenset[int]:
        """The partitions of this generation; empty while the group rebalances."""
        if self._app.rebalancing or not self.generation:
            return frozenset()
        return frozenset(tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._kafka.usage_topic)

    def read_to_end(self, partition: int) -> tuple[Ms, int] | None:
        """(when, offset): a fetch begun then found the end of the partition at that offset. None: not yet."""
        return self._thread.read_to_end.get(partition)

    def end(self, partition: int) -> int | None:
        """The high watermark as last heard; None before the first fetch."""
        tp = self._tp(partition)
        return self._consumer.highwater(tp) if tp in self._consumer.assignment() else None

    async def committed(self, partition: int) -> tuple[int, str] | None:
        """(next offset, metadata) of the group, None where there is no commit."""
        with asking():
            found = await self._on_thread(self._consumer._coordinator.fetch_committed_offsets, [self._tp(partition)])
        commit = found.get(self._tp(partition))
        return None if commit is None or commit.offset < 0 else (commit.offset, commit.metadata)

    async def commit(self, partition: int, offset: int, metadata: str, generation: int) -> None:
        """Raises Fenced unless this very generation still holds the partition."""
        with asking():
            await self._on_thread(self._commit, partition, offset, metadata, generation)

    async def seek(self, partition: int, offset: int) -> None:
        """Read on from `offset`. Faust's own seek touches aiokafka from the wrong thread."""
        await self._on_thread(self._consumer.seek, self._tp(partition), offset)
        self._app.consumer._read_offset[self._tp(partition)] = offset or None

    async def _commit(self, partition: int, offset: int, metadata: str, generation: int) -> None:
        """The request is built without a pause after the check, so it carries the generation that was checked."""
        coordinator = self._consumer._coordinator
        await coordinator.ensure_coordinator_known()
        commit = {self._tp(partition): aiokafka.structs.OffsetAndMetadata(offset, metadata)}
        async with coordinator._commit_lock:
            if coordinator.generation != generation or self._tp(partition) not in self._consumer.assignment():
                raise Fenced(f"partition {partition}: generation {generation} is over")
            try:
                await coordinator._do_commit_offsets(None, commit)
            except FENCED as error:
                raise Fenced(f"partition {partition}: {type(error).__name__}") from error

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._kafka.usage_topic, partition)

    @property
    def _thread(self) -> ConsumerThread:
        thread: ConsumerThread = self._app.consumer._thread
        return thread

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._thread._ensure_consumer()

    async def _on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._thread.call_thread(function, *arguments)


class Topics:
    """What a worker writes, and reads back of its state. Acknowledged means: by all in-sync replicas."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None
        self.broker_ahead: Ms | None = None
        """How far the broker's clock is ahead of ours, at least; from the newest append time it told us."""

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(
            **self._kafka.client(),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_request_size=1_100_000,
            request_timeout_ms=60_000,
        )
        await self._producer.start()
        self._reader = AIOKafkaConsumer(
            **self._kafka.client(),
            enable_auto_commit=False,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=READ_BACK_WAIT_MS,
        )
        await self._reader.start()
        self._admin = AIOKafkaAdminClient(**self._kafka.client())
        await self._admin.start()

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()
            await self._reader.stop()
            await self._admin.close()

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First and next offset of a topic's partition."""
        tp = TopicPartition(topic, partition)
        with asking():
            first, end = await self._reader.beginning_offsets([tp]), await self._reader.end_offsets([tp])
        return first[tp], end[tp]

    async def send(self, topic: str, key: bytes | None, value: bytes, partition: int) -> asyncio.Future[Any]:
        """Waits for room in the buffer; the future it returns is done when the broker has the record."""
        assert self._producer is not None
        future: asyncio.Future[Any] = await self._producer.send(topic, value, key=key, partition=partition)
        future.add_done_callback(self._note_clock)
        return future

    def _note_clock(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None and future.result().timestamp_type == 1:
            self.broker_ahead = future.result().timestamp - time.time_ns() // 1_000_000

    async def read_state(self, partition: int, pointer: Pointer) -> list[bytes]:
        """The chunks of a checkpoint, in order; other generations' records in between are passed over."""
        tp = TopicPartition(self._kafka.state_topic, partition)
        self._reader.assign([tp])
        self._reader.seek(tp, pointer.first)
        _, end = await self.bounds(self._kafka.state_topic, partition)
        try:
            with asking():
                return await asyncio.wait_for(_collect(self._reader, tp, pointer, end), STATE_WAIT_S)
        finally:
            self._reader.unsubscribe()

    async def read_records(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes]:
        """The records of the partition's state at these offsets (ascending) by offset, without those that are gone."""
        if not offsets:
            return {}
        tp = TopicPartition(self._kafka.state_topic, partition)
        self._reader.assign([tp])
        self._reader.seek(tp, offsets[0])
        _, end = await self.bounds(self._kafka.state_topic, partition)
        try:
            with asking():
                reading = _at_offsets(self._reader, tp, frozenset(offsets), min(end, offsets[-1] + 1))
                return await asyncio.wait_for(reading, STATE_WAIT_S)
        finally:
            self._reader.unsubscribe()

    async def delete_state(self, partition: int, before: int) -> None:
        """Delete the records of the partition's state before an offset."""
        tp = TopicPartition(self._kafka.state_topic, partition)
        with asking():
            await self._admin.delete_records({tp: RecordsToDelete(before_offset=before)})


async def _collect(consumer: AIOKafkaConsumer, tp: TopicPartition, pointer: Pointer, end: int) -> list[bytes]:
    found: dict[int, bytes] = {}
    while len(found) < pointer.chunks and await consumer.position(tp) < end:
        for record in _flat((await consumer.getmany(tp, timeout_ms=1_000)).values()):
            generation, number, chunk = read_chunk_key(record.key)
            if (generation, number) == (pointer.generation, pointer.number):
                found[chunk] = record.value
    return [found[chunk] for chunk in sorted(found)]


async def _at_offsets(consumer: AIOKafkaConsumer, tp: TopicPartition, offsets: frozenset[int], end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while await consumer.position(tp) < end:
        for record in _flat((await consumer.getmany(tp, timeout_ms=1_000)).values()):
            if record.offset in offsets:
                found[record.offset] = record.value
    return found


def _flat(batches: Iterable[list[Any]]) -> Iterable[Any]:
    return (record for batch in batches for record in batch)


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


class Sender:
    """What the intake writes, in compressed batches; memory is bounded, for whoever comes while they are full waits.

    It is not idempotent: a batch whose fate is unknown is said to be so, and whoever sends the calls again does no harm,
    for workers know them by their ids. An idempotent producer of aiokafka would keep it for ever where no broker comes back.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._partitions: dict[str, int] = {}

    async def start(self) -> None:
        """Raises Unreachable."""
        self._producer = AIOKafkaProducer(
            **self._kafka.client(),
            client_id="burnguard-intake",
            acks="all",
            compression_type="lz4",
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=ACKNOWLEDGED_MS,
        )
        try:
            await self._producer.start()
            for topic in (self._kafka.usage_topic, self._kafka.quarantine_topic):
                self._partitions[topic] = len(await self._producer.partitions_for(topic))
        except KafkaError as error:
            await self._producer.stop()
            raise Unreachable(f"{self._kafka.bootstrap}: {error!r}") from error

    async def stop(self) -> None:
        """Wait for the answers that are still to come."""
        await self._producer.stop()

    async def lost(self) -> None:
        """Returns when nothing can be delivered any more."""
        await asyncio.wait({self._producer._sender.sender_task})

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Returns when all in-sync replicas have all of them. Raises Away where that is not known in time."""
        sent: set[asyncio.Future[Any]] = set()
        try:
            async with asyncio.timeout(DELIVERED_WITHIN_S):
                for record in records:
                    key = record.key or b""
                    partition = partition_of(key, self._partitions[record.topic])
                    sent.add(await self._producer.send(record.topic, record.value, record.key, partition))
                if sent:
                    await asyncio.wait(sent)
            for future in sent:
                future.result()
        except (KafkaError, TimeoutError) as error:
            raise Away(repr(error)) from error
        finally:
            for future in sent:
                future.add_done_callback(_heard)


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody waits any more; asyncio shall not say that its error was never looked at."""
    if not future.cancelled():
        future.exception()


class ForeignTopic:
    """A topic of others', read by a group of ours from its beginning; only what was committed is not read again."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            **kafka.client(),
            group_id=f"{kafka.group}-intake-{topic}",
            client_id="burnguard-intake",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    async def __aenter__(self) -> ForeignTopic:
        """Join the group. Raises Unreachable."""
        try:
            self._consumer.subscribe([self._topic])
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise Unreachable(f"cannot read {self._topic}: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Leave the group."""
        await self._consumer.stop()

    async def fetch(self, timeout_s: float) -> list[Foreign]:
        """What has come, at the latest after `timeout_s`. Raises Unreachable where it cannot be read at all."""
        try:
            found = await self._consumer.getmany(timeout_ms=round(timeout_s * 1000), max_records=MOST_FOREIGN)
        except KafkaError as error:
            raise Unreachable(f"cannot read {self._topic}: {error!r}") from error
        return [Foreign(r.partition, r.offset, r.timestamp, r.value) for r in _flat(found.values())]

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Go on there, by partition, whoever reads on. Raises Fenced where the group has moved on, and Away."""
        ours = {TopicPartition(self._topic, number): offset for number, offset in positions.items()}
        try:
            await self._consumer.commit(ours)
        except FENCED as error:
            raise Fenced(f"{self._topic}: {type(error).__name__}") from error
        except KafkaError as error:
            raise Away(repr(error)) from error

    def end(self, partition: int) -> int | None:
        """The high watermark as last heard, None for a partition that is not ours."""
        tp = TopicPartition(self._topic, partition)
        return self._consumer.highwater(tp) if tp in self._consumer.assignment() else None
