"""A checkpoint that writes only what changed: its arrays in blocks, and an index that says where each of them lies.

A block is some whole rows of one array, counted from that array's beginning, so that an array which grows moves no other's.
A record of the state topic holds blocks, each compressed on its own. The index is the head of the packed checkpoint and,
for every block, the record that holds it, its place in there and the XXH64 of its bytes; it is itself packed and compressed
as a checkpoint is. A block that did not change stays where an earlier checkpoint has put it. Why that is safe:
docs/decisions/0010-a-checkpoint-in-blocks.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import cramjam
import numpy as np
import xxhash
from numpy.typing import NDArray

from schemas.batch import I64, U8
from schemas.snapshot import BadCheckpoint, array, number, of_numbers
from stream.checkpoint import (
    CHUNK_BYTES,
    IN_BLOCKS,
    LEVEL,
    MOST_RATIO,
    MOST_UNPACKED,
    WHOLE,
    Area,
    Buffer,
    Checkpoint,
    Pointer,
    areas,
    chunk_key,
    chunks,
    compress,
    decompress,
    pack,
    read,
    unpack,
    whole,
)

BLOCK_BYTES = 8_192
"""Smaller ones keep more of an array whose rows change here and there, and make the index longer (see the decision)."""
FULL = 2
"""Old blocks are written again while the log holds more than so many checkpoints as large as this one."""
_SEED = secrets.randbits(64)
"""Of the hashes by which blocks are compared. It never leaves the process, so nobody can send calls that make two alike."""
_BLOCK = np.dtype([("low", "<u8"), ("high", "<u8"), ("xxh64", "<u8"), ("record", "<i8"), ("place", "<i8"), ("size", "<i8")])
_STORED = ("xxh64", "record", "place", "size")
_NOWHERE = -1

Blocks: TypeAlias = NDArray[np.void]
"""Of every block: its seeded XXH3-128 (`low`, `high`) and XXH64, the record's offset, place and size there, compressed."""
Send: TypeAlias = Callable[[bytes, bytes], Awaitable[asyncio.Future[Any]]]
"""Sends a record (key, value) to the partition's state."""


class StateTopic(Protocol):
    """The topic of state, as a partition that is loaded reads it."""

    async def read_state(self, partition: int, pointer: Pointer) -> list[bytes]:
        """The chunks that a pointer means, in order."""
        ...

    async def read_records(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes]:
        """The records at these offsets (ascending) by offset, without those that are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What a checkpoint left in the log: its blocks (array by array, `parts` says which are whose) and their records.

    `records` (rows of: offset, bytes of the log before it) are those that hold a block; the log went on at offset `end[0]`
    after `end[1]` bytes, both counted from the oldest record that we know of. `index` is the size of the index.
    """

    blocks: Blocks
    parts: dict[str, slice]
    records: I64
    end: tuple[int, int]
    index: int

    def after(self, pointer: Pointer) -> Kept:
        """The same, when its index lies where `pointer` says."""
        _, before = _reached(self.end, pointer.first)
        return replace(self, end=(pointer.first + pointer.chunks, before + pointer.length), index=pointer.length)


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint to be written where `kept` is committed.

    `values` are its new records, in `blocks` named by -2, -3, ... until they have offsets.
    """

    head: U8
    length: int
    steps: I64
    blocks: Blocks
    parts: dict[str, slice]
    values: list[bytes]
    changed: int
    moved: int
    kept: Kept | None


def draft(packed: U8, kept: Kept | None) -> Draft:
    """What must be written so that a packed checkpoint can be read back, where `kept` is committed. Lets other threads run.

    Blocks that are as they were are not, but for the oldest of them where the log has become too long: at most as many bytes
    as what changed and the index come to.
    """
    start, lying = areas(packed)
    steps = np.array([_step(area) for area in lying], np.int64)
    cuts, parts = _cut(lying, steps)
    blocks = np.zeros(len(cuts), _BLOCK)
    blocks["low"], blocks["high"] = _compared(packed, cuts)
    blocks["record"] = _NOWHERE
    if kept is not None:
        for name in parts.keys() & kept.parts.keys():
            _stay(blocks[parts[name]], kept.blocks[kept.parts[name]])
    new = np.flatnonzero(blocks["record"] == _NOWHERE)
    values = [bytearray()]
    _write(packed, cuts, blocks, new, values)
    old = _oldest(blocks, kept, int(blocks["size"][new].sum())) if kept is not None else new[:0]
    _write(packed, cuts, blocks, old, values)
    written = [bytes(value) for value in values if value]
    return Draft(packed[:start].copy(), len(packed), steps, blocks, parts, written, len(new), len(old), kept)


def indexed(draft: Draft, offsets: Sequence[int]) -> tuple[Kept, memoryview]:
    """What the draft leaves in the log when its records have these offsets, and the blob of its index."""
    kept = draft.kept
    end = kept.end if kept is not None else (offsets[0] if offsets else 0, 0)
    records = kept.records.tolist() if kept is not None else []
    for offset, value in zip(offsets, draft.values, strict=True):
        end = _reached(end, offset)
        records.append((offset, end[1]))
        end = (offset + 1, end[1] + len(value))
    blocks = draft.blocks.copy()
    fresh = blocks["record"] < _NOWHERE
    blocks["record"][fresh] = np.array([*offsets, 0])[-2 - blocks["record"][fresh]]
    table = np.array(records, np.int64).reshape(-1, 2)
    table = table[np.isin(table[:, 0], blocks["record"])]
    state = {name: blocks[name] for name in _STORED} | {"head": draft.head, "steps": draft.steps, "records": table}
    numbers = of_numbers(length=draft.length, offset=end[0], bytes=end[1])
    blob = compress(pack(Checkpoint(state | numbers, ""), Buffer()))
    return Kept(blocks, draft.parts, table, end, len(blob)), blob


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says; nothing of it is believed before `fill` has seen every block."""

    head: U8
    length: int
    steps: I64
    blocks: Blocks
    records: I64
    end: tuple[int, int]

    @staticmethod
    def read(pieces: Sequence[bytes], pointer: Pointer) -> Index:
        """The index that the pointer means. Raises BadCheckpoint, whatever the pieces hold."""
        state = read(decompress(whole(pieces, pointer), Buffer())).state
        columns = {name: array(state, name, _BLOCK[name]) for name in _STORED}
        if len({len(column) for column in columns.values()}) > 1:
            raise BadCheckpoint("its index has columns of several lengths")
        blocks = np.zeros(len(columns["record"]), _BLOCK)
        for name, column in columns.items():
            blocks[name] = column
        return Index(
            array(state, "head", np.uint8),
            number(state, "length"),
            array(state, "steps", np.int64),
            blocks,
            array(state, "records", np.int64, 2),
            (number(state, "offset"), number(state, "bytes")),
        )

    @property
    def offsets(self) -> list[int]:
        """The records that it names."""
        found: list[int] = np.unique(self.blocks["record"]).tolist()
        return found

    def fill(self, records: Mapping[int, bytes], pointer: Pointer, buffer: Buffer) -> tuple[Checkpoint, Kept]:
        """The checkpoint, in `buffer`, and what it left in the log. Lets other threads run.

        Raises BadCheckpoint, which names the record that is gone or is not what it was.
        """
        most = MOST_RATIO * (len(self.head) + sum(map(len, records.values())))
        if not len(self.head) <= self.length <= min(most, MOST_UNPACKED):
            raise BadCheckpoint(f"its index says {self.length} bytes")
        packed = buffer.first(self.length)
        packed[: len(self.head)] = self.head
        _, lying = areas(packed)
        cuts, parts = self._cut(lying)
        blocks = self.blocks.copy()
        columns = [blocks[name].tolist() for name in _STORED]
        for begin, end, xxh64, record, place, size in zip(*cuts.T.tolist(), *columns, strict=True):
            _read_block(records, xxh64, record, place, size, packed.data[begin:end])
        blocks["low"], blocks["high"] = _compared(packed, cuts)
        return read(packed), Kept(blocks, parts, self.records, self.end, 0).after(pointer)

    def _cut(self, lying: list[Area]) -> tuple[I64, dict[str, slice]]:
        if len(lying) != len(self.steps) or (self.steps <= 0).any():
            raise BadCheckpoint("its index does not say how its arrays are cut")
        sizes = np.array([area.end - area.begin for area in lying], np.int64)
        if int((-(-sizes // self.steps)).sum()) != len(self.blocks):
            raise BadCheckpoint(f"its index names {len(self.blocks)} blocks, which are not those of its arrays")
        if not np.isin(self.blocks["record"], self.records[:, 0]).all():
            raise BadCheckpoint("its index does not know all of its records")
        return _cut(lying, self.steps)


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is in the log and not committed yet. `low` is the lowest offset that it needs."""

    pointer: Pointer
    kept: Kept
    low: int
    bytes: int
    blocks: dict[str, int]


class State:
    """A partition's checkpoints in the log. Whoever writes one commits it, and then says so; else nothing of it counts."""

    def __init__(self, low: int | None = None, kept: Kept | None = None) -> None:
        self._kept = kept
        self._lows = deque([low] if low is not None else [], maxlen=2)

    def draft(self, packed: memoryview) -> Draft:
        """What the committed checkpoint lacks of this one. Lets other threads run."""
        return draft(np.frombuffer(packed, np.uint8), self._kept)

    async def write(self, new: Draft, generation: int, number: int, send: Send) -> Written:
        """Write the draft, then the index of it all; returns when the broker has both."""
        acks = await _sent(new.values, generation, number, 0, send)
        left, blob = await asyncio.to_thread(indexed, new, [ack.offset for ack in acks])
        pieces = chunks(blob, CHUNK_BYTES)
        first = (await _sent(pieces, generation, number, len(new.values), send))[0].offset
        pointer = Pointer.to(pieces, generation, number, first, IN_BLOCKS)
        low = min([first, *left.records[:, 0].tolist()])
        size = sum(map(len, new.values)) + pointer.length
        kept_blocks = len(new.blocks) - new.changed - new.moved
        counts = {"changed": new.changed, "moved": new.moved, "kept": kept_blocks}
        return Written(pointer, left.after(pointer), low, size, counts)

    def committed(self, written: Written) -> int | None:
        """The group points at it. Returns the offset before which nothing is needed any more, None where it is not known."""
        self._kept = written.kept
        self._lows.append(written.low)
        return min(self._lows) if len(self._lows) == 2 else None


@dataclass(frozen=True, slots=True)
class Found:
    """What the log has of a checkpoint, of either kind."""

    pointer: Pointer
    pieces: list[bytes]
    index: Index | None
    records: dict[int, bytes]

    def fill(self, buffer: Buffer) -> tuple[Checkpoint, State]:
        """The checkpoint, in `buffer`, and the state that goes on from it. Lets other threads run. Raises BadCheckpoint."""
        if self.index is None:
            return unpack(self.pieces, self.pointer, buffer), State(self.pointer.first)
        checkpoint, kept = self.index.fill(self.records, self.pointer, buffer)
        return checkpoint, State(min([self.pointer.first, *self.index.offsets]), kept)


async def find(topic: StateTopic, partition: int, pointer: Pointer) -> Found:
    """Read what a pointer means. Raises BadCheckpoint."""
    pieces = await topic.read_state(partition, pointer)
    if pointer.kind == WHOLE:
        return Found(pointer, pieces, None, {})
    index = await asyncio.to_thread(Index.read, pieces, pointer)
    return Found(pointer, pieces, index, await topic.read_records(partition, index.offsets))


async def _sent(values: Sequence[bytes], generation: int, number: int, first: int, send: Send) -> list[Any]:
    """The acknowledgements of these records."""
    sent = [await send(chunk_key(generation, number, at), value) for at, value in enumerate(values, first)]
    return await asyncio.gather(*sent)


def _step(area: Area) -> int:
    """The bytes of a block: whole rows, unless one row is longer than a block."""
    return BLOCK_BYTES // max(1, area.row) * area.row or BLOCK_BYTES


def _cut(lying: list[Area], steps: I64) -> tuple[I64, dict[str, slice]]:
    """Where each block begins and ends (rows of two), and which are whose."""
    cuts = [np.empty((0, 2), np.int64)]
    for area, step in zip(lying, steps.tolist(), strict=True):
        begins = np.arange(area.begin, area.end, step)
        cuts.append(np.column_stack([begins, np.minimum(begins + step, area.end)]))
    edges = np.cumsum([len(some) for some in cuts]).tolist()
    parts = {area.name: slice(lo, hi) for area, (lo, hi) in zip(lying, pairwise(edges), strict=True)}
    return np.concatenate(cuts), parts


def _compared(packed: U8, cuts: I64) -> tuple[Any, Any]:
    """The hashes that blocks are compared by."""
    data = packed.data
    digests = b"".join([xxhash.xxh3_128_digest(data[begin:end], _SEED) for begin, end in zip(*cuts.T.tolist(), strict=True)])
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _stay(blocks: Blocks, before: Blocks) -> None:
    """The blocks of an array that are as they were stay where they lie."""
    n = min(len(blocks), len(before))
    blocks, before = blocks[:n], before[:n]
    same = (blocks["low"] == before["low"]) & (blocks["high"] == before["high"])
    blocks[same] = before[same]


def _write(packed: U8, cuts: I64, blocks: Blocks, chosen: I64, values: list[bytearray]) -> None:
    """Append the chosen blocks to the last of `values`, or to a new one where it would become too long for a record."""
    stored: dict[str, list[int]] = {name: [] for name in _STORED}
    for begin, end in zip(*cuts[chosen].T.tolist(), strict=True):
        raw = packed.data[begin:end]
        piece = memoryview(cramjam.zstd.compress(raw, LEVEL))
        if values[-1] and len(values[-1]) + len(piece) > CHUNK_BYTES:
            values.append(bytearray())
        stored["xxh64"].append(xxhash.xxh64_intdigest(raw))
        stored["record"].append(_NOWHERE - len(values))
        stored["place"].append(len(values[-1]))
        stored["size"].append(len(piece))
        values[-1] += piece
    for name, column in stored.items():
        blocks[name][chosen] = np.array(column, _BLOCK[name])


def _oldest(blocks: Blocks, kept: Kept, changed: int) -> I64:
    """The blocks that lie in the oldest records and are written again, so that the log can be cut behind them."""
    lying = np.flatnonzero(blocks["record"] >= 0)
    due = changed + kept.index
    full = int(blocks["size"].sum()) + kept.index
    if not len(lying):
        return lying
    oldest = blocks["record"][lying].min()
    before = int(kept.records[kept.records[:, 0] == oldest][0, 1])
    if kept.end[1] - before + due <= FULL * full:
        return lying[:0]
    order = lying[np.argsort(blocks["record"][lying], kind="stable")]
    return order[: int(np.searchsorted(np.cumsum(blocks["size"][order]), due)) + 1]


def _reached(end: tuple[int, int], offset: int) -> tuple[int, int]:
    """`end` moved on to `offset`: records in between are another worker's, and may be as large as a record can be."""
    return offset, end[1] + (offset - end[0]) * CHUNK_BYTES


def _read_block(records: Mapping[int, bytes], xxh64: int, record: int, place: int, size: int, into: memoryview) -> None:
    """Raises BadCheckpoint."""
    if record not in records:
        raise BadCheckpoint(f"record {record} of the state is gone")
    try:
        filled = cramjam.zstd.decompress_into(memoryview(records[record])[place : place + size], into)
    except cramjam.DecompressionError as error:
        raise BadCheckpoint(f"record {record} of the state is not what it was: {error}") from error
    if filled != len(into) or xxhash.xxh64_intdigest(into) != xxh64:
        raise BadCheckpoint(f"record {record} of the state is not what it was: its bytes {place} to {place + size}")
