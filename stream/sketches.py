"""How large calls are: quantiles of tokens per call and dollars per call, over 1 h and 24 h.

Counts per logarithmic bucket, as DDSketch has them (Masson, Rim & Lee, DDSketch, VLDB 2019), with the buckets of the
library that reads them. Counts only grow, and neither the order of calls nor how they are cut changes them.
"""

from __future__ import annotations

import math

import numpy as np
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import CubicallyInterpolatedMapping as Mapping
from ddsketch.store import DenseStore
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, Ms
from stream.columns import Column, Columns
from stream.windows import DAY, HOUR, NEVER, U32_MAX

WHAT = ("tokens", "nano_usd")
SPANS: tuple[Ms, ...] = (HOUR, DAY)
ACCURACY = 0.1
"""A quantile is at most so much off, relatively."""
MAPPING = Mapping(ACCURACY)
MULTIPLIER = MAPPING._multiplier
BUCKETS = 128
FIRST = np.array([0, 25])
"""The library's key of bucket 1: of one token, and of some 150 nano-dollars. Bucket 0 are zeros; what is smaller than
bucket 1 or larger than bucket 127 (10**10 tokens, $10,000) is counted there."""
AT_ONCE = 64
PLACES = 2 * len(SPANS)
"""Of each span the slot of now and the one before it."""


@njit(cache=True)
def bucket_of(value, first):  # type: ignore[no-untyped-def]  # numba infers the types
    """The bucket of a count or an amount: CubicallyInterpolatedMapping of ddsketch."""
    if value <= 0:
        return 0
    mantissa, exponent = math.frexp(float(value))
    s = 2.0 * mantissa - 1.0
    log2 = ((6.0 / 35.0 * s + -3.0 / 5.0) * s + 10.0 / 7.0) * s + (exponent - 1)
    key = np.int64(math.ceil(log2 * MULTIPLIER))
    return min(max(key - first + 1, 1), BUCKETS - 1)


@njit(cache=True)
def begin(counts, head, row, span, index):  # type: ignore[no-untyped-def]
    """Whether the row reaches absolute slot `index` of a span, which is begun empty if it is new."""
    newest = head[row, span]
    if index > newest:
        for s in range(max(index - 1, newest + 1), index + 1):
            counts[row, :, :, 2 * span + s % 2] = 0
        head[row, span] = index
    return index >= head[row, span] - 1


@njit(cache=True)
def add_calls(counts, head, calls, rows, ts, tokens, usd):  # type: ignore[no-untyped-def]
    """Count the calls `calls` (places in the columns) of `rows`, below 0: of none.

    The counts of AT_ONCE calls are looked at before the first is written, so that they come from memory together.
    """
    buckets = np.empty((AT_ONCE, len(WHAT)), np.int64)
    looked = np.int64(0)
    for lo in range(0, len(calls), AT_ONCE):
        n = min(AT_ONCE, len(calls) - lo)
        for j in range(n):
            i = calls[lo + j]
            row = max(rows[i], 0)
            buckets[j, 0] = bucket_of(tokens[i], FIRST[0])
            buckets[j, 1] = bucket_of(usd[i], FIRST[1])
            looked += counts[row, 0, buckets[j, 0], 0] + counts[row, 1, buckets[j, 1], 0]
        for j in range(n):
            i = calls[lo + j]
            row = rows[i]
            if row < 0:
                continue
            hour = ts[i] // 3_600_000
            for span, index in enumerate((hour, hour // 24)):
                if begin(counts, head, row, span, index):
                    for what in range(len(WHAT)):
                        held = counts[row, what, buckets[j, what]]
                        held[2 * span + index % 2] = min(held[2 * span + index % 2] + 1, U32_MAX)
    return looked


@njit(cache=True)
def raise_counts(counts, head, rows, whats, places, slots, buckets, values):  # type: ignore[no-untyped-def]
    """Raise each named count to its absolute value; what is over is dropped."""
    for i in range(len(rows)):
        if begin(counts, head, rows[i], places[i] // 2, slots[i]):
            held = counts[rows[i], whats[i], buckets[i]]
            held[places[i]] = max(held[places[i]], values[i])


class Sketches(Columns):
    """`counts` u32 (rows x 2 whats x 128 buckets x 4 places; 4 KB a row), `head` the newest slot of a span."""

    counts: NDArray[np.uint32]
    head: I64

    def __init__(self, capacity: int = 64) -> None:
        columns = {
            "counts": Column(np.uint32, (len(WHAT), BUCKETS, PLACES)),
            "head": Column(np.int64, (len(SPANS),), NEVER),
        }
        super().__init__(columns, capacity)

    def add(self, calls: I64, rows: I32, ts: I64, tokens: I64, usd: I64) -> None:
        """The calls `calls` (places in the columns) were of `rows` (below 0: of none)."""
        add_calls(self.counts, self.head, calls, rows, ts, tokens, usd)

    def window(self, row: int, what: str, span: Ms, at: Ms) -> I64:
        """Calls per bucket over the slot that `at` lies in and the whole one before it."""
        s = SPANS.index(span)
        found = np.zeros(BUCKETS, np.int64)
        for index in (at // span, at // span - 1):
            if index <= self.head[row, s] <= index + 1:
                found += self.counts[row, WHAT.index(what), :, 2 * s + index % 2]
        return found

    def standing(self, rows: I64) -> tuple[I64, ...]:
        """All counts of `rows` above 0: the place in `rows`, what, the place there, the absolute slot, bucket and count."""
        held = self.counts[rows]
        row, what, bucket, place = np.nonzero(held)
        newest = self.head[rows[row], place // 2]
        return row, what, place, newest - (newest - place) % 2, bucket, held[row, what, bucket, place].astype(np.int64)

    def unite(self, rows: I64, whats: I64, places: I64, slots: I64, buckets: I64, values: I64) -> None:
        """Take in what `standing` said of other rows."""
        raise_counts(self.counts, self.head, rows, whats, places, slots, buckets, values)


def quantile(counts: I64, what: str, q: float) -> float | None:
    """The value (tokens or nano-dollars) that a share q of the calls do not exceed; None where there are none."""
    store, first = DenseStore(), int(FIRST[WHAT.index(what)])
    for bucket in np.flatnonzero(counts[1:]).tolist():
        store.add(bucket + first, float(counts[bucket + 1]))
    found: float | None = BaseDDSketch(MAPPING, store, DenseStore(), float(counts[0])).get_quantile_value(q)
    return found
