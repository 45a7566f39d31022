"""How many distinct users, addresses, sessions and fingerprints a row had, over any whole minutes of the last 48 hours.

A timestamp vector (Kim & O'Hallaron, Counting Network Flows in Real Time, 2003) over a multiresolution bitmap (Estan,
Varghese & Fisk, Bitmap Algorithms for Counting Active Flows, 2003): an item's hash names one place, and the place keeps
the minute in which an item of it was last seen. Minutes only grow, so the order of calls, late ones and repeats change
nothing, several partitions' places unite by the larger, and every window is read from the same places. How many items
there were is the likeliest number given which places were hit.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import F64, I32, I64, U64, Ms
from stream.columns import Column, Columns
from stream.windows import DAY, MINUTE, NEVER

KINDS = ("users", "addresses", "sessions", "fingerprints")
BLOCKS = 8
"""Half of all items belong to the first block, a quarter to the second, and so on; the last has the rest."""
FEW, MANY = 6, 48
"""Places of a block: for a key (48 of each kind, 400 bytes a row) and for a tenant or a feature (384 of each kind)."""
TURN = 65_535
"""A place holds its minute modulo TURN, plus one; 0 is never."""
REACH = 2 * DAY // MINUTE
"""Of the sums of 24 hours too, which are those of the day and of the whole one before."""
AT_ONCE = 64
TIDY = 4_096
"""Minutes after which at the latest what is older than REACH leaves a row in use: long before TURN takes it for new."""


BLOCK = np.array(
    [min((bits & -bits).bit_length() - 1, BLOCKS - 1) if bits else BLOCKS - 1 for bits in range(1 << BLOCKS - 1)]
)
"""By an item's lowest bits: how often they are 0 before the first 1."""


@njit(cache=True, inline="always")
def place_of(item, few):  # type: ignore[no-untyped-def]  # numba infers the types
    """The place of a 64-bit hash: its lowest bits name the block, its high bits the place there."""
    block = BLOCK[item & np.uint64((1 << BLOCKS - 1) - 1)]
    return block * few + np.int64((item >> np.uint64(32)) * np.uint64(few) >> np.uint64(32))


@njit(cache=True, inline="always")
def reach(seen, head, row, minute):  # type: ignore[no-untyped-def]
    """Let the row's newest minute be at least `minute`. Returns whether the row still reaches back to it."""
    newest = head[row]
    if minute > newest:
        if minute - newest > REACH:
            seen[row, :] = 0
        elif minute // TIDY != newest // TIDY:
            for place in range(seen.shape[1]):
                if seen[row, place] and (newest - (np.int64(seen[row, place]) - 1)) % TURN > REACH:
                    seen[row, place] = 0
        head[row] = minute
    return minute > head[row] - REACH


@njit(cache=True, inline="always")
def see_at(seen, head, row, place, minute, number):  # type: ignore[no-untyped-def]
    """The place was hit in that minute, which the row reaches and whose number is `number`."""
    was = np.int64(seen[row, place])
    if was != number and (was == 0 or (head[row] - (was - 1)) % TURN > head[row] - minute):
        seen[row, place] = number


@njit(cache=True)
def see(seen, head, few, calls, rows, ts, items):  # type: ignore[no-untyped-def]
    """The calls `calls` of `rows` happened at `ts` (Ms); `items` are the hashes of each kind, 0 where unknown.

    The places of AT_ONCE calls are looked at before the first is written, so that they come from memory together.
    """
    places = np.empty((AT_ONCE, len(KINDS)), np.int64)
    looked = np.int64(0)
    for lo in range(0, len(calls), AT_ONCE):
        n = min(AT_ONCE, len(calls) - lo)
        for kind in range(len(KINDS)):
            item = items[kind]
            for j in range(n):
                i = calls[lo + j]
                place = place_of(item[i], few) * len(KINDS) + kind if item[i] else -1
                places[j, kind] = place
                looked += seen[max(rows[i], 0), max(place, 0)]
        for j in range(n):
            i = calls[lo + j]
            row = rows[i]
            minute = ts[i] // 60_000
            if row >= 0 and reach(seen, head, row, minute):
                number = minute % TURN + 1
                for kind in range(len(KINDS)):
                    if places[j, kind] >= 0:
                        see_at(seen, head, row, places[j, kind], minute, number)
    return looked


@njit(cache=True)
def see_places(seen, head, rows, places, minutes):  # type: ignore[no-untyped-def]
    """As `see`, for what another partition's rows were said to hold."""
    for i in range(len(rows)):
        if reach(seen, head, rows[i], minutes[i]):
            see_at(seen, head, rows[i], places[i], minutes[i], minutes[i] % TURN + 1)


@njit(cache=True)
def likeliest(hits, few):  # type: ignore[no-untyped-def]
    """The number of distinct items under which so many places of each block are hit.

    A place of probability p is hit by n items with 1 - exp(-n p): the maximum of the likelihood is where the sum of
    p / (exp(n p) - 1) over the places hit equals the sum of p over the others. Found by bisection in log n.
    """
    others = 0.0
    any_hit = False
    for block in range(BLOCKS):
        p = 0.5 ** min(block + 1, BLOCKS - 1) / few
        others += (few - hits[block]) * p
        any_hit = any_hit or hits[block] > 0
    if not any_hit:
        return 0.0
    low, high = 0.0, np.log2(few << BLOCKS + 2)
    for _ in range(30):
        mid = (low + high) / 2
        n = 2.0**mid
        pull = 0.0
        for block in range(BLOCKS):
            p = 0.5 ** min(block + 1, BLOCKS - 1) / few
            if hits[block]:
                pull += hits[block] * p / np.expm1(n * p)
        if pull > others:
            low = mid
        else:
            high = mid
    return 2.0**low


@njit(cache=True)
def count(seen, head, few, rows, first, last, out):  # type: ignore[no-untyped-def]
    """Fill `out` (rows x kinds) with how many were seen in the minutes first..last."""
    hits = np.empty(BLOCKS, np.int64)
    for i in range(len(rows)):
        row = rows[i]
        for kind in range(len(KINDS)):
            hits[:] = 0
            for place in range(BLOCKS * few):
                held = np.int64(seen[row, place * len(KINDS) + kind])
                if held:
                    minute = head[row] - (head[row] - (held - 1)) % TURN
                    hits[place // few] += first <= minute <= last
            out[i, kind] = likeliest(hits, few)


class Distinct(Columns):
    """`seen` u16 (rows x BLOCKS x places of a block x 4 kinds: what most calls hit lies together), `head` the newest minute
    of a row (int64)."""

    seen: NDArray[np.uint16]
    head: I64

    def __init__(self, few: int = FEW, capacity: int = 64) -> None:
        self.few = few
        columns = {
            "seen": Column(np.uint16, (len(KINDS) * BLOCKS * few,)),
            "head": Column(np.int64, (), NEVER),
        }
        super().__init__(columns, capacity)

    def add(self, calls: I64, rows: I32, ts: I64, items: tuple[U64, U64, U64, U64]) -> None:
        """The calls `calls` (places in the columns) were of `rows` (below 0: of none), at `ts`, with these KINDS."""
        see(self.seen, self.head, self.few, calls, rows, ts, items)

    def count(self, rows: I32 | I64, window: Ms, at: Ms) -> F64:
        """How many of each kind in the whole minutes of the window that ends with `at`'s minute: rows x 4."""
        out = np.empty((len(rows), len(KINDS)))
        last = at // MINUTE
        count(self.seen, self.head, self.few, rows, last - window // MINUTE + 1, last, out)
        return out

    def standing(self, rows: I64) -> tuple[I64, I64, I64]:
        """All places of `rows` that were hit within reach: the place in `rows`, the place, and the minute."""
        row, place = np.nonzero(self.seen[rows])
        newest = self.head[rows[row]]
        minute = newest - (newest - (self.seen[rows[row], place].astype(np.int64) - 1)) % TURN
        near = minute > newest - REACH
        return row[near], place[near], minute[near]

    def unite(self, rows: I64, places: I64, minutes: I64) -> None:
        """Take in what `standing` said of other rows."""
        see_places(self.seen, self.head, rows, places, minutes)
