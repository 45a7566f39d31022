"""Raw Kafka record batches (message format v2) to lines: header, CRC32C, decompression, one walk over all records.

Format: Apache Kafka, "Record Batch" (kafka.apache.org/documentation/#recordbatch). No Python object per record.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cramjam
import crc32c
import numpy as np
from numba import njit

from schemas.batch import ABSENT, Lines, Ms

HEADER = struct.Struct(">qiibIhiqqqhii")
CRC_FROM = 21
MAGIC_AT = 16
OVERHEAD = struct.Struct(">qi")
CODEC, APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20
ABORT = 0
GROUP_BYTES = 1 << 20
"""Batches are handed over together until they hold so many bytes: enough to be cheap, little enough not to stall."""
Bytes: TypeAlias = Any
"""Anything with the buffer protocol."""


class Unreadable(Exception):
    """A fetch holds what cannot be read; says where and what to do."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """One record batch, unpacked: `count` records from offset `base`; `clock` is its append time, else ABSENT."""

    base: int
    count: int
    clock: Ms
    body: Bytes


@dataclass(frozen=True, slots=True)
class Fetched:
    """All calls with offsets from `begin` up to, not including, `end`; what is missing there was aborted or control."""

    begin: int
    end: int
    batches: tuple[RawBatch, ...]


class BatchReader:
    """The batches of one fetch response, in order; the face of aiokafka's PartitionRecords.

    Control batches and the batches of aborted transactions are passed over as a `read_committed` consumer does.
    Raises Unreadable: a wrong CRC, an old message format, a codec that nobody knows, a cut first batch.
    """

    def __init__(self, where: str, data: bytes, aborted: Sequence[tuple[int, int]], begin: int) -> None:
        self.next_fetch_offset = begin
        self._where = where
        self._data = memoryview(data)
        self._aborted = sorted(aborted, key=lambda transaction: transaction[1])
        self._aborting: set[int] = set()
        self._at = 0

    def __iter__(self) -> Iterator[Fetched]:
        return self

    def __next__(self) -> Fetched:
        begin, size, batches = self.next_fetch_offset, 0, []
        first = self._at == 0
        while size < GROUP_BYTES and (whole := self._whole()) is not None:
            batch = self._read(whole)
            if batch is not None:
                batches.append(batch)
                size += len(batch.body)
        if self.next_fetch_offset == begin:
            if first and len(self._data):
                raise Unreadable(f"{self._where}: offset {begin}: the fetch ended inside its first batch")
            raise StopIteration
        return Fetched(begin, self.next_fetch_offset, tuple(batches))

    def _whole(self) -> memoryview | None:
        """The next batch, None where the response ends (its last batch may be cut)."""
        left = len(self._data) - self._at
        if left < OVERHEAD.size:
            return None
        size = OVERHEAD.size + OVERHEAD.unpack_from(self._data, self._at)[1]
        if size > left:
            return None
        return self._data[self._at : self._at + size]

    def _read(self, whole: memoryview) -> RawBatch | None:
        base = OVERHEAD.unpack_from(whole)[0]
        where = f"{self._where}: batch at offset {base}"
        if whole[MAGIC_AT] != 2:
            raise Unreadable(f"{where}: message format v{whole[MAGIC_AT]}; only v2 (Kafka 0.11 and later) is read")
        if len(whole) < HEADER.size:
            raise Unreadable(f"{where}: shorter than a header")
        _, _, _, _, crc, attributes, last, _, newest, producer, _, _, count = HEADER.unpack_from(whole)
        if crc32c.crc32c(whole[CRC_FROM:]) != crc:
            raise Unreadable(f"{where}: wrong CRC; fetch again, or delete the records up to offset {base + last}")
        self._at += len(whole)
        self.next_fetch_offset = max(self.next_fetch_offset, base + last + 1)
        if self._dropped(whole, base, attributes, producer):
            return None
        body = _unpacked(where, attributes, whole)
        if not 0 <= count <= len(body):
            raise Unreadable(f"{where}: {count} records in {len(body)} bytes")
        return RawBatch(base, count, newest if attributes & APPEND_TIME else ABSENT, body)

    def _dropped(self, whole: memoryview, base: int, attributes: int, producer: int) -> bool:
        while self._aborted and self._aborted[0][1] <= base:
            self._aborting.add(self._aborted.pop(0)[0])
        if attributes & CONTROL:
            if _control_type(whole) == ABORT:
                self._aborting.discard(producer)
            return True
        return bool(attributes & TRANSACTIONAL) and producer in self._aborting


def _control_type(whole: memoryview) -> int:
    """The type of a control batch's one record (key: version, type; both int16)."""
    at = HEADER.size
    for skipped in ("length", "attributes", "timestamp delta", "offset delta", "key length"):
        while skipped != "attributes" and whole[at] & 0x80:
            at += 1
        at += 1
    found: int = struct.unpack_from(">hh", whole, at)[1]
    return found


def _unpacked(where: str, attributes: int, whole: memoryview) -> Bytes:
    codec = attributes & CODEC
    if codec not in CODECS:
        raise Unreadable(f"{where}: unknown codec {codec}")
    try:
        return CODECS[codec](whole[HEADER.size :])
    except cramjam.DecompressionError as error:
        raise Unreadable(f"{where}: {error}") from error


def _snappy(body: memoryview) -> Bytes:
    """Raw snappy, or the blocks of xerial's framing, which Java and Python producers write."""
    if bytes(body[:8]) != b"\x82SNAPPY\x00":
        return cramjam.snappy.decompress_raw(body)
    out, at = bytearray(), 16
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        out += bytes(cramjam.snappy.decompress_raw(body[at + 4 : at + 4 + size]))
        at += 4 + size
    return out


CODECS: dict[int, Callable[[memoryview], Bytes]] = {
    0: lambda body: body,
    1: cramjam.gzip.decompress,
    2: _snappy,
    3: cramjam.lz4.decompress,
    4: cramjam.zstd.decompress,
}


def to_lines(where: str, fetched: Sequence[Fetched]) -> Lines:
    """The values of all records as lines; a record without a value is an empty line. Raises Unreadable."""
    batches = [batch for group in fetched for batch in group.batches]
    bodies = [np.frombuffer(batch.body, np.uint8) for batch in batches]
    buffer = bodies[0] if len(bodies) == 1 else np.concatenate([np.empty(0, np.uint8), *bodies])
    buffer.flags.writeable = False  # as a file's bytes are, so that every kernel is compiled once
    counts = np.array([batch.count for batch in batches], np.int64)
    ends = np.cumsum([len(body) for body in bodies], dtype=np.int64)
    rows = int(counts.sum())
    start, end, position, clock = (np.empty(rows, np.int64) for _ in range(4))
    bad = _walk(
        buffer,
        ends,
        counts,
        np.array([batch.base for batch in batches], np.int64),
        np.array([batch.clock for batch in batches], np.int64),
        start,
        end,
        position,
        clock,
    )
    if bad >= 0:
        raise Unreadable(f"{where}: batch at offset {batches[bad].base}: its records are malformed")
    return Lines(buffer, start, end, position, clock)


@njit(cache=True)
def _varint(b, p, e):  # type: ignore[no-untyped-def]  # numba infers the types
    """A zigzag varint and where it ends; -1 where it is cut or longer than 10 bytes."""
    value = np.int64(0)
    shift = 0
    while p < e and shift < 70:
        byte = b[p]
        p += 1
        value |= np.int64(byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), p
        shift += 7
    return np.int64(0), -1


@njit(cache=True)
def _walk(b, ends, counts, bases, clocks, start, end, position, clock):  # type: ignore[no-untyped-def]
    """Fill the bounds of every record's value; returns the first malformed batch, else -1."""
    row = 0
    p = 0
    for batch in range(len(ends)):
        e = ends[batch]
        for _ in range(counts[batch]):
            length, p = _varint(b, p, e)
            if p < 0 or length < 1 or p + length > e:
                return batch
            following = p + length
            _, p = _varint(b, p + 1, following)
            if p < 0:
                return batch
            delta, p = _varint(b, p, following)
            if p < 0:
                return batch
            size, p = _varint(b, p, following)
            if p < 0 or p + max(size, 0) > following:
                return batch
            size, p = _varint(b, p + max(size, 0), following)
            if p < 0 or p + max(size, 0) > following:
                return batch
            start[row] = p
            end[row] = p + max(size, 0)
            position[row] = bases[batch] + delta
            clock[row] = clocks[batch]
            row += 1
            p = following
        if p != e:
            return batch
    return -1
