"""Usage events from a file or a pipe into the topic `usage`, with an honest account of what became of every line."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import IO, Annotated, Any

import msgspec
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from schemas.scan import MAX_LINE
from stream.mend import grant
from stream.reach import PATIENCE_MS, Unreachable, admin, brief, hang_up
from stream.settings import KafkaSettings
from stream.topics import DENIED, UNKNOWN

FLIGHT_LINES, FLIGHT_BYTES = 50_000, 32 << 20
"""No more is ever unacknowledged: kafka-python itself would buffer without bound."""
OVERHEAD = 128
"""Bytes of a batch with one record over its key and value: 61 + 21 at most."""
DELIVERED_WITHIN_MS = 30_000
SETTLED_WITHIN_S = 40.0
GIVES_UP_WITHIN_S = 5.0
"""After one line could not be delivered: kafka-python lets later ones wait for ever where no broker comes back."""


class Keyed(msgspec.Struct):
    """What a line must have to be sent; the worker judges the rest."""

    tenant: Annotated[str, msgspec.Meta(min_length=1)]


@dataclass(slots=True)
class Trouble:
    """How many lines had it; the first of them, and its reason."""

    count: int = 0
    line: int = 0
    reason: str = ""

    def add(self, line: int, reason: str) -> None:
        if not self.count:
            self.line, self.reason = line, reason
        self.count += 1


@dataclass(slots=True)
class Report:
    """read = acknowledged + refused + failed + unknown: nobody heard what became of the last."""

    read: int = 0
    last: int = 0
    """The number of the last line that was read."""
    acknowledged: int = 0
    refused: Trouble = field(default_factory=Trouble)
    failed: Trouble = field(default_factory=Trouble)
    stopped: str = ""
    """Why the rest of the source was not read."""
    seconds: float = 0.0

    @property
    def unknown(self) -> int:
        return self.read - self.acknowledged - self.refused.count - self.failed.count

    @property
    def good(self) -> bool:
        return not (self.refused.count or self.failed.count or self.unknown or self.stopped)

    def lines(self) -> Iterator[str]:
        yield f"read          {self.read}"
        yield f"acknowledged  {self.acknowledged}"
        for name, trouble in (("refused", self.refused), ("failed", self.failed)):
            yield f"{name:<13} {trouble.count}" + (f": first line {trouble.line}: {trouble.reason}" * bool(trouble.count))
        if self.unknown:
            yield f"unknown       {self.unknown}: no answer came; they may be in the topic"
        yield f"seconds       {self.seconds:.1f} ({self.acknowledged / max(self.seconds, 1e-9):.0f} lines/s)"
        if self.stopped:
            yield f"stopped       after line {self.last}: {self.stopped}"


def lines_of(file: IO[bytes], at_block: Callable[[], None] = lambda: None) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, without the empty ones; of one longer than MAX_LINE only the beginning. `at_block`: every 1,000."""
    for number in count(1):
        line = rest = file.readline(MAX_LINE + 2)
        if not line:
            break
        while len(rest) == MAX_LINE + 2 and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 2)
        if line := line.rstrip(b"\r\n"):
            yield number, line
        if number % 1000 == 0:
            at_block()
    at_block()


def emit(settings: KafkaSettings, lines: Iterable[tuple[int, bytes]]) -> Report:
    """Sends lines until they end, nothing more can be delivered, or Ctrl-C; then waits for the answers.

    Raises Unreachable and SettingsError before the first line is read.
    """
    report, began = Report(), time.monotonic()
    emitter = Emitter(settings, report)
    try:
        for number, line in lines:
            emitter.send(number, line)
            if report.stopped:
                break
    except KeyboardInterrupt:
        report.stopped = "interrupted"
    except (OSError, EOFError, zlib.error) as error:
        report.stopped = f"the source cannot be read on: {error}"
    try:
        emitter.settle()
    except KeyboardInterrupt:
        report.stopped = "interrupted twice: not every answer was waited for"
    finally:
        emitter.close()
    report.seconds = time.monotonic() - began
    return report


class Emitter:
    """Sends lines, at most FLIGHT_LINES in the air: the caller waits where the broker is slower than the source.

    A failure sets `report.stopped`: after one, kafka-python's idempotent producer delivers no more.
    """

    def __init__(self, settings: KafkaSettings, report: Report) -> None:
        self._topic = settings.usage_topic
        self._report = report
        self._decode = msgspec.json.Decoder(Keyed).decode
        self._flight: deque[tuple[int, int, Any]] = deque()
        self._bytes = 0
        self._kafka, self._partitions, self._longest = _connect(settings)

    def send(self, number: int, line: bytes) -> None:
        report, flight = self._report, self._flight
        report.read += 1
        report.last = number
        try:
            tenant = self._decode(line).tenant.encode() if len(line) <= MAX_LINE else b""
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            report.refused.add(number, _refusal(error))
            return
        if len(line) + len(tenant) > self._longest:
            report.refused.add(number, f"longer than {self._longest} bytes with its tenant")
            return
        try:
            future = self._kafka.send(self._topic, line, tenant, partition=partition_of(tenant, self._partitions))
        except KafkaError as error:
            self._fail(number, error)
            return
        flight.append((number, len(line), future))
        self._bytes += len(line)
        while flight and (flight[0][2].is_done or len(flight) > FLIGHT_LINES or self._bytes > FLIGHT_BYTES):
            self._hear(SETTLED_WITHIN_S)

    def settle(self) -> None:
        """Waits until the broker has answered for every line, or is not going to."""
        deadline = time.monotonic() + (GIVES_UP_WITHIN_S if self._report.stopped else SETTLED_WITHIN_S)
        while self._flight:
            self._hear(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        if self._report.unknown:
            hang_up(self._kafka, GIVES_UP_WITHIN_S)
        else:
            self._kafka.close(timeout=GIVES_UP_WITHIN_S)

    def _hear(self, seconds: float) -> None:
        """What became of the oldest line in the air."""
        line, size, future = self._flight[0]
        try:
            future.get(seconds)
            self._report.acknowledged += 1
        except KafkaError as error:
            if future.is_done:
                self._fail(line, error)
            else:
                self._report.stopped = self._report.stopped or "the broker does not answer"
        self._flight.popleft()
        self._bytes -= size

    def _fail(self, line: int, error: KafkaError) -> None:
        self._report.failed.add(line, brief(error))
        self._report.stopped = self._report.stopped or "a line could not be delivered"


@lru_cache(1 << 16)
def partition_of(tenant: bytes, partitions: int) -> int:
    """Where Java's clients, and all that agree with them, put the records of a tenant."""
    return int(murmur2(tenant) & 0x7FFF_FFFF) % partitions


def _connect(settings: KafkaSettings) -> tuple[KafkaProducer, int, int]:
    """A producer; the number of partitions, asked once: it must not grow (`topics check`); the longest key and value."""
    name = settings.usage_topic
    with admin(settings) as kafka:
        (topic,) = kafka.describe_topics([name])
        config = kafka.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")["topic"][name]
    if topic["error_code"] == UNKNOWN:
        raise Unreachable(f"{name}: missing: burnguard topics init")
    if topic["error_code"] == DENIED or "WRITE" not in (topic["authorized_operations"] or ("WRITE",)):
        raise Unreachable(f"{name}: {grant(settings, 'WRITE', 'topic', name)}")
    largest = min(MAX_LINE, int(config["max.message.bytes"]["value"]) if config else MAX_LINE)
    producer = KafkaProducer(
        **settings.client(),
        compression_type="lz4",
        batch_size=min(256 << 10, largest),
        linger_ms=50,
        bootstrap_timeout_ms=PATIENCE_MS,
        max_block_ms=PATIENCE_MS,
        request_timeout_ms=10_000,
        delivery_timeout_ms=DELIVERED_WITHIN_MS,
        allow_auto_create_topics=False,
    )
    return producer, len(topic["partitions"]), largest - OVERHEAD


def _refusal(error: Exception) -> str:
    """What is wrong with a line, without a byte of it."""
    return f"not a JSON object with a string `tenant`: {error}"
