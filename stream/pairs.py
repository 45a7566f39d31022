"""Rows for pairs of a tenant and one of its features or models, as many as there is room for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64
from schemas.snapshot import BadCheckpoint, Snapshot, array

MOST_PAIRS = 50_000
"""Of each kind and partition. Calls of a pair that finds no room are in their tenant's meters only."""


@njit(cache=True)
def find(calls, firsts, seconds, table, pairs, used, most, rows):  # type: ignore[no-untyped-def]  # numba infers the types
    """Fill `rows` of the calls `calls` with the rows of their pairs, -1 where the second is below 0 and for no room.

    Returns how many pairs there are then, and how many calls found no room.
    """
    mask = np.uint64(len(table) - 1)
    homeless = 0
    for c in range(len(calls)):
        i = calls[c]
        rows[i] = -1
        if seconds[i] < 0:
            continue
        pair = np.int64(firsts[i]) << 32 | seconds[i]
        place = (np.uint64(pair) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
        while table[place] and pairs[table[place] - 1] != pair:
            place = (place + np.uint64(1)) & mask
        if not table[place]:
            if used == most:
                homeless += 1
                continue
            pairs[used] = pair
            used += 1
            table[place] = used
        rows[i] = table[place] - 1
    return used, homeless


class Pairs:
    """Pairs of rows of two vocabularies <-> rows 0, 1, 2 ... in the order of first appearance."""

    def __init__(self, most: int = MOST_PAIRS) -> None:
        self._most = most
        self._pairs: I64 = np.zeros(64, np.int64)
        self._table: I32 = np.zeros(128, np.int32)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def firsts(self) -> I64:
        """Of every row in use."""
        return self._pairs[: self._used] >> 32

    def of(self, rows: I64) -> Iterator[tuple[int, int]]:
        """The pairs of these rows."""
        return ((pair >> 32, pair & 0xFFFFFFFF) for pair in self._pairs[rows].tolist())

    def rows(self, calls: I64, firsts: I32, seconds: I32) -> tuple[I32, int]:
        """A column of rows, set for the calls `calls`: -1 where the second is below 0 or there is no room.

        And how many found no room.
        """
        self._grow(min(self._used + len(calls), self._most))
        rows = np.full(len(firsts), -1, np.int32)
        self._used, homeless = find(calls, firsts, seconds, self._table, self._pairs, self._used, self._most, rows)
        return rows, int(homeless)

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these, closed up."""
        kept = self._pairs[: self._used][rows]
        self._pairs[: len(kept)] = kept
        self._used = len(kept)
        self._index()

    def snapshot(self) -> Snapshot:
        return {"pairs": self._pairs[: self._used]}

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        if snapshot:
            self._pairs = array(snapshot, "pairs", np.int64, room=64)
            self._used = len(snapshot["pairs"])
            if len(np.unique(self._pairs[: self._used])) < self._used:
                raise BadCheckpoint("a pair has two rows")
            self._grow(self._used)
            self._index()

    def _grow(self, pairs: int) -> None:
        if pairs > len(self._pairs):
            self._pairs = np.concatenate([self._pairs, np.zeros(max(pairs, 2 * len(self._pairs)), np.int64)])
        if 2 * len(self._pairs) > len(self._table):
            self._index()

    def _index(self) -> None:
        """Open addressing that is at most half full."""
        self._table = np.zeros(1 << (2 * len(self._pairs) - 1).bit_length(), np.int32)
        _enter(self._pairs, self._used, self._table)


@njit(cache=True)
def _enter(pairs, used, table):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for row in range(used):
        place = (np.uint64(pairs[row]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
        while table[place]:
            place = (place + np.uint64(1)) & mask
        table[place] = row + 1
