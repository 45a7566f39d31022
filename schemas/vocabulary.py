"""Names to dense rows: found by a 64-bit hash, confirmed by their bytes."""

from __future__ import annotations

from heapq import heapify, heappop

import numpy as np
import xxhash
from numba import njit

from schemas.batch import I32, I64, OTHER, U8, U64
from schemas.scan import same
from schemas.snapshot import BadCheckpoint, Snapshot, alike, array

LONGEST = 256
"""Bytes of a name in a bounded vocabulary."""
ANY = 2**31 - 1


@njit(cache=True)
def combined(hashes, i):  # type: ignore[no-untyped-def]  # numba infers the types
    """One hash of all parts of name `i`; never 0."""
    h = hashes[0, i]
    for part in range(1, len(hashes)):
        h = ((h << np.uint64(23)) | (h >> np.uint64(41))) ^ hashes[part, i]
        h *= np.uint64(0x9E3779B185EBCA87)
    return h | np.uint64(1)


@njit(cache=True)
def _look_up(buffer, starts, lengths, hashes, skip, table, rows, arena, offsets, sizes, longest, other, at, out):  # type: ignore[no-untyped-def]
    """Fill `out` from name `at` on; stops at the first unknown name and returns its index.

    An unknown name whose first part is longer than `longest` is `other`.
    """
    mask = np.uint64(len(table) - 1)
    for i in range(at, len(out)):
        if skip[i]:
            continue
        h = combined(hashes, i)
        place = (h >> np.uint64(7)) & mask
        found = -1
        while table[place] != 0:
            if table[place] == h:
                row = rows[place]
                kept = offsets[row]
                part = 0
                while part < len(hashes):
                    size = lengths[part, i]
                    if sizes[row, part] != size or not same(arena, kept, buffer, starts[part, i], size):
                        break
                    kept += size
                    part += 1
                if part == len(hashes):
                    found = row
                    break
            place = (place + np.uint64(1)) & mask
        if found < 0:
            if lengths[0, i] <= longest:
                return i
            found = other
        out[i] = found
    return len(out)


@njit(cache=True)
def _place(table, rows, hashes, at, until):  # type: ignore[no-untyped-def]
    """Enter rows at..until-1 into the open addressing, but those that are free."""
    mask = np.uint64(len(table) - 1)
    for row in range(at, until):
        if hashes[row] == 0:
            continue
        place = (hashes[row] >> np.uint64(7)) & mask
        while table[place] != 0:
            place = (place + np.uint64(1)) & mask
        table[place] = hashes[row]
        rows[place] = row


@njit(cache=True)
def _remove(table, rows, hashes, gone):  # type: ignore[no-untyped-def]
    """Delete the rows `gone` without tombstones: shift back what a gap would hide (Knuth 6.4, algorithm R)."""
    mask, one = np.uint64(len(table) - 1), np.uint64(1)
    for row in gone:
        gap = (hashes[row] >> np.uint64(7)) & mask
        while rows[gap] != row or table[gap] == 0:
            gap = (gap + one) & mask
        look = gap
        while True:
            look = (look + one) & mask
            if table[look] == 0:
                break
            home = (table[look] >> np.uint64(7)) & mask
            if ((look - home) & mask) >= ((look - gap) & mask):
                table[gap] = table[look]
                rows[gap] = rows[look]
                gap = look
        table[gap] = 0


@njit(cache=True)
def _gather(arena, offsets, sizes, rows, out):  # type: ignore[no-untyped-def]
    """Copy the names of the first `rows` rows into `out`, one after the other. Returns where they end."""
    end = 0
    for row in range(rows):
        size = sizes[row].sum()
        out[end : end + size] = arena[offsets[row] : offsets[row] + size]
        offsets[row] = end
        end += size
    return end


class Vocabulary:
    """Texts <-> rows 0, 1, 2 ... in the order of first appearance; a name has one or two parts.

    Names whose hashes collide by chance or by craft still get rows of their own. The first part of a new name is at most
    `longest` bytes, a longer one is OTHER. `idle` are the rows of names that nobody needs any more: `free` takes the names
    away, and new names get the lowest free rows first. What `names` says of a free row means nothing.
    """

    def __init__(self, parts: int = 1, longest: int = ANY) -> None:
        self.names: list[tuple[str, ...]] = []
        self._parts = parts
        self._longest = longest
        self._other = OTHER
        self._table: U64 = np.zeros(1024, np.uint64)
        self._rows: I32 = np.zeros(1024, np.int32)
        self._arena: U8 = np.zeros(4096, np.uint8)
        self._offsets: I64 = np.zeros(512, np.int64)
        self._sizes: I32 = np.zeros((512, parts), np.int32)
        self._hashes: U64 = np.zeros(512, np.uint64)
        self._end = 0
        self._wasted = 0
        self._free: list[int] = []
        self.idle: I32 = np.empty(0, np.int32)

    def __len__(self) -> int:
        """Rows in all, free ones too."""
        return len(self.names)

    def rows(self, buffer: U8, starts: I64, lengths: I32, hashes: U64, skip: np.ndarray) -> I32:
        """The rows of n names, new ones added; `starts`, `lengths`, `hashes` are parts x n, masked names get 0."""
        out = np.zeros(len(skip), np.int32)
        at = 0
        while True:
            at = _look_up(
                buffer,
                starts,
                lengths,
                hashes,
                skip,
                self._table,
                self._rows,
                self._arena,
                self._offsets,
                self._sizes,
                self._longest,
                self._other,
                at,
                out,
            )
            if at == len(out):
                return out
            texts = [bytes(buffer[s : s + n]) for s, n in zip(starts[:, at], lengths[:, at], strict=True)]
            self._add(texts, int(combined(hashes, at)))

    def row(self, *parts: str) -> int:
        """The row of one name, a new one if it is new."""
        texts = [part.encode() for part in parts]
        lengths = np.array([[len(text)] for text in texts], np.int32)
        starts = np.cumsum(lengths, axis=0) - lengths
        hashes: U64 = np.array([[xxhash.xxh64_intdigest(text) if text else 0] for text in texts], np.uint64)
        buffer = np.frombuffer(b"".join(texts), np.uint8)
        return int(self.rows(buffer, starts, lengths, hashes, np.zeros(1, np.bool_))[0])

    def free(self, held: I32) -> None:
        """Take the names of the idle rows away, but of those that are among `held`: they are no longer idle.

        Raises ValueError where one has no name: somebody used it after it was idle.
        """
        if not len(self.idle):
            return
        rows = np.setdiff1d(self.idle, held)
        if not self._hashes[rows].all():
            raise ValueError("a row that stands for no name was used")
        self.idle = self.idle[:0]
        _remove(self._table, self._rows, self._hashes, rows)
        self._wasted += int(self._sizes[rows].sum())
        self._hashes[rows] = 0
        self._sizes[rows] = 0
        nobody = ("",) * self._parts
        for row in rows.tolist():
            self.names[row] = nobody
        self._free += rows.tolist()
        heapify(self._free)
        if 2 * self._wasted > self._end:
            arena = np.zeros_like(self._arena)
            self._end = _gather(self._arena, self._offsets, self._sizes, len(self.names), arena)
            self._arena, self._wasted = arena, 0

    def _add(self, texts: list[bytes], hashed: int) -> None:
        row = heappop(self._free) if self._free else len(self.names)
        joined = b"".join(texts)
        while self._end + len(joined) > len(self._arena):
            self._arena = np.concatenate([self._arena, np.zeros_like(self._arena)])
        if row == len(self._offsets):
            self._offsets, self._sizes, self._hashes = (
                np.concatenate([column, np.zeros_like(column)]) for column in (self._offsets, self._sizes, self._hashes)
            )
        self._arena[self._end : self._end + len(joined)] = np.frombuffer(joined, np.uint8)
        self._offsets[row] = self._end
        self._sizes[row] = [len(text) for text in texts]
        self._hashes[row] = hashed
        self._end += len(joined)
        self.names[row : row + 1] = [tuple(text.decode() for text in texts)]
        if 2 * len(self.names) > len(self._table):
            self._rebuild()
        else:
            _place(self._table, self._rows, self._hashes, row, row + 1)

    def _rebuild(self) -> None:
        """A table that is at most half full."""
        size = max(1024, 1 << (4 * len(self.names) - 1).bit_length())
        self._table = np.zeros(size, np.uint64)
        self._rows = np.zeros(size, np.int32)
        _place(self._table, self._rows, self._hashes, 0, len(self.names))

    def snapshot(self) -> Snapshot:
        n = len(self.names)
        return {
            "arena": self._arena[: self._end],
            "offsets": self._offsets[:n],
            "sizes": self._sizes[:n],
            "hashes": self._hashes[:n],
            "idle": self.idle,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        alike(snapshot, "offsets", "sizes", "hashes")
        n = len(snapshot["offsets"])
        end = len(snapshot["arena"])
        self._arena = array(snapshot, "arena", np.uint8, room=max(4096, end))
        self._offsets = array(snapshot, "offsets", np.int64, room=max(512, n))
        self._sizes = array(snapshot, "sizes", np.int32, self._parts, room=max(512, n))
        self._hashes = array(snapshot, "hashes", np.uint64, room=max(512, n))
        self.names = _names(self._arena[:end].tobytes(), self._offsets[:n], self._sizes[:n])
        self._end, self._wasted = end, end - int(self._sizes.sum())
        self._free = np.flatnonzero(self._hashes[:n] == 0).tolist()
        self.idle = array(snapshot, "idle", np.int32) if "idle" in snapshot else np.empty(0, np.int32)
        if ((self.idle < 0) | (self.idle >= n)).any() or not self._hashes[self.idle].all():
            raise BadCheckpoint("a vocabulary has an idle row that is none of its own")
        self._rebuild()


class BoundedVocabulary(Vocabulary):
    """Names that callers choose: "" (UNNAMED), "other" (OTHER), and the first ones to come until there are `most` in all.

    Whoever comes later, or is longer than LONGEST bytes, is "other".
    """

    def __init__(self, most: int) -> None:
        super().__init__(longest=LONGEST)
        self._most = most
        for name in (b"", b"other"):
            hashed = xxhash.xxh64_intdigest(name) if name else 0
            self._add([name], int(combined(np.array([[hashed]], np.uint64), 0)))

    def _add(self, texts: list[bytes], hashed: int) -> None:
        super()._add(texts, hashed)
        self._close()

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know it leaves it as it is. Raises BadCheckpoint."""
        if snapshot:
            super().restore(snapshot)
            if self.names[:2] != [("",), ("other",)]:
                raise BadCheckpoint("a bounded vocabulary does not begin with no name and other")
            self._close()

    def _close(self) -> None:
        """Nobody new where it is full."""
        if len(self.names) >= self._most:
            self._longest = -1


class FirstModels(Vocabulary):
    """(Provider or "", model): the first `most` to come. Whoever comes later is ("", "other"), which is one of them.

    `other` is the row of those for whom there was no room, -1 as long as there is some.
    """

    def __init__(self, most: int) -> None:
        super().__init__(parts=2)
        self._most = most
        self.other = -1

    def _add(self, texts: list[bytes], hashed: int) -> None:
        super()._add(texts, hashed)
        self._close()

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint with more of them than there may be keeps those that it has. Raises BadCheckpoint."""
        super().restore(snapshot)
        self._longest, self.other = ANY, -1
        self._close()

    def _close(self) -> None:
        """Nobody new where only one more has room."""
        if self.other >= 0 or len(self.names) < self._most - 1:
            return
        if ("", "other") not in self.names:
            hashes = np.array([[0], [xxhash.xxh64_intdigest(b"other")]], np.uint64)
            super()._add([b"", b"other"], int(combined(hashes, 0)))
        self._other = self.other = self.names.index(("", "other"))
        self._longest = -1


def _names(arena: bytes, offsets: I64, sizes: I32) -> list[tuple[str, ...]]:
    """The names of all rows, whose parts lie one after the other in the arena. Raises BadCheckpoint."""
    if (sizes < 0).any() or sizes.sum() > len(arena) or ((offsets < 0) | (offsets > len(arena))).any():
        raise BadCheckpoint("the names of a vocabulary do not fit into its arena")
    ends = offsets[:, None] + np.cumsum(sizes, axis=1, dtype=np.int64)
    starts = ends - sizes
    if (ends > len(arena)).any():
        raise BadCheckpoint("the names of a vocabulary do not lie in its arena")
    try:
        texts = [arena[at:end].decode() for at, end in zip(starts.ravel().tolist(), ends.ravel().tolist(), strict=True)]
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"a name of a vocabulary is not UTF-8: {error.reason}") from error
    parts = sizes.shape[1]
    return list(zip(*(texts[p::parts] for p in range(parts)), strict=True))
