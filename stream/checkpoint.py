"""A checkpoint as bytes: one consistent cut of a partition, packed, compressed, cut into chunks, and pointed at.

A packed checkpoint is `burn`, the length of the header (u32, little-endian), the header (msgpack) and the arrays, each
at a multiple of 64 bytes. A blob is the length of that (u64, little-endian) and the same compressed (zstd).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import cramjam
import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from schemas.batch import U8
from schemas.snapshot import BadCheckpoint, Snapshot

FORMAT = 1
MAGIC = b"burn"
ALIGNED = 64
LEVEL = 1
CHUNK_BYTES = 900_000
MOST_UNPACKED = 1 << 36
MOST_RATIO = 40_000
"""zstd cannot shrink more: a block of 128 KB takes 4 bytes."""
PLAIN = frozenset("|b1 |i1 |u1 <i2 <u2 <i4 <u4 <f4 <i8 <u8 <f8".split())
"""The dtypes that an array of a checkpoint may have."""
POINTER = re.compile(
    r"burnguard:(1|2) generation=(\d{1,18}) number=(\d{1,18}) first=(\d{1,18}) chunks=(\d{1,18}) length=(\d{1,18})"
    r" xxh64=([0-9a-f]{16})"
)
EMPTY = "burnguard:empty"
"""The metadata of a partition that has started and has no checkpoint yet."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state, the `config` (hash of price book and thresholds) that it was judged by, and whatever numbers go with it."""

    state: Snapshot
    config: str
    numbers: dict[str, int] = field(default_factory=dict)


class _Array(msgspec.Struct, array_like=True):
    name: str
    dtype: str | list[tuple[str, str, tuple[int, ...]]]
    shape: tuple[int, ...]
    at: int


class _Header(msgspec.Struct, array_like=True):
    format: int
    config: str
    numbers: dict[str, int]
    arrays: list[_Array]


class Buffer:
    """Memory that is kept from one checkpoint to the next: a fresh one costs a page fault for every 4 KB (2 s a GB)."""

    def __init__(self) -> None:
        self._bytes: U8 = np.empty(0, np.uint8)

    def first(self, size: int) -> U8:
        """Its first `size` bytes; what was in it is lost where it must grow."""
        if size > len(self._bytes):
            self._bytes = np.empty(size + size // 4, np.uint8)
        return self._bytes[:size]

    def prepare(self, state: Snapshot) -> None:
        """Take the page faults of packing `state` now, off the loop, where it is much larger than what was packed so far."""
        size = sum(_aligned(column.nbytes) for column in state.values()) * 9 // 8
        if size > len(self._bytes):
            self.first(size).fill(0)


def pack(checkpoint: Checkpoint, buffer: Buffer) -> memoryview:
    """Copy everything into `buffer`, which holds it until the next time: the only part that the partition must wait for."""
    arrays, at = [], 0
    for name, column in checkpoint.state.items():
        arrays.append(_Array(name, _described(column.dtype), column.shape, at))
        at += _aligned(column.nbytes)
    header = msgspec.msgpack.encode(_Header(FORMAT, checkpoint.config, checkpoint.numbers, arrays))
    start = _start(len(header))
    packed = buffer.first(start + at)
    packed[: 8 + len(header)] = np.frombuffer(MAGIC + struct.pack("<I", len(header)) + header, np.uint8)
    packed[8 + len(header) : start] = 0
    for place, column in zip(arrays, checkpoint.state.values(), strict=True):
        at = start + place.at
        end = at + column.nbytes
        packed[at:end] = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
        packed[end : at + _aligned(column.nbytes)] = 0
    return packed.data


def compress(packed: memoryview, level: int = LEVEL) -> memoryview:
    """The blob. Lets other threads run."""
    return memoryview(b"".join((struct.pack("<Q", len(packed)), memoryview(cramjam.zstd.compress(packed, level)))))


def chunks(blob: memoryview, limit: int = CHUNK_BYTES) -> list[bytes]:
    """The blob in pieces of at most `limit` bytes, at least one."""
    return [bytes(blob[at : at + limit]) for at in range(0, max(len(blob), 1), limit)]


def chunk_key(generation: int, number: int, chunk: int) -> bytes:
    """The key of a chunk's record."""
    return b"%d/%d/%d" % (generation, number, chunk)


def read_chunk_key(key: bytes) -> tuple[int, int, int]:
    """Generation, number and chunk of a record's key. Raises BadCheckpoint."""
    found = re.fullmatch(rb"(\d{1,18})/(\d{1,18})/(\d{1,18})", key)
    if not found:
        raise BadCheckpoint(f"{key[:60]!r} is not the key of a chunk")
    return int(found[1]), int(found[2]), int(found[3])


WHOLE, IN_BLOCKS = 1, 2
"""What a pointer's chunks are: the blob of a whole checkpoint, or that of an index of blocks (stream/blocks.py)."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a checkpoint is and what it must be: its chunks, from offset `first` on, are `length` bytes with that XXH64."""

    generation: int
    number: int
    first: int
    chunks: int
    length: int
    xxh64: int
    kind: int = WHOLE

    @staticmethod
    def to(pieces: Sequence[bytes], generation: int, number: int, first: int, kind: int = WHOLE) -> Pointer:
        """The pointer to these chunks."""
        return Pointer(generation, number, first, len(pieces), sum(map(len, pieces)), _xxh64(pieces), kind)

    def to_metadata(self) -> str:
        """One line for people and for `read`."""
        return (
            f"burnguard:{self.kind} generation={self.generation} number={self.number} first={self.first} chunks={self.chunks}"
            f" length={self.length} xxh64={self.xxh64:016x}"
        )

    @staticmethod
    def read(metadata: str) -> Pointer:
        """The pointer that `to_metadata` wrote. Raises BadCheckpoint; EMPTY is no pointer, ask for it first."""
        found = POINTER.fullmatch(metadata)
        if not found:
            raise BadCheckpoint(f"{metadata[:200]!r} is not a pointer that this version of Burnguard reads")
        kind, generation, number, first, count, length = (int(found[i]) for i in range(1, 7))
        return Pointer(generation, number, first, count, length, int(found[7], 16), kind)


def unpack(pieces: Sequence[bytes], pointer: Pointer, buffer: Buffer) -> Checkpoint:
    """The checkpoint that the pointer means: read-only views into `buffer`, to be restored before it packs the next.

    Raises BadCheckpoint, whatever the pieces hold.
    """
    if pointer.kind != WHOLE:
        raise BadCheckpoint("it is in blocks, which only the topic of state holds")
    return read(decompress(whole(pieces, pointer), buffer))


def whole(pieces: Sequence[bytes], pointer: Pointer) -> bytes:
    """The blob whose chunks the pointer means. Raises BadCheckpoint."""
    if len(pieces) != pointer.chunks:
        raise BadCheckpoint(f"{len(pieces)} chunks were found, not {pointer.chunks}")
    if sum(map(len, pieces)) != pointer.length:
        raise BadCheckpoint(f"the chunks are {sum(map(len, pieces))} bytes, not {pointer.length}")
    if _xxh64(pieces) != pointer.xxh64:
        raise BadCheckpoint(f"the chunks have the XXH64 {_xxh64(pieces):016x}, not {pointer.xxh64:016x}")
    return b"".join(pieces)


def decompress(blob: bytes | memoryview, buffer: Buffer) -> U8:
    """What `compress` was given, in `buffer`. Raises BadCheckpoint."""
    size = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or size > min(MOST_UNPACKED, MOST_RATIO * len(blob)):
        raise BadCheckpoint(f"it cannot hold the {size} bytes that it says")
    try:
        packed = buffer.first(size)
        filled = cramjam.zstd.decompress_into(memoryview(blob)[8:], packed.data)
    except (cramjam.DecompressionError, MemoryError) as error:
        raise BadCheckpoint(f"its {size} bytes cannot be decompressed: {error}") from error
    if filled != size:
        raise BadCheckpoint(f"it says {size} bytes and has {filled}")
    return packed


def read(packed: U8) -> Checkpoint:
    """What `pack` was given, as views. Raises BadCheckpoint."""
    header, start = _opened(packed)
    body = packed[start:]
    body.flags.writeable = False
    return Checkpoint({a.name: _checked(body, a) for a in header.arrays}, header.config, header.numbers)


@dataclass(frozen=True, slots=True)
class Area:
    """Where an array lies in a packed checkpoint: from byte `begin` to before `end`, `row` bytes a row."""

    name: str
    begin: int
    end: int
    row: int


def areas(packed: U8) -> tuple[int, list[Area]]:
    """How long the head of a packed checkpoint is, and where its arrays lie. Raises BadCheckpoint."""
    header, start = _opened(packed)
    found = []
    for place in header.arrays:
        array = _checked(packed[start:], place)
        begin = start + place.at
        found.append(Area(place.name, begin, begin + array.nbytes, prod(place.shape[1:]) * array.itemsize))
    return start, found


def _opened(packed: U8) -> tuple[_Header, int]:
    """The header, and where the arrays begin."""
    if packed[:4].tobytes() != MAGIC or len(packed) < 8:
        raise BadCheckpoint("it does not begin as a checkpoint does")
    size = int.from_bytes(packed[4:8].tobytes(), "little")
    return _header(packed[8 : 8 + size].tobytes()), _start(size)


def _header(encoded: bytes) -> _Header:
    try:
        version = msgspec.msgpack.decode(encoded)[0]
        if version != FORMAT:
            raise BadCheckpoint(f"it has format {version!r}, this version of Burnguard reads {FORMAT}")
        return msgspec.msgpack.decode(encoded, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, LookupError) as error:
        raise BadCheckpoint(f"its header is not one: {error}") from error


def _checked(body: U8, place: _Array) -> NDArray[Any]:
    kinds = [place.dtype] if isinstance(place.dtype, str) else [kind for _, kind, _ in place.dtype]
    if not PLAIN.issuperset(kinds):
        raise BadCheckpoint(f"array {place.name} is of {place.dtype}")
    try:
        return _at(body, place)
    except ValueError as error:
        raise BadCheckpoint(f"array {place.name} {place.shape} does not lie within its bytes: {error}") from error


def _at(body: U8, place: _Array) -> NDArray[Any]:
    """The array within the body. Raises ValueError where it does not lie there."""
    dtype = np.dtype(place.dtype)
    size = prod(place.shape) * dtype.itemsize
    if place.at < 0 or min(place.shape, default=0) < 0 or place.at + size > len(body):
        raise ValueError(f"{size} bytes at {place.at} of {len(body)}")
    return body[place.at : place.at + size].view(dtype).reshape(place.shape)


def _described(dtype: np.dtype[Any]) -> str | list[tuple[str, str, tuple[int, ...]]]:
    """A dtype as its name, or as the names, dtypes and shapes of its fields."""
    if dtype.fields is None:
        return dtype.str
    return [(name, kind.base.str, kind.shape) for name, (kind, *_) in dtype.fields.items()]


def _start(header: int) -> int:
    """Where the arrays begin."""
    return _aligned(8 + header)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _xxh64(pieces: Sequence[bytes]) -> int:
    state = xxhash.xxh64()
    for piece in pieces:
        state.update(piece)
    return state.intdigest()
