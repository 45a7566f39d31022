"""Panes made by hand, for doctests and tests of detectors."""

from __future__ import annotations

import numpy as np

from detectors.base import PaneDetector
from schemas.batch import NANO, SLICE
from schemas.signals import Signal
from stream.pipeline import pane_of
from stream.windows import MEASURES, Meter

START = 1_700_000_000_000 // SLICE


def judge_spending(detector: PaneDetector, usd: list[float], start: int = START) -> list[Signal]:
    """One key that spends `usd[n]` in the n-th 5-s pane; panes in which it spends nothing are not judged unless watched."""
    meter = Meter(1)
    keys = np.zeros(1, np.int32)
    signals = []
    for slot, cost in enumerate(usd, start):
        sums = np.zeros((1, MEASURES), np.int64)
        sums[0, 0] = round(cost * NANO)
        slots = np.array([slot])
        if cost:
            meter.add(keys, sums, slots)
        elif not len(detector.watched()):
            continue
        signals += detector.judge(pane_of(meter, slots, keys, keys, sums), [("acme", "key-1")])
    return signals


def steady(detector: PaneDetector, minutes: int, usd_per_minute: float, then: tuple[int, float] = (0, 0.0)) -> list[Signal]:
    """A steady habit, then so many minutes at another rate."""
    return judge_spending(detector, [usd_per_minute / 12] * minutes * 12 + [then[1] / 12] * then[0] * 12)
