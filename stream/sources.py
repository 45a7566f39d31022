"""Where usage events come from: NDJSON files (gzip too) and a live stream of bytes; and the clock of each."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from schemas.batch import ABSENT, I64, Batch, Ms
from schemas.decode import Decoder, split
from schemas.quarantine import Quarantined
from schemas.scan import MAX_LINE
from schemas.snapshot import BadCheckpoint, Snapshot, alike, array, joined, number, of_numbers, part
from stream.windows import NEVER

BLOCK_BYTES = 4 << 20
AROUND = 50
"""Lines before and after a line whose median `ts` is its clock: 101 in all."""

KINDS = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U64": np.uint64}
HELD = {column.name: KINDS[str(column.type)] for column in fields(Batch)}
"""The columns of a batch and their types."""
LATER = {
    **dict.fromkeys(("feature", "operation", "request", "user", "address", "session", "fingerprint"), 0),
    **dict.fromkeys(("attempt", "status", "latency_ms", "fallback", "response_cache", "cost_usd"), ABSENT),
}
"""The columns that a batch of an older checkpoint lacks, and what they then hold: nothing was said."""


class BrokenFile(Exception):
    """A file is not what its name says."""


class LongLine:
    """A line that is too long, of which only its length and its hash are kept; a `\\r` at its end is not part of it."""

    def __init__(self) -> None:
        self.length = 0
        self._hash = hashlib.blake2b(digest_size=8)
        self._return = b""

    def add(self, piece: bytes) -> None:
        piece = self._return + piece
        self._return = piece[-1:] if piece.endswith(b"\r") else b""
        body = memoryview(piece)[: len(piece) - len(self._return)]
        self.length += len(body)
        self._hash.update(body)

    @property
    def bytes_read(self) -> int:
        return self.length + len(self._return)

    def refused(self, position: int, line: int) -> Quarantined:
        return Quarantined("line_too_long", "", 0, position, line, self.length, self._hash.hexdigest())


class LineReader:
    """Blocks of bytes in, decoded batches out; a line may span blocks. Refused rows gather in `quarantined`.

    Memory is bounded: of a line over MAX_LINE nothing is kept while its end is awaited.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.quarantined: list[Quarantined] = []
        self.position = 0
        self._decoder = decoder
        self._rest = b""
        self._long: LongLine | None = None
        self._line = 0

    def read(self, block: bytes, clock: Ms = ABSENT, held: Batch | None = None) -> Batch:
        """The calls of all lines that this block completes; `clock` is the time of receipt, ABSENT for a file.

        `held` are calls that were read before and are not folded yet.
        """
        if self._long is not None:
            piece, newline, block = block.partition(b"\n")
            self._long.add(piece)
            if newline:
                self._refuse(self._long, 1)
        whole = self._rest + block
        end = whole.rfind(b"\n") + 1
        batch = self._decode(whole[:end], clock, held)
        self._rest = whole[end:]
        if len(self._rest) > MAX_LINE + 1:
            self._long = LongLine()
            self._long.add(self._rest)
            self._rest = b""
        return batch

    def finish(self, clock: Ms = ABSENT, held: Batch | None = None) -> Batch:
        """The last line, which may lack its newline."""
        if self._long is not None:
            self._refuse(self._long, 0)
        rest, self._rest = self._rest, b""
        return self._decode(rest, clock, held)

    def snapshot(self) -> Snapshot:
        """Where to go on reading: at the unfinished line. Callers take `quarantined` first."""
        return of_numbers(position=self.position, line=self._line)

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        self.position, self._line = number(snapshot, "position"), number(snapshot, "line")

    def _refuse(self, long: LongLine, newline: int) -> None:
        self.quarantined.append(long.refused(self.position, self._line))
        self.position += long.bytes_read + newline
        self._line += newline
        self._long = None

    def _decode(self, complete: bytes, clock: Ms, held: Batch | None) -> Batch:
        lines = split(complete, self.position)
        if clock != ABSENT:
            lines = replace(lines, clock=np.full(len(lines.start), clock))
        batch, refused = self._decoder.decode(lines, self._line, held=held)
        self.quarantined += refused
        self.position += len(complete)
        self._line += complete.count(b"\n")
        return batch


class FileClock:
    """Gives every call of a file its clock: `arrival_ts`, else the median `ts` of the 101 lines around it; never back.

    It reads ahead: `feed` returns the rows whose 50 followers are known, `finish` the rest. `guessed` tells whether any clock
    so far was a median: such a one says nothing of the clock that made the `ts`.
    """

    def __init__(self) -> None:
        self.guessed = False
        self._held: Batch | None = None
        self._done = 0
        self._clock: Ms = NEVER

    def feed(self, batch: Batch) -> Batch:
        self._held = batch if self._held is None else Batch.join(self._held, batch)
        return self._emit(max(self._done, len(self._held) - AROUND))

    def finish(self) -> Batch | None:
        return None if self._held is None else self._emit(len(self._held))

    @property
    def held(self) -> Batch | None:
        """The calls that it has not returned yet."""
        return None if self._held is None else self._held.rows(self._done, len(self._held))

    def snapshot(self) -> Snapshot:
        held = {} if self._held is None else {c.name: getattr(self._held, c.name) for c in fields(Batch)}
        return joined(held=held) | of_numbers(done=self._done, clock=self._clock)

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        held = part(snapshot, "held")
        if held:
            lacking = {name: value for name, value in LATER.items() if "ts" in held and name not in held}
            held |= {name: np.full(len(held["ts"]), value, HELD[name]) for name, value in lacking.items()}
            alike(held, *HELD)
        self._held = Batch(*(array(held, name, kind) for name, kind in HELD.items())) if held else None
        self._done, self._clock = number(snapshot, "done"), number(snapshot, "clock")
        if not 0 <= self._done <= (len(self._held) if self._held else 0):
            raise BadCheckpoint("the rows that a file's clock holds are not whole")

    def _emit(self, until: int) -> Batch:
        assert self._held is not None
        ready = self._held.rows(self._done, until)
        clock = ready.clock
        if (clock == ABSENT).any():
            self.guessed = True
            clock = np.where(clock == ABSENT, _medians(self._held.ts, self._done, until), clock)
        if len(clock):
            clock = np.maximum(np.maximum.accumulate(clock), self._clock)
            self._clock = int(clock[-1])
        keep = max(0, until - AROUND)
        self._held = self._held.rows(keep, len(self._held))
        self._done = until - keep
        return replace(ready, clock=clock)


def _medians(ts: I64, lo: int, hi: int) -> I64:
    """The (lower) median of the values around each of rows lo..hi-1, fewer at the ends."""
    out = np.empty(hi - lo, np.int64)
    first, last = max(lo, AROUND), min(hi, len(ts) - AROUND)
    for i in (*range(lo, min(first, hi)), *range(max(last, first, lo), hi)):
        around = np.sort(ts[max(0, i - AROUND) : i + AROUND + 1])
        out[i - lo] = around[(len(around) - 1) // 2]
    for at in range(first, last, 16_384):
        to = min(at + 16_384, last)
        windows = sliding_window_view(ts[at - AROUND : to + AROUND], 2 * AROUND + 1)
        out[at - lo : to - lo] = np.partition(windows, AROUND, axis=1)[:, AROUND]
    return out


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where its name ends in `.gz`. Raises OSError, and BrokenFile also in the body."""
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BrokenFile(f"{path}: not a whole gzip file: {error}") from error


def first_line(path: Path) -> str:
    """A hash by which a file is known again when it has grown, or was packed. Raises OSError, BrokenFile."""
    with opened(path) as file:
        return hashlib.blake2b(file.readline(MAX_LINE).rstrip(b"\r\n"), digest_size=8).hexdigest()


def read_on(file: BinaryIO, reader: LineReader, clock: FileClock) -> Iterator[Batch]:
    """The calls of all finished lines from here on, but the last ones. Raises OSError, BrokenFile."""
    while block := file.read(BLOCK_BYTES):
        yield clock.feed(reader.read(block, held=clock.held))


def read_out(reader: LineReader, clock: FileClock) -> Iterator[Batch]:
    """The last calls of a file: its unfinished line, and those whose followers the clock was waiting for."""
    yield clock.feed(reader.finish(held=clock.held))
    last = clock.finish()
    if last is not None:
        yield last


def read_file(path: Path, reader: LineReader) -> Iterator[Batch]:
    """All calls of an NDJSON file (`.gz`: gzip), with the file's clock. Raises OSError, BrokenFile."""
    clock = FileClock()
    with opened(path) as file:
        yield from read_on(file, reader, clock)
    yield from read_out(reader, clock)
