"""`python -m bench.nab FOLDER`: what the detectors, as the pipeline builds them, score on the Numenta Anomaly Benchmark.

FOLDER is NAB's repository, or has `data/` and `combined_windows.json` only. Each file is one key that makes one call at each
of its points, at the point's own time; what lies between two points is judged as the pipeline would: while an episode is
open. A value is money, UNIT a unit, below zero nothing, the same for every file. All is as in production but the gates, which
are off, because a value of NAB has no price. An alarm is what a user is told first, an episode that opens; updates and clears
are none. There is no threshold to choose, and nothing is fitted to a file.

Scoring: Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, ICMLA 2015 (arXiv:1510.03336). Silence is 0, an
alarm at the first point of every window and nowhere else 100; a score below 0 is worse than silence. Beside it stand dummies:
silence, as many alarms at random, a clock, and two floats (the lowest and the highest value so far).

The last line is `NAB` and the scores by the profiles standard, low FP and low FN: `NAB 12.3 4.5 20.1`.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np

from detectors.base import PaneDetector
from schemas.batch import NANO, SLICE, Ms, Nano
from stream.assembly import pane_detectors
from stream.measures import USD
from stream.pipeline import pane_of
from stream.windows import MEASURES, NEVER, Meter

UNIT: Nano = NANO // 1000
MOST = 2e9
"""No value may be farther from 0: six hours of such points are still an int64 of nano-dollars."""
LEAST = 1 / NANO
OFF = (LEAST, LEAST, LEAST, LEAST, LEAST)
"""Gates of a nano-dollar: as good as none. With 0 a key that begins with nothing could never learn a habit."""
EVERY, SEEDS, OUTSIDE = 600, 20, 0.01
"""The clock's points between alarms, how often chance is tried, by which share of their range the two floats are exceeded."""
Rows: TypeAlias = Sequence[int]
"""The points of one file at which there was an alarm."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a hit window pays at most, what a missed one and a false alarm cost at most."""

    hit: float
    missed: float
    false: float


PROFILES = {"standard": Profile(1, 1, 0.11), "low FP": Profile(1, 1, 0.22), "low FN": Profile(1, 2, 0.11)}


@dataclass(frozen=True, slots=True)
class Window:
    """Rows in which an alarm is right, the last one too."""

    first: int
    last: int

    def hit(self, row: int) -> float:
        """What an alarm inside is worth: 1 at the first row, a little at the last."""
        return sigmoid((row - self.last - 1) / (self.last - self.first + 1)) / sigmoid(-1)

    def false(self, row: int) -> float:
        """What an alarm behind it is worth: nearly 0 close by, -1 far off."""
        return sigmoid((row - self.last) / max(self.last - self.first, 1))


@dataclass(frozen=True, slots=True)
class Series:
    """One file. Alarms in its first rows, `probation`, are not scored, nor is a window that ends there."""

    name: str
    at: list[Ms]
    values: list[float]
    windows: list[Window]

    @property
    def probation(self) -> int:
        return min(len(self.at) * 15 // 100, 750)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What alarms earned: `hits` and `false` count them, `paid` and `cost` sum up what they are worth by Window."""

    windows: int
    hits: int = 0
    paid: float = 0.0
    false: int = 0
    cost: float = 0.0

    def score(self, profile: Profile) -> float:
        """Between silence (0) and perfection (100). There must be a window."""
        earned = profile.hit * self.paid + profile.missed * self.hits + profile.false * self.cost
        return 100 * earned / ((profile.hit + profile.missed) * self.windows)


def sigmoid(y: float) -> float:
    """At `y` widths behind the end of a window: nearly 1 a width before it, 0 there, -1 from three widths on."""
    return 2 / (1 + math.exp(5 * y)) - 1 if y <= 3 else -1.0


def outcome(corpus: Sequence[Series], alarms: Sequence[Rows]) -> Outcome:
    """A window pays for its first alarm, every alarm outside costs; both after probation."""
    windows, paid, cost = 0, [], []
    for series, rows in zip(corpus, alarms, strict=True):
        scored = sorted(row for row in rows if row >= series.probation)
        for window in series.windows:
            inside = [row for row in scored if window.first <= row <= window.last]
            scored = [row for row in scored if row not in inside]
            windows += window.last >= series.probation
            paid += [window.hit(row) for row in inside[:1]]
        for row in scored:
            before = [window for window in series.windows if window.last < row]
            cost.append(before[-1].false(row) if before else -1.0)
    return Outcome(windows, len(paid), sum(paid), len(cost), sum(cost))


def alarms_of(detector: PaneDetector, series: Series) -> Rows:
    """The points at which an episode opens."""
    meter, key, names = Meter(1), np.zeros(1, np.int32), [("nab", series.name)]
    nothing = np.zeros((1, MEASURES), np.int64)
    alarms, slot = [], NEVER
    for row, (at, value) in enumerate(zip(series.at, series.values, strict=True)):
        begin = max(at // SLICE, slot + 1)
        while len(detector.watched()) and slot + 1 < begin:
            slot += 1
            detector.judge(pane_of(meter, np.array([slot]), key, key, nothing), names)
        slot, spent = begin, nothing.copy()
        spent[0, USD] = round(max(value, 0.0) * UNIT)
        slots = np.array([slot])
        meter.add(key, spent, slots)
        if any(signal.phase == "open" for signal in detector.judge(pane_of(meter, slots, key, key, spent), names)):
            alarms.append(row)
    return alarms


def detected(series: Series) -> Rows:
    """The points at which any detector, built for this file alone, opens an episode."""
    return sorted({row for detector in pane_detectors(gates_usd=OFF) for row in alarms_of(detector, series)})


def clock(series: Series) -> Rows:
    return range(EVERY, len(series.at), EVERY)


def out_of_range(series: Series) -> Rows:
    """Every point outside all earlier ones by more than a share of their range."""
    alarms, low, high = [], series.values[0], series.values[0]
    for row, value in enumerate(series.values):
        if max(value - high, low - value) > OUTSIDE * (high - low):
            alarms.append(row)
        low, high = min(low, value), max(high, value)
    return alarms


def by_chance(corpus: Sequence[Series], alarms: Sequence[Rows], seed: int) -> Sequence[Rows]:
    """As many alarms after probation, anywhere in the corpus."""
    places = [(n, row) for n, series in enumerate(corpus) for row in range(series.probation, len(series.at))]
    count = sum(row >= series.probation for series, rows in zip(corpus, alarms, strict=True) for row in rows)
    drawn = [places[i] for i in np.random.default_rng(seed).choice(len(places), count, replace=False)]
    return [[row for n, row in drawn if n == m] for m in range(len(corpus))]


def read(folder: Path) -> list[Series]:
    """Every file that has labels, by name. Raises SystemExit."""
    labels = next(
        (f for f in (folder / "combined_windows.json", folder / "labels/combined_windows.json") if f.exists()), None
    )
    if labels is None:
        raise SystemExit(f"{folder} has no combined_windows.json, nor has {folder}/labels")
    named: dict[str, list[list[str]]] = json.loads(labels.read_bytes())
    corpus = [read_series(folder / "data" / name, name, named[name]) for name in sorted(named)]
    if not outcome(corpus, [()] * len(corpus)).windows:
        raise SystemExit(f"{labels} names no window after probation")
    return corpus


def read_series(path: Path, name: str, windows: list[list[str]]) -> Series:
    """One CSV of timestamp and value. Raises SystemExit."""
    try:
        with path.open(newline="") as file:
            points = [(milliseconds(line["timestamp"]), float(line["value"])) for line in csv.DictReader(file)]
        at, values = [time for time, _ in points], [value for _, value in points]
        rows = sorted((at.index(milliseconds(first)), at.index(milliseconds(last))) for first, last in windows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path}: {error}") from None
    if not values or not all(abs(value) <= MOST for value in values):
        raise SystemExit(f"{path}: has no point, or a value that is no number between -{MOST:.0e} and {MOST:.0e}")
    return Series(name, at, values, [Window(*ends) for ends in rows])


def milliseconds(text: str) -> Ms:
    """NAB's times are local without a zone: taken as UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def scores(found: Outcome) -> list[float]:
    return [found.score(profile) for profile in PROFILES.values()]


@click.command(help=__doc__.split("\n\n")[0])
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    corpus = read(folder)
    points = sum(len(series.at) for series in corpus)
    alarms_of(pane_detectors()[0], Series("warm", [0], [0.0], []))
    began = time.process_time()
    alarms = [detected(series) for series in corpus]
    us = (time.process_time() - began) / points * 1e6
    found = outcome(corpus, alarms)
    chances = [outcome(corpus, by_chance(corpus, alarms, seed)) for seed in range(SEEDS)]
    dummies = {
        "silence": outcome(corpus, [()] * len(corpus)),
        f"every {EVERY} points": outcome(corpus, [clock(series) for series in corpus]),
        "out of range": outcome(corpus, [out_of_range(series) for series in corpus]),
    }
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()};", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("numba", "numpy")))
    print(f"{len(corpus)} files, {points:,} points, {found.windows} windows; {us:.0f} us a point, panes made one by one")
    print(f"{'':17}" + "".join(f"{name:>10}" for name in PROFILES) + f"{'hit':>8}{'false':>8}")
    for name, dummy in dummies.items():
        print(row_of(name, scores(dummy), dummy.hits, dummy.false))
    mean = np.mean([[*scores(chance), chance.hits, chance.false] for chance in chances], axis=0).tolist()
    print(row_of(f"chance, {SEEDS} seeds", mean[:3], mean[3], mean[4]))
    print(row_of("burnguard", scores(found), found.hits, found.false))
    print("NAB", *(f"{score:.1f}" for score in scores(found)))


def row_of(name: str, three: list[float], hits: float, false: float) -> str:
    return f"{name:17}" + "".join(f"{score:10.1f}" for score in three) + f"{hits:8.0f}{false:8.0f}"


if __name__ == "__main__":
    main()
