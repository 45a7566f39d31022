"""How far clocks are off: calls come after they happened, so the least of clock - ts is the most that they are behind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from schemas.batch import I32, I64, Ms
from stream.columns import Column, Columns
from stream.windows import HOUR, MINUTE

MINUTES = 5
"""Minutes with calls that are looked at: a clock that is off has been so in most of them."""
SURE, STEADY = 1_000, 2_000
"""Nothing but a clock that is ahead brings a call before it happened, by more than SURE (Ms). One that comes late may have
been kept back: only more than STEADY, and in every minute the same to within STEADY, is taken for a clock that is behind."""


@njit(cache=True)
def _note(minute, least, past, rows, clock, ts):  # type: ignore[no-untyped-def]  # numba infers the types
    """Note by how much each call came after it happened; what a minute came to is put to the `past` when the next begins."""
    for i in range(len(rows)):
        row, now, behind = rows[i], clock[i] // MINUTE, clock[i] - ts[i]
        if minute[row] != now:
            past[row, :-1] = past[row, 1:]
            past[row, -1] = least[row]
            minute[row] = now
            least[row] = behind
        else:
            least[row] = min(least[row], behind)


class Skews(Columns):
    """Of each row the `least` that clock - ts was (Ms) in the minute of its last call, and in the MINUTES before it."""

    minute: I64
    least: I64
    past: I64

    def __init__(self, capacity: int = 64) -> None:
        columns = {"minute": Column(np.int64), "least": Column(np.int64), "past": Column(np.int64, (MINUTES,))}
        super().__init__(columns, capacity)

    def add(self, rows: I32, clock: I64, ts: I64) -> None:
        """Calls of these rows, as the clock was when they came."""
        _note(self.minute, self.least, self.past, rows, clock, ts)

    def ahead(self, now: Ms) -> dict[int, Ms]:
        """The rows heard within an hour whose clock is off, and by how much it is ahead, or below 0 behind.

        Known after three minutes with calls where it is ahead, after five where it is behind.
        """
        past = self.past[: self.rows]
        rows, odd = np.unique(np.flatnonzero((past > SURE) | (past < -SURE)) // MINUTES, return_counts=True)
        rows = rows[(odd > MINUTES // 2) & (self.minute[rows] >= now // MINUTE - HOUR // MINUTE)]
        least = np.sort(past[rows], axis=1)
        middle = least[:, MINUTES // 2]
        steady = (least[:, 0] > STEADY) & (least[:, -1] - least[:, 0] <= STEADY)
        off = (middle < -SURE) | steady
        return dict(zip(rows[off].tolist(), (-middle[off]).tolist(), strict=True))


class Clocks:
    """The clocks of whoever sends, by name."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, ...], int] = {}
        self._skews = Skews()

    def hear(self, name: tuple[str, ...], now: Ms, ts: I64) -> Ms:
        """By how much its clock is ahead after calls that came `now`, below 0 behind; 0 where nobody can tell."""
        row = self._rows.setdefault(name, len(self._rows))
        self._skews.grow(len(self._rows))
        self._skews.add(np.full(len(ts), row, np.int32), np.full(len(ts), now), ts)
        return self._skews.ahead(now).get(row, 0)


def furthest(ahead: Mapping[str, Ms], most: int) -> list[tuple[str, Ms]]:
    """The clocks that are furthest off, first.

    >>> furthest({"a": 5_000, "b": -20_000, "c": 90_000}, 2)
    [('c', 90000), ('b', -20000)]
    """
    return sorted(ahead.items(), key=lambda found: -abs(found[1]))[:most]


def said(ahead: Ms) -> str:
    """
    >>> said(90_200), said(-20_000)
    ('90 s ahead', '20 s behind')
    """
    return f"{abs(ahead) / 1000:.0f} s {'ahead' if ahead > 0 else 'behind'}"
