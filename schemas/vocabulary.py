"""Names to dense rows: found by a 64-bit hash, confirmed by their bytes."""

from __future__ import annotations

import numpy as np
from numba import njit

from schemas.batch import I32, I64, U8, U64


@njit(cache=True)
def combined(hashes, i):  # type: ignore[no-untyped-def]  # numba infers the types
    """One hash of all parts of name `i`; never 0."""
    h = hashes[0, i]
    for part in range(1, len(hashes)):
        h = ((h << np.uint64(23)) | (h >> np.uint64(41))) ^ hashes[part, i]
        h *= np.uint64(0x9E3779B185EBCA87)
    return h | np.uint64(1)


@njit(cache=True)
def _look_up(buffer, starts, lengths, hashes, skip, table, rows, arena, offsets, sizes, at, out):  # type: ignore[no-untyped-def]
    """Fill `out` from name `at` on; stops at the first unknown name and returns its index."""
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
                same = True
                kept = offsets[row]
                for part in range(len(hashes)):
                    size = lengths[part, i]
                    if sizes[row, part] != size:
                        same = False
                        break
                    start = starts[part, i]
                    for j in range(size):
                        if arena[kept + j] != buffer[start + j]:
                            same = False
                            break
                    kept += size
                    if not same:
                        break
                if same:
                    found = row
                    break
            place = (place + np.uint64(1)) & mask
        if found < 0:
            return i
        out[i] = found
    return len(out)


class Vocabulary:
    """Texts <-> rows 0, 1, 2 ... in the order of first appearance; a name has one or two parts.

    Names whose hashes collide by chance or by craft still get rows of their own.
    """

    def __init__(self, parts: int = 1) -> None:
        self.names: list[tuple[str, ...]] = []
        self._parts = parts
        self._table: U64 = np.zeros(1024, np.uint64)
        self._rows: I32 = np.zeros(1024, np.int32)
        self._arena: U8 = np.zeros(4096, np.uint8)
        self._offsets: I64 = np.zeros(512, np.int64)
        self._sizes: I32 = np.zeros((512, parts), np.int32)
        self._hashes: list[int] = []
        self._end = 0

    def __len__(self) -> int:
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
                at,
                out,
            )
            if at == len(out):
                return out
            texts = [bytes(buffer[s : s + n]) for s, n in zip(starts[:, at], lengths[:, at], strict=True)]
            self._add(texts, int(combined(hashes, at)))

    def _add(self, texts: list[bytes], hashed: int) -> None:
        row = len(self.names)
        joined = b"".join(texts)
        while self._end + len(joined) > len(self._arena):
            self._arena = np.concatenate([self._arena, np.zeros_like(self._arena)])
        if row == len(self._offsets):
            self._offsets = np.concatenate([self._offsets, np.zeros_like(self._offsets)])
            self._sizes = np.concatenate([self._sizes, np.zeros_like(self._sizes)])
        self._arena[self._end : self._end + len(joined)] = np.frombuffer(joined, np.uint8)
        self._offsets[row] = self._end
        self._sizes[row] = [len(text) for text in texts]
        self._end += len(joined)
        self.names.append(tuple(text.decode() for text in texts))
        self._hashes.append(hashed)
        if 2 * len(self.names) > len(self._table):
            self._table = np.zeros(2 * len(self._table), np.uint64)
            self._rows = np.zeros(len(self._table), np.int32)
            for known, other in enumerate(self._hashes):
                self._place(other, known)
        else:
            self._place(hashed, row)

    def _place(self, hashed: int, row: int) -> None:
        mask = len(self._table) - 1
        place = hashed >> 7 & mask
        while self._table[place]:
            place = place + 1 & mask
        self._table[place] = hashed
        self._rows[place] = row
