"""What each session (or task) of a key has come to: calls, retries, dollars; the newest ones, in bounded memory."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, U64
from schemas.snapshot import BadCheckpoint, Snapshot, number, of_numbers, records
from stream.measures import RETRIES, USD

WAYS = 8
SETS = 8_192
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
def add_calls(table, calls, sessions, keys, ts, sums):  # type: ignore[no-untyped-def]  # numba infers the types
    """Add the calls `calls` (places in the columns) to their sessions. Returns how many sessions were forgotten for it.

    A session can be in WAYS places of its set. Where all are taken, the one whose last call is longest ago gives way.
    """
    forgotten = 0
    for c in range(len(calls)):
        i = calls[c]
        if not sessions[i]:
            continue
        mixed = (sessions[i] ^ np.uint64(keys[i]) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xC2B2AE3D27D4EB4F)
        first = np.int64(mixed >> np.uint64(32)) % SETS * WAYS
        place = first
        known = False
        for way in range(first, first + WAYS):
            held = table[way]
            if held.calls and held.session == sessions[i] and held.key == keys[i]:
                place = np.int64(way)
                known = True
                break
            if held.last < table[place].last:
                place = np.int64(way)
        held = table[place]
        if not known:
            forgotten += held.calls > 0
            held.session = sessions[i]
            held.key = keys[i]
            held.first = ts[i]
            held.last = ts[i]
            held.calls = 0
            held.retries = 0
            held.usd = 0
        held.calls += 1
        held.retries += sums[i, RETRIES]
        held.usd += sums[i, USD]
        held.first = min(held.first, ts[i])
        held.last = max(held.last, ts[i])
    return forgotten


class Sessions:
    """The sessions seen last, at most SETS x WAYS of a partition (3.7 MB)."""

    def __init__(self) -> None:
        self._table = np.zeros(SETS * WAYS, SESSION)
        self.forgotten = 0

    def add(self, calls: I64, sessions: U64, keys: I32, ts: I64, sums: I64) -> None:
        """The calls `calls` (places in the columns) happened at `ts`; a session of 0 is none."""
        self.forgotten += int(add_calls(self._table, calls, sessions, keys, ts, sums))

    def of(self, key: int) -> NDArray[np.void]:
        """The sessions of a key's row as records of SESSION, dearest first."""
        found: NDArray[np.void] = self._table[(self._table["key"] == key) & (self._table["calls"] > 0)]
        dearest: NDArray[np.void] = found[np.argsort(-found["usd"], kind="stable")]
        return dearest

    def forget(self, keys: I64) -> None:
        """The sessions of these keys leave."""
        self._table[np.isin(self._table["key"], keys) & (self._table["calls"] > 0)] = 0

    def snapshot(self) -> Snapshot:
        used = np.flatnonzero(self._table["calls"])
        return {"sessions": self._table[used], "place": used} | of_numbers(forgotten=self.forgotten)

    def restore(self, snapshot: Snapshot) -> None:
        """A checkpoint that does not know them leaves none. Raises BadCheckpoint."""
        kept, places = records(snapshot, "sessions", SESSION), snapshot.get("place", np.empty(0, np.int64))
        if len(places) != len(kept) or (len(places) and not 0 <= places.min() <= places.max() < len(self._table)):
            raise BadCheckpoint("the sessions do not lie in their table")
        self._table[places] = kept
        self.forgotten = number(snapshot, "forgotten", default=0)
