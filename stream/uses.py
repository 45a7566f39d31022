"""Rows for uses: what a tenant does with one feature on one model; as many as there is room for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64
from schemas.snapshot import BadCheckpoint, Snapshot, array

MOST_USES = 20_000
"""Of a partition: 172 MB of meters."""
FEATURE_BITS, MODEL_BITS = 11, 20


@njit(cache=True)
def find(calls, tenants, features, models, table, uses, used, most, rows):  # type: ignore[no-untyped-def]  # numba infers the types
    """Fill `rows` of the calls `calls` with the rows of their uses, -1 where there is no room.

    Returns how many uses there are then, and how many calls found no room.
    """
    mask = np.uint64(len(table) - 1)
    homeless = 0
    for c in range(len(calls)):
        i = calls[c]
        if models[i] >= 1 << MODEL_BITS or features[i] >= 1 << FEATURE_BITS:
            rows[i] = -1
            homeless += 1
            continue
        use = (np.int64(tenants[i]) << FEATURE_BITS | features[i]) << MODEL_BITS | models[i]
        place = (np.uint64(use) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
        while table[place] and uses[table[place] - 1] != use:
            place = (place + np.uint64(1)) & mask
        if not table[place]:
            if used == most:
                rows[i] = -1
                homeless += 1
                continue
            uses[used] = use
            used += 1
            table[place] = used
        rows[i] = table[place] - 1
    return used, homeless


@njit(cache=True)
def enter(uses, used, table):  # type: ignore[no-untyped-def]
    """Enter uses that differ from one another."""
    mask = np.uint64(len(table) - 1)
    for row in range(used):
        place = (np.uint64(uses[row]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
        while table[place]:
            place = (place + np.uint64(1)) & mask
        table[place] = row + 1


class Uses:
    """(Tenant, feature, model), by their rows in vocabularies, <-> rows 0, 1, 2 ... in the order of first appearance."""

    def __init__(self, most: int = MOST_USES) -> None:
        self._most = most
        self._uses: I64 = np.zeros(64, np.int64)
        self._table: I32 = np.zeros(128, np.int32)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def tenants(self) -> I64:
        """Of every row in use."""
        return self._uses[: self._used] >> FEATURE_BITS + MODEL_BITS

    def of(self, rows: I64) -> Iterator[tuple[int, int, int]]:
        """Tenant, feature and model of these rows."""
        for use in self._uses[rows].tolist():
            named = use >> MODEL_BITS
            yield named >> FEATURE_BITS, named & (1 << FEATURE_BITS) - 1, use & (1 << MODEL_BITS) - 1

    def rows(self, calls: I64, tenants: I32, features: I32, models: I32) -> tuple[I32, int]:
        """A column with the rows of the calls `calls`, -1 where there is no room for one more; and how many found none."""
        self._grow(min(self._used + len(calls), self._most))
        rows = np.full(len(tenants), -1, np.int32)
        table = self._table, self._uses, self._used, self._most
        self._used, homeless = find(calls, tenants, features, models, *table, rows)
        return rows, int(homeless)

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these, closed up."""
        kept = self._uses[: self._used][rows]
        self._uses[: len(kept)] = kept
        self._used = len(kept)
        self._index()

    def snapshot(self) -> Snapshot:
        return {"uses": self._uses[: self._used]}

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        if snapshot:
            self._uses = array(snapshot, "uses", np.int64, room=64)
            self._used = len(snapshot["uses"])
            if len(np.unique(self._uses[: self._used])) < self._used:
                raise BadCheckpoint("a use has two rows")
            self._grow(self._used)
            self._index()

    def _grow(self, uses: int) -> None:
        if uses > len(self._uses):
            self._uses = np.concatenate([self._uses, np.zeros(max(uses, 2 * len(self._uses)), np.int64)])
        if 2 * len(self._uses) > len(self._table):
            self._index()

    def _index(self) -> None:
        """Open addressing that is at most half full."""
        self._table = np.zeros(1 << (2 * len(self._uses) - 1).bit_length(), np.int32)
        enter(self._uses, self._used, self._table)
