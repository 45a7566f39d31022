"""The geometry of the report's charts: SVG paths in a box of 1000 by 100, y downwards, and where their words stand.

The box is stretched to the page's width, so words are not in it: they are placed in percent, by the template.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.batch import F64, I64, Ms
from stream.windows import MINUTE

WIDE, HIGH = 1000, 100
MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160, 43200)
"""What an axis of time is divided by."""
MOST_BUCKETS = 240
NEAR = 3.0
"""Words nearer than this many percent would lie on each other."""


@dataclass(frozen=True, slots=True)
class Word:
    """Words at a place on an axis, in percent from its beginning."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """The slice of time that a chart shows, in `buckets` buckets of `step` each."""

    start: Ms
    step: Ms
    buckets: int

    @property
    def end(self) -> Ms:
        return self.start + self.buckets * self.step

    def percent(self, at: float) -> float:
        """Where a time is on the axis; times outside are at its ends."""
        return round(100 * min(max((at - self.start) / (self.end - self.start), 0), 1), 2)

    def sums(self, minutes: Sequence[int] | I64, usd: Sequence[float] | F64) -> F64:
        """USD in each bucket; what is outside is left out."""
        place = self.places(np.asarray(minutes, np.int64))
        return np.asarray(np.bincount(place[place >= 0], np.asarray(usd)[place >= 0], self.buckets))

    def places(self, minutes: I64) -> I64:
        """The bucket of each epoch minute, -1 outside."""
        place = (minutes * MINUTE - self.start) // self.step
        return np.where((place >= 0) & (place < self.buckets), place, -1)


def span(start: Ms, end: Ms) -> Span:
    """The finest that shows `start` to `end` in at most MOST_BUCKETS.

    >>> week = span(0, 7 * 86_400_000)
    >>> week.step // 60_000, week.buckets
    (60, 168)
    """
    step = next((m for m in MINUTES if (end - start) <= m * MINUTE * (MOST_BUCKETS - 1)), None)
    wide = step * MINUTE if step is not None else -(-(end - start) // (MOST_BUCKETS - 1) // MINUTE) * MINUTE
    first = start // wide * wide
    return Span(first, wide, max(1, -(-(end - first) // wide)))


def ceiling(most: float) -> float:
    """A round number, not below `most`, for the top of an axis.

    >>> ceiling(0.0), ceiling(0.31), ceiling(1372.8)
    (1.0, 0.4, 1500.0)
    """
    if most <= 0:
        return 1.0
    unit: float = 10.0 ** math.floor(math.log10(most))
    return next(round(unit * n, 12) for n in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if unit * n >= most * (1 - 1e-9))


def area(upper: F64, lower: F64, top: float) -> str:
    """The steps between two rows of bucket values."""
    edges = _steps(upper, top), _steps(lower, top)
    back = [f"L{x} {y}" for x, y in reversed(edges[1])]
    return "M" + "L".join(f"{x} {y}" for x, y in edges[0]) + "".join(back) + "Z"


def level(value: float, top: float) -> float:
    """The y of a value."""
    return round(HIGH * (1 - min(value / top, 1)), 2)


def bands(of: Sequence[tuple[float, float]], shown: Span) -> str:
    """One path for all (start, end); what is too short to be seen is made as wide as a hair."""
    drawn = []
    for start, end in of:
        left, right = shown.percent(start), shown.percent(end)
        if end > shown.start and start < shown.end:
            drawn.append(f"M{_short(left * 10)} 0h{_short(max((right - left) * 10, 2))}v{HIGH}H{_short(left * 10)}z")
    return "".join(drawn)


def times(shown: Span, most: int = 8) -> list[Word]:
    """Round times along the axis, days by name."""
    minutes = (shown.end - shown.start) / MINUTE
    step = next((m for m in MINUTES if minutes / m <= most), MINUTES[-1] * math.ceil(minutes / MINUTES[-1] / most)) * MINUTE
    first = -(-shown.start // step) * step
    words = []
    for at in range(first, shown.end, step):
        gone = time.gmtime(at // 1000)
        text = time.strftime("%a %-d %b" if at % (1440 * MINUTE) == 0 else "%H:%M", gone)
        if shown.percent(at) <= 92:
            words.append(Word(shown.percent(at), text))
    return words


def apart(words: Sequence[Word]) -> list[Word]:
    """Words that would lie on each other become one: 2, 3 and 4 become 2-4."""
    groups: list[list[Word]] = []
    for word in sorted(words, key=lambda w: w.at):
        if groups and word.at - groups[-1][-1].at < NEAR:
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Word(g[0].at, g[0].text if len(g) == 1 else f"{g[0].text}-{g[-1].text}") for g in groups]


def _steps(values: F64, top: float) -> list[tuple[str, str]]:
    """The corners of a step line, a level that goes on drawn once."""
    wide = WIDE / len(values)
    heights = [_short(level(float(value), top)) for value in values]
    corners = []
    for n, height in enumerate(heights):
        if n == 0 or heights[n - 1] != height:
            corners.append((_short(n * wide), height))
        if n + 1 == len(heights) or heights[n + 1] != height:
            corners.append((_short((n + 1) * wide), height))
    return corners


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
