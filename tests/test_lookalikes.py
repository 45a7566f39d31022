"""What looks like a burn and is none: told once at most, never acted on; and what must still be found beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from actions.context import in_context
from detectors.spend import SpendSpike
from schemas.batch import SLICE
from schemas.directory import Directory
from schemas.signals import Signal
from stream.documents import recommended
from tests.panes import judge_spending

Rate = Callable[[float], float]
"""USD an hour at so many hours after midnight of day 1, a Monday."""
MONDAY = 1_780_272_000_000 // SLICE
A_CALL = 0.05
ACTS_FROM = next(rule.match.usd_per_hour or 0.0 for rule in recommended().rules if any(step.throttle for step in rule.do))


def lived(rate: Rate, days: float) -> list[Signal]:
    """A key that makes calls of five cents or so at this rate; a slow one makes them once a minute."""
    rng, panes = np.random.default_rng(5), round(days * 17_280)
    hours = np.arange(panes) / 720
    usd = np.array([rate(hour) for hour in hours]) / 720
    calls = np.where(usd > A_CALL / 12, rng.poisson(usd / A_CALL), 0)
    cost = calls * A_CALL * rng.lognormal(-0.02, 0.2, panes)
    slow = (usd <= A_CALL / 12) & (np.arange(panes) % 12 == 0)
    return judge_spending(SpendSpike(), np.where(slow, 12 * usd, cost).tolist(), MONDAY)


def day(signal: Signal) -> int:
    return (signal.at // SLICE - MONDAY) // 17_280 + 1


def told(signals: list[Signal]) -> set[int]:
    """The days on which it was told."""
    return {day(signal) for signal in signals if signal.phase != "clear"}


def acted(signals: list[Signal]) -> set[int]:
    """The days on which the packaged policy would have throttled."""
    burning = [s for s in signals if s.phase != "clear" and s.evidence.usd_per_hour >= ACTS_FROM]
    contexts = [(s, in_context(s, Directory())) for s in burning]
    return {day(s) for s, context in contexts if context.severity == "page" and not context.holds}


def nightly(usd: float, since_day: int = 1) -> Rate:
    return lambda h: usd if 3 <= h % 24 < 4 and h >= 24 * (since_day - 1) else 3.0


def workday(usd: float) -> Rate:
    return lambda h: usd * min((h % 24 - 6.5) / 3, 1) if 6.5 <= h % 24 < 19 and h // 24 % 7 < 5 else 2.0


def launch(usd: float, times: float) -> Rate:
    return lambda h: usd * (1 + (times - 1) * min(max((h - 60) / 2, 0), 1))


@pytest.mark.parametrize("usd", [100.0, 400.0, 800.0])
def test_a_batch_of_every_night_is_told_once_and_never_acted_on(usd: float) -> None:
    signals = lived(nightly(usd), 6)
    assert told(signals) == {1}
    assert acted(signals) == set()


def test_a_batch_that_comes_an_hour_or_two_earlier_or_later_is_known_too() -> None:
    starts = (3.0, 1.5, 4.5, 3.6, 2.5, 2.2)
    signals = lived(lambda h: 400.0 if starts[int(h // 24)] <= h % 24 < starts[int(h // 24)] + 1 else 3.0, 6)
    assert told(signals) == {1}
    assert acted(signals) == set()


def test_a_workday_that_rises_every_morning_is_told_once_and_never_acted_on() -> None:
    signals = lived(workday(400.0), 12)
    assert told(signals) == {1}
    assert acted(signals) == set()


@pytest.mark.parametrize(("usd", "times"), [(80.0, 6.0), (120.0, 3.0), (20.0, 4.0)])
def test_a_launch_that_grows_over_two_hours_is_told_and_never_acted_on(usd: float, times: float) -> None:
    signals = lived(launch(usd, times), 4)
    assert 3 in told(signals)
    assert acted(signals) == set()


def test_a_key_that_has_not_lived_a_whole_day_is_told_as_fast_as_ever_and_never_acted_on() -> None:
    burn = [s for s in lived(lambda h: 900.0 if h >= 20 else 3.0, 1.5) if s.phase != "clear"]
    assert burn[0].at - (MONDAY * SLICE + 20 * 3_600_000) <= 30_000
    assert in_context(burn[1], Directory()).severity == "page"
    assert acted(burn) == set()
    assert acted(lived(lambda h: 900.0 if h >= 24 else 3.0, 1.2)) == {2}


def test_a_batch_of_every_night_hides_no_burn_by_day() -> None:
    at = 4 * 24 + 10.0
    night = nightly(400.0)
    signals = [s for s in lived(lambda h: night(h) + (400.0 if h >= at else 0.0), 4 + 10.2 / 24) if day(s) == 5]
    assert signals[0].at - (MONDAY * SLICE + round(at * 3_600_000)) <= 60_000
    assert acted(signals) == {5}


def test_a_burn_that_goes_on_for_days_does_not_become_a_habit() -> None:
    signals = lived(lambda h: 900.0 if h >= 34 else 3.0, 3.4)
    assert [s.phase for s in signals if s.phase != "update"] == ["open"]
    assert signals[-1].at // SLICE - MONDAY > 3.39 * 17_280


def test_a_burn_at_the_same_hour_of_the_next_day_but_three_times_as_dear_is_acted_on() -> None:
    rates = {1: 3.0, 2: 3.0, 3: 400.0, 4: 1200.0}
    signals = lived(lambda h: rates[int(h // 24) + 1] if 3 <= h % 24 < 4 else 3.0, 4)
    assert acted(signals) == {3, 4}
