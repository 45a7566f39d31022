"""How calls went, per row: success, errors by class, fallbacks, retries, latency; over 5 min, 1 h and 24 h."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, Ms
from stream.columns import Column, Columns
from stream.measures import FIRST_HEALTH, HAPPENED, OF_A_CALL
from stream.windows import DAY, HOUR, MINUTE, NEVER, U32_MAX

SPANS: tuple[Ms, ...] = (5 * MINUTE, HOUR, DAY)
PLACES = 2 * len(SPANS)
"""Of each span the slot of now and the one before it."""


@njit(cache=True)
def place_of(counts, amounts, head, row, span, index):  # type: ignore[no-untyped-def]  # numba infers the types
    """The place of absolute slot `index`, begun empty if it is new; -1 where it is over for longer than a slot."""
    newest = head[row, span]
    if index > newest:
        for s in range(max(index - 1, newest + 1), index + 1):
            counts[row, 2 * span + s % 2, :] = 0
            amounts[row, 2 * span + s % 2, :] = 0
        head[row, span] = index
    elif index < newest - 1:
        return -1
    return 2 * span + index % 2


@njit(cache=True)
def add_sums(counts, amounts, head, first, which, rows, at, sums):  # type: ignore[no-untyped-def]
    """Add the sums `which` to their rows (below 0: to none), each where `at` (Ms) lies; counts saturate at u32."""
    split = first + counts.shape[2]
    for w in range(len(which)):
        i = which[w]
        if rows[i] < 0:
            continue
        for span in range(len(SPANS)):
            place = place_of(counts, amounts, head, rows[i], span, at[i] // SPANS[span])
            if place >= 0:
                count = counts[rows[i], place]
                for c in range(len(count)):
                    count[c] = min(count[c] + sums[i, first + c], U32_MAX)
                amount = amounts[rows[i], place]
                for a in range(len(amount)):
                    amount[a] += sums[i, split + a]


@njit(cache=True)
def raise_sums(counts, amounts, head, rows, spans, slots, values):  # type: ignore[no-untyped-def]
    """Raise each named slot to its absolute values; those that are over are dropped."""
    split = counts.shape[2]
    for i in range(len(rows)):
        place = place_of(counts, amounts, head, rows[i], spans[i], slots[i])
        if place >= 0:
            for c in range(split):
                counts[rows[i], place, c] = max(counts[rows[i], place, c], min(values[i, c], U32_MAX))
            for a in range(amounts.shape[2]):
                amounts[rows[i], place, a] = max(amounts[rows[i], place, a], values[i, split + a])


class Health(Columns):
    """Sums of measures of a call: for a key those of HEALTH (600 bytes a row), `whole` all of them (1.2 KB).

    `counts` u32 and `amounts` int64 (rows x 6 places). A window of a span is the slot that `at` lies in and the whole one
    before it.
    """

    counts: NDArray[np.uint32]
    amounts: I64
    head: I64

    def __init__(self, whole: bool = False, capacity: int = 64) -> None:
        self.first = 0 if whole else FIRST_HEALTH
        self.width = OF_A_CALL - self.first
        happened = 0 if whole else len(HAPPENED)
        columns = {
            "counts": Column(np.uint32, (PLACES, happened)),
            "amounts": Column(np.int64, (PLACES, self.width - happened)),
            "head": Column(np.int64, (len(SPANS),), NEVER),
        }
        super().__init__(columns, capacity)

    def add(self, which: I64, rows: I32 | I64, at: I64, sums: I64) -> None:
        """Add the sums `which` (places in the columns; sums x MEASURES) to `rows` (below 0: to none), at `at` (Ms)."""
        add_sums(self.counts, self.amounts, self.head, self.first, which, rows, at, sums)

    def window(self, rows: I32 | I64, span: Ms, at: Ms) -> I64:
        """The measures over a span of SPANS, as of `at`: rows x measures."""
        s = SPANS.index(span)
        found = np.zeros((len(rows), self.width), np.int64)
        split = self.counts.shape[2]
        for index in (at // span, at // span - 1):
            there = (self.head[rows, s] == index) | (self.head[rows, s] == index + 1)
            place = 2 * s + index % 2
            found[there, :split] += self.counts[rows[there], place]
            found[there, split:] += self.amounts[rows[there], place]
        return found

    def standing(self, rows: I64) -> tuple[I64, ...]:
        """All slots of `rows` that hold anything: the place in `rows`, span, absolute slot, and then every measure."""
        held = np.concatenate([self.counts[rows], self.amounts[rows]], axis=2)
        row, place = np.nonzero(held.any(axis=2))
        newest = self.head[rows[row], place // 2]
        return row, place // 2, newest - (newest - place) % 2, *held[row, place].T

    def unite(self, rows: I64, spans: I64, slots: I64, values: I64) -> None:
        """Take in what `standing` said of other rows."""
        raise_sums(self.counts, self.amounts, self.head, rows, spans, slots, values)
