"""The window of event ids in which a producer's duplicate is known as one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I64, U64

NEWEST_IDS = 2**20


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


class SeenIds:
    """The newest `size` event ids (64-bit hashes; size is a power of two), first come first forgotten."""

    def __init__(self, size: int = NEWEST_IDS) -> None:
        if size & (size - 1):
            raise ValueError(f"the dedupe window must be a power of two, not {size}")
        self._table: U64 = np.zeros(2 * size, np.uint64)
        self._full = np.zeros(2 * size, np.bool_)
        self._ring: U64 = np.zeros(size, np.uint64)
        self._state: I64 = np.zeros(1, np.int64)

    def first_seen(self, event: U64) -> NDArray[np.bool_]:
        """For each row: is this the first time that the window sees its id?"""
        fresh = np.empty(len(event), np.bool_)
        _first_seen(event, self._table, self._full, self._ring, self._state, fresh)
        return fresh


class NoDedupe(SeenIds):
    """The null protection, for the test that shows what it protects from."""

    def first_seen(self, event: U64) -> NDArray[np.bool_]:
        return np.ones(len(event), np.bool_)
