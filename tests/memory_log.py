"""A Kafka in memory for one group of workers: a log, commits fenced by generation, acknowledgements that take their time.

A member may be told to crash at its n-th operation; what the log had not acknowledged by then is lost.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.batch import Ms
from stream.checkpoint import Pointer, read_chunk_key
from stream.partition import Fenced, Names
from stream.records import Fetched, RawBatch

NAMES = Names("usage", "signals", "state", "quarantine")
SLOW_S = 0.03
"""Until anything but a chunk of state is acknowledged; a chunk is at once."""


class Crashed(BaseException):
    """The member is gone; nothing of it runs any more."""


@dataclass(frozen=True)
class Ack:
    offset: int


class Log:
    """Topics, the group's commits and its generation."""

    def __init__(self, usage: int) -> None:
        self.records: dict[tuple[str, int], list[tuple[bytes | None, bytes]]] = defaultdict(list)
        self.records["usage", 0] = [(None, b"")] * usage
        self.first: dict[tuple[str, int], int] = defaultdict(int)
        self.commits: dict[int, tuple[int, str]] = {}
        self.generation = 0


class Member:
    """One worker's Group and Topics. Raises Crashed at operation number `crash_at` and at every later one."""

    def __init__(self, log: Log, crash_at: int | None = None) -> None:
        log.generation += 1
        self._log = log
        self.generation = log.generation
        self._crash_at = crash_at
        self._gone = False
        self.operations: list[str] = []
        self.broker_ahead: Ms | None = 0
        self.sought: list[tuple[int, int]] = []

    def _operate(self, name: str) -> None:
        if self._crash_at is not None and len(self.operations) >= self._crash_at:
            self._gone = True
            raise Crashed
        self.operations.append(name)

    def owned(self) -> frozenset[int]:
        return frozenset({0})

    def read_to_end(self, partition: int) -> tuple[Ms, int] | None:
        return None

    def end(self, partition: int) -> int | None:
        return len(self._log.records["usage", partition])

    async def committed(self, partition: int) -> tuple[int, str] | None:
        self._operate("committed")
        return self._log.commits.get(partition)

    async def commit(self, partition: int, offset: int, metadata: str, generation: int) -> None:
        self._operate("commit")
        if generation != self._log.generation:
            raise Fenced(f"generation {generation} is over")
        self._log.commits[partition] = (offset, metadata)

    async def seek(self, partition: int, offset: int) -> None:
        self.sought.append((partition, offset))

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return self._log.first[topic, partition], len(self._log.records[topic, partition])

    async def send(self, topic: str, key: bytes | None, value: bytes, partition: int) -> asyncio.Future[Any]:
        self._operate("send")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delay = 0.0 if topic == "state" else SLOW_S
        asyncio.get_running_loop().call_later(delay, self._arrive, (topic, partition), (key, value), future)
        return future

    def _arrive(self, place: tuple[str, int], record: tuple[bytes | None, bytes], future: asyncio.Future[Any]) -> None:
        if not self._gone:
            self._log.records[place].append(record)
            future.set_result(Ack(len(self._log.records[place]) - 1))

    async def read_state(self, partition: int, pointer: Pointer) -> list[bytes]:
        found = {}
        first = max(pointer.first, self._log.first["state", partition])
        for key, value in self._log.records["state", partition][first:]:
            generation, number, chunk = read_chunk_key(key or b"")
            if (generation, number) == (pointer.generation, pointer.number):
                found[chunk] = value
        return [found[chunk] for chunk in sorted(found)]

    async def read_records(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes]:
        first, records = self._log.first["state", partition], self._log.records["state", partition]
        return {offset: records[offset][1] for offset in offsets if first <= offset < len(records)}

    async def delete_state(self, partition: int, before: int) -> None:
        self._operate("delete_state")
        self._log.first["state", partition] = max(before, self._log.first["state", partition])


def as_fetched(calls: list[tuple[Ms, bytes]], base: int) -> Fetched:
    """Calls (append time, line) as uncompressed batches of one record each; the first has offset `base`."""
    batches = []
    for offset, (clock, line) in enumerate(calls, base):
        record = b"\x00\x00" + _varint(0) + _varint(-1) + _varint(len(line)) + line + b"\x00"
        batches.append(RawBatch(offset, 1, clock, _varint(len(record)) + record))
    return Fetched(base, base + len(calls), tuple(batches))


def _varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag >= 0x80:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)
