"""Policies and rivals' rules beside each other, on one labelled file or on many simulated ones."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import PriceList
from stream.documents import read_document
from stream.lab.backtest import Backtest, File, backtest
from stream.lab.baselines import BASELINES
from stream.lab.labels import Labels
from stream.lab.score import DAY_S, Score, by_chance, pool, score
from stream.lab.simulate import drawn, simulated
from stream.lab.tables import Row


@dataclass(frozen=True, slots=True)
class Traffic:
    """How the traffic of every trial is made: see `simulated`."""

    keys: int
    days: float
    count: int


def standings(names: Sequence[str], played: Backtest, directory: Directory, labels: Labels) -> list[Row]:
    """The score of each policy, in order under these names, and of every baseline, on one labelled file.

    Baselines are shown a year at most before the scored part, and nothing after: a call with a broken clock is not theirs.
    """
    spent = played.spent.between(labels.scored_from - 365 * DAY_S, labels.until)
    ours = {name: one.alerts for name, one in zip(names, played.played, strict=True)}
    rivals = {rule.name: tuple(rule.alerts(spent, directory)) for rule in BASELINES}
    return [Row(name, (score(said, labels),), by_chance(said, labels)) for name, said in (ours | rivals).items()]


def trial(seed: int, background: Path | None, traffic: Traffic, policies: Mapping[str, Policy]) -> list[Row]:
    """One simulated file, played and scored. Raises BrokenFile, OSError."""
    with tempfile.TemporaryDirectory(prefix="burnguard-trial-") as name:
        folder = Path(name)
        made = simulated(seed, drawn(seed, traffic.count), background, traffic.keys, traffic.days)
        for _ in made.write(folder):
            pass
        prices = read_document(folder / "prices.json", PriceList)
        directory = read_document(folder / "directory.json", Directory)
        played = backtest([File(folder / "calls.ndjson")], list(prices.root), directory, list(policies.values()), folder)
        return standings(list(policies), played, directory, made.labels)


def trials(
    seeds: Sequence[int],
    backgrounds: Sequence[Path | None],
    traffic: Traffic,
    policies: Mapping[str, Policy],
    processes: int,
) -> Iterator[list[Row]]:
    """The standings of every seed on every background, in order. Raises BrokenFile, OSError."""
    places = [(seed, background) for background in backgrounds for seed in seeds]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as workers:
        yield from workers.map(trial, *zip(*places, strict=True), repeat(traffic), repeat(policies))


def together(standings_of: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several trials as one row each."""
    by_name: dict[str, list[Row]] = {}
    for rows in standings_of:
        for row in rows:
            by_name.setdefault(row.name, []).append(row)
    return [Row(name, _scores(rows), pool(row.chance for row in rows)) for name, rows in by_name.items()]


def _scores(rows: Sequence[Row]) -> tuple[Score, ...]:
    return tuple(one for row in rows for one in row.trials)
