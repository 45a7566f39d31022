"""How calls went, per row: success, errors by class, fallbacks, retries, latency; over 5 min, 1 h and 24 h."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.batch import I32, I64, Ms
from stream.columns import Column, Columns
from stream.measures import FIRST_HEALTH, HAPPENED, OF_A_CALL
from stream.windows import DAY, HOUR, MINUTE, NEVER, U32_MAX

AT_ONCE = 64
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
def add_to_slots(counts, amounts, head, row, five, sums):  # type: ignore[no-untyped-def]
    """Add sums of the 5 minutes `five` to the row's slot of every span; counts saturate at u32."""
    split = counts.shape[2]
    for span, index in enumerate((five, five // 12, five // 288)):
        place = place_of(counts, amounts, head, row, span, index)
        if place >= 0:
            for c in range(split):
                counts[row, place, c] = min(counts[row, place, c] + sums[c], U32_MAX)
            for a in range(amounts.shape[2]):
                amounts[row, place, a] += sums[split + a]


@njit(cache=True)
def add_sums(counts, amounts, head, now, open_now, first, which, rows, at, sums):  # type: ignore[no-untyped-def]
    """Add the sums `which` to their rows (below 0: to none), each where `at` (Ms) lies.

    What belongs to the newest 5 minutes of a row gathers in `now`, so that most calls are added once; it goes to the slots
    when the next 5 minutes begin. The rows of AT_ONCE calls are looked at before the first is added to, so that they come
    from memory together.
    """
    width = now.shape[1]
    looked = np.int64(0)
    for w in range(len(which)):
        if w % AT_ONCE == 0:
            for ahead in range(w, min(w + AT_ONCE, len(which))):
                row = max(rows[which[ahead]], 0)
                looked += open_now[row] + now[row, 0] + now[row, width // 2] + now[row, width - 1]
        i = which[w]
        row = rows[i]
        if row < 0:
            continue
        five = at[i] // 300_000
        if five < open_now[row]:
            add_to_slots(counts, amounts, head, row, five, sums[i, first:])
            continue
        if five > open_now[row]:
            if open_now[row] >= 0:
                add_to_slots(counts, amounts, head, row, open_now[row], now[row])
            open_now[row] = five
            now[row, :] = 0
        gathered, more = now[row], sums[i]
        for m in range(width):
            gathered[m] += more[first + m]
    return looked


@njit(cache=True)
def settle(counts, amounts, head, now, open_now, rows):  # type: ignore[no-untyped-def]
    """Let what has gathered in `now` go to the slots of these rows."""
    for r in range(len(rows)):
        row = rows[r]
        if open_now[row] >= 0:
            add_to_slots(counts, amounts, head, row, open_now[row], now[row])
            now[row, :] = 0


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
    """Sums of measures of a call: for a key those of HEALTH (744 bytes a row), `whole` all of them (1.4 KB).

    `counts` u32 and `amounts` int64 (rows x 6 places). A window of a span is the slot that `at` lies in and the whole one
    before it.
    """

    counts: NDArray[np.uint32]
    amounts: I64
    head: I64
    now: I64
    open_now: I64

    def __init__(self, whole: bool = False, capacity: int = 64) -> None:
        self.first = 0 if whole else FIRST_HEALTH
        self.width = OF_A_CALL - self.first
        happened = 0 if whole else len(HAPPENED)
        columns = {
            "counts": Column(np.uint32, (PLACES, happened)),
            "amounts": Column(np.int64, (PLACES, self.width - happened)),
            "head": Column(np.int64, (len(SPANS),), NEVER),
            "now": Column(np.int64, (self.width,)),
            "open_now": Column(np.int64, (), NEVER),
        }
        super().__init__(columns, capacity)

    def add(self, which: I64, rows: I32 | I64, at: I64, sums: I64) -> None:
        """Add the sums `which` (places in the columns; sums x MEASURES) to `rows` (below 0: to none), at `at` (Ms)."""
        slots = (self.counts, self.amounts, self.head, self.now, self.open_now)
        add_sums(*slots, self.first, which, rows, at, sums)

    def window(self, rows: I32 | I64, span: Ms, at: Ms) -> I64:
        """The measures over a span of SPANS, as of `at`: rows x measures."""
        self._settle(rows)
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
        self._settle(rows)
        held = np.concatenate([self.counts[rows], self.amounts[rows]], axis=2)
        row, place = np.nonzero(held.any(axis=2))
        newest = self.head[rows[row], place // 2]
        return row, place // 2, newest - (newest - place) % 2, *held[row, place].T

    def unite(self, rows: I64, spans: I64, slots: I64, values: I64) -> None:
        """Take in what `standing` said of other rows."""
        raise_sums(self.counts, self.amounts, self.head, rows, spans, slots, values)

    def _settle(self, rows: I32 | I64) -> None:
        settle(self.counts, self.amounts, self.head, self.now, self.open_now, rows)
