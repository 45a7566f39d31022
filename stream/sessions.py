"""What each session (or task) of a key has come to: calls, retries, dollars; the newest ones, in bounded memory."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, U64
from schemas.snapshot import BadCheckpoint, Snapshot, records
from stream.measures import RETRIES, USD

WAYS, SETS = 8, 1 << 13
SESSION = np.dtype(
    [
        ("session", np.uint64),
        ("key", np.int64),
        ("first", np.int64),
        ("last", np.int64),
        ("calls", np.int64),
        ("retries", np.int64),
        ("usd", np.int64),
    ]
)
"""56 bytes: the session's hash and its key's row; its first and last call (ts in Ms); nano-dollars. A free place is all 0."""


@njit(cache=True)
def add_calls(tags, table, calls, sessions, keys, ts, sums):  # type: ignore[no-untyped-def]  # numba infers the types
    """Add the calls `calls` (places in the columns) to their sessions. Returns how many sessions were forgotten for it.

    A session can be in WAYS places of its set. Where all are taken, the one whose last call is longest ago gives way.
    """
    forgotten = 0
    for c in range(len(calls)):
        i = calls[c]
        if not sessions[i]:
            continue
        tag = tag_of(sessions[i], keys[i])
        first = np.int64(tag >> np.uint64(64 - 13)) * WAYS
        place = np.int64(-1)
        for way in range(WAYS):
            if tags[first + way] == tag:
                place = first + way
        if place < 0:
            place = first
            for way in range(first, first + WAYS):
                if table[way].last < table[place].last:
                    place = np.int64(way)
            forgotten += table[place].calls > 0
            tags[place] = tag
            table[place].session = sessions[i]
            table[place].key = keys[i]
            table[place].first = ts[i]
            table[place].last = ts[i]
            table[place].calls = 0
            table[place].retries = 0
            table[place].usd = 0
        held = table[place]
        held.calls += 1
        held.retries += sums[i, RETRIES]
        held.usd += sums[i, USD]
        held.first = min(held.first, ts[i])
        held.last = max(held.last, ts[i])
    return forgotten


@njit(cache=True, inline="always")
def tag_of(session, key):  # type: ignore[no-untyped-def]
    """One number for a session of a key; never 0. Its highest bits name the set."""
    mixed = (session ^ np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ mixed >> np.uint64(29)) * np.uint64(0x165667B19E3779F9) | np.uint64(1)


@njit(cache=True)
def tag_all(table, places, tags):  # type: ignore[no-untyped-def]
    for place in places:
        tags[place] = tag_of(table[place].session, table[place].key)


class Sessions:
    """The sessions seen last, at most SETS x WAYS of a partition (3.7 MB)."""

    def __init__(self) -> None:
        self._tags = np.zeros(SETS * WAYS, np.uint64)
        self._table = np.zeros(SETS * WAYS, SESSION)

    def add(self, calls: I64, sessions: U64, keys: I32, ts: I64, sums: I64) -> int:
        """The calls `calls` (places in the columns) happened at `ts`; a session of 0 is none.

        Returns how many sessions were forgotten for it.
        """
        return int(add_calls(self._tags, self._table, calls, sessions, keys, ts, sums))

    def of(self, key: int) -> NDArray[np.void]:
        """The sessions of a key's row as records of SESSION, dearest first."""
        found: NDArray[np.void] = self._table[(self._table["key"] == key) & (self._table["calls"] > 0)]
        dearest: NDArray[np.void] = found[np.argsort(-found["usd"], kind="stable")]
        return dearest

    def forget(self, keys: I32) -> None:
        """The sessions of these keys leave."""
        gone = np.isin(self._table["key"], keys) & (self._table["calls"] > 0)
        self._table[gone], self._tags[gone] = 0, 0

    def snapshot(self) -> Snapshot:
        used = np.flatnonzero(self._table["calls"])
        return {"sessions": self._table[used], "place": used}

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        kept, places = records(snapshot, "sessions", SESSION), snapshot.get("place", np.empty(0, np.int64))
        if len(places) != len(kept) or (len(places) and not 0 <= places.min() <= places.max() < len(self._table)):
            raise BadCheckpoint("the sessions do not lie in their table")
        self._table[places] = kept
        tag_all(self._table, places, self._tags)
