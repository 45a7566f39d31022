"""Exporters that keep calls back and flush them, and what a pipeline made of every slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from detectors.base import Names
from detectors.spend import SpendSpike
from schemas.batch import I64, NANO, SLICE, Pane
from schemas.pulse import Pulse
from schemas.signals import Signal
from stream.dedupe import SeenIds
from stream.grace import Graces
from stream.pipeline import Pipeline
from tests.calls import T0, Call, DollarPerOutputToken, Words, batch

DELIVERY = 300
"""Ms from a flush to the log."""


def flushed(
    seconds: tuple[int, int],
    period: int,
    key: int = 1,
    usd: Callable[[int], float] = lambda second: 0.05,
    phase: int = 1_700,
) -> list[Call]:
    """A call a second for seconds [lo, hi), flushed every `period` s, `phase` Ms after the full ones; 0 keeps none back."""
    calls = []
    for second in range(*seconds):
        ts = second * 1000
        kept = period and period * 1000 - (ts - phase) % (period * 1000)
        calls.append((ts + kept + DELIVERY, ts, key, usd(second)))
    return calls


@st.composite
def exporters(draw: st.DrawFn) -> list[Call]:
    """Up to three tenants, whose exporters change how often they flush; a few calls come far too late."""
    calls: list[Call] = []
    for key in draw(st.lists(st.sampled_from([0, 1, 5, 9]), min_size=1, max_size=3, unique=True)):
        second = draw(st.integers(0, 20))
        for _ in range(draw(st.integers(1, 4))):
            period = draw(st.sampled_from([0, 0, 5, 7, 20, 30, 30, 90]))
            more = draw(st.sampled_from([3, 25, 60]))
            usd = draw(st.sampled_from([0.0, 0.01, 2.0]))
            calls += flushed((second, second + more), period, key, lambda _, usd=usd: usd, draw(st.integers(0, 9_999)))  # type: ignore[misc]
            second += more + draw(st.sampled_from([0, 0, 2, 300, 4_000]))
    for n in draw(st.lists(st.integers(0, len(calls) - 1), max_size=3)):
        at, ts, key, cost = calls[n]
        calls.append((at + draw(st.sampled_from([10_000, 200_000, 4_000_000])), ts, key, cost))
    return sorted(calls, key=lambda call: call[0])


@dataclass(frozen=True)
class Judged:
    """One slice of a key: when it was judged (the end of the partition's pane), when it began, what was known of it."""

    at: int
    start: int
    key: int
    usd: float
    late: int


class Noting(SpendSpike):
    """The money rule, which notes every slice that it judges."""

    def __init__(self) -> None:
        super().__init__()
        self.slices: list[tuple[int, int, float, int]] = []

    def judge(self, pane: Pane, keys: Names) -> list[Signal]:
        rows = zip(pane.key, pane.start - T0, pane.cost / NANO, pane.late, strict=True)
        self.slices += [(int(key), int(start), float(usd), int(late)) for key, start, usd, late in rows]
        return super().judge(pane, keys)


class NoGrace(Graces):
    """The null protection, for tests that show what it protects from: every slice closes with the clock's."""

    def follow(self, edge: int) -> I64:
        super().follow(edge)
        self.tenants["grace"] = 0
        self.tenants["floor"] = 0
        return super().follow(edge)[:0]


class Played:
    """Calls through a pipeline, closed out after them: `slices` as judged, `panes` as said."""

    def __init__(self, calls: list[Call], graces: Graces | None = None, cuts: tuple[int, ...] = ()) -> None:
        self.detector = Noting()
        self.line = Pipeline(DollarPerOutputToken(), Words(), [self.detector], seen=SeenIds(2**16))
        self.line._graces = graces or Graces()
        self.slices: list[Judged] = []
        self.panes: list[tuple[list[Signal], Pulse]] = []
        self.late: dict[int, int] = {}
        calls = sorted(calls, key=lambda call: call[0])
        whole = batch(calls)
        edges = [n for n, (one, other) in enumerate(pairwise(calls), 1) if one[0] // 1000 != other[0] // 1000]
        for lo, hi in pairwise([0, *sorted({*edges, *cuts}), len(calls)]):
            self._hear(self.line.feed(whole.rows(lo, hi)).panes())
            self.late[calls[hi - 1][0] // 1000] = self.line.counters["late"]
        self._hear(self.line.advance(T0 + max(call[0] for call in calls) + 900_000).panes())

    def _hear(self, panes: Iterator[tuple[list[Signal], Pulse]]) -> None:
        said = list(panes)
        self.panes += said
        self.detector.slices, slices = [], self.detector.slices
        at = said[-1][1].clock - T0 if said else 0
        self.slices += [Judged(at, start, key, usd, late) for key, start, usd, late in slices]

    def of(self, key: int, lo: int = 0, hi: int = 10**9) -> list[Judged]:
        """The slices of a key that began in seconds [lo, hi)."""
        return [judged for judged in self.slices if judged.key == key and lo * 1000 <= judged.start < hi * 1000]

    def signals(self, key: int) -> list[tuple[int, Signal]]:
        """(when it was said, Ms; signal) of a key."""
        return [
            (pulse.clock - T0, signal) for signals, pulse in self.panes for signal in signals if signal.key_id == f"key-{key}"
        ]


def every_slice(lo: int, hi: int) -> list[int]:
    """The starts (Ms) of all slices of seconds [lo, hi)."""
    return list(range(lo * 1000, hi * 1000, SLICE))
