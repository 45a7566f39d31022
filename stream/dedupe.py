"""The window of event ids in which a producer's duplicate is known as one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I64, U64
from schemas.snapshot import Snapshot, array, number

NEWEST_IDS = 2**20
MOST_IDS = 2**26
"""How far the window of a whole file may grow: 1.9 GB."""


@njit(cache=True)
def _first_seen(event, table, full, ring, state, fresh):  # type: ignore[no-untyped-def]  # numba infers the types
    """Mark the rows whose id is not in the window, and let the window move on; state = (ids ever seen,)."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(event)):
        h = event[i]
        place = h & mask
        known = False
        while full[place]:
            if table[place] == h:
                known = True
                break
            place = (place + np.uint64(1)) & mask
        fresh[i] = not known
        if known:
            continue
        table[place] = h
        full[place] = True
        turn = state[0] % len(ring)
        if state[0] >= len(ring):
            _forget(ring[turn], table, full, mask)
        ring[turn] = h
        state[0] += 1


@njit(cache=True)
def _forget(h, table, full, mask):  # type: ignore[no-untyped-def]
    """Delete from open addressing without tombstones: shift back what a gap would hide (Knuth 6.4, algorithm R)."""
    one = np.uint64(1)
    gap = h & mask
    while table[gap] != h or not full[gap]:
        gap = (gap + one) & mask
    look = gap
    while True:
        look = (look + one) & mask
        if not full[look]:
            break
        home = table[look] & mask
        if ((look - home) & mask) >= ((look - gap) & mask):
            table[gap] = table[look]
            gap = look
    full[gap] = False


@njit(cache=True)
def _enter(ids, table, full):  # type: ignore[no-untyped-def]
    """Enter ids that differ from one another."""
    mask = np.uint64(len(table) - 1)
    for h in ids:
        place = h & mask
        while full[place]:
            place = (place + np.uint64(1)) & mask
        table[place] = h
        full[place] = True


class SeenIds:
    """The newest `size` event ids (64-bit hashes; size is a power of two), first come first forgotten.

    With `most` (a power of two as well) the window grows before it forgets, and forgets when it holds so many.
    """

    def __init__(self, size: int = NEWEST_IDS, most: int | None = None) -> None:
        if size & (size - 1) or (most or 1) & ((most or 1) - 1):
            raise ValueError(f"the dedupe window must be a power of two, not {size} or {most}")
        self._most = most or size
        self._make(size)

    def _make(self, size: int) -> None:
        self._table: U64 = np.zeros(2 * size, np.uint64)
        self._full = np.zeros(2 * size, np.bool_)
        self._ring: U64 = np.zeros(size, np.uint64)
        self._state: I64 = np.zeros(1, np.int64)

    def first_seen(self, event: U64) -> NDArray[np.bool_]:
        """For each row: is this the first time that the window sees its id?"""
        while len(self._ring) < min(self._most, int(self._state[0]) + len(event)):
            before = self.snapshot()
            self._make(2 * len(self._ring))
            self.restore(before)
        fresh = np.empty(len(event), np.bool_)
        _first_seen(event, self._table, self._full, self._ring, self._state, fresh)
        return fresh

    def snapshot(self) -> Snapshot:
        """`ring` is the part in use, `seen` how many ids there ever were: the oldest is `ring[seen % len(ring)]`."""
        return {"ring": self._ring[: min(int(self._state[0]), len(self._ring))], "seen": self._state}

    def restore(self, snapshot: Snapshot) -> None:
        """A window of another size keeps its newest ids. Raises BadCheckpoint."""
        ring, seen = array(snapshot, "ring", np.uint64), number(snapshot, "seen")
        if len(ring):
            ring = np.roll(ring, -(seen % len(ring)))[-len(self._ring) :]
        self._ring[: len(ring)] = ring
        self._state[0] = len(ring)
        self._full[:] = False
        _enter(ring, self._table, self._full)


class NoDedupe(SeenIds):
    """The null protection, for the test that shows what it protects from."""

    def first_seen(self, event: U64) -> NDArray[np.bool_]:
        return np.ones(len(event), np.bool_)
