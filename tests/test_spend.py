"""The money rule: what it must notice, and what it must not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.spend import SpendSpike
from schemas.signals import Signal
from tests.panes import judge_spending, steady

MINUTE, HOUR = 12, 720


def phases(signals: list[Signal]) -> list[str]:
    return [signal.phase for signal in signals]


def test_a_slow_burn_is_found_over_a_longer_window() -> None:
    opened = judge_spending(SpendSpike(), [0.0001] * 5 * HOUR + [33 / HOUR] * HOUR)[0]
    assert opened.phase == "open"
    assert opened.evidence.window == 900_000
    assert opened.evidence.usd_per_hour == pytest.approx(33, rel=0.05)
    assert opened.evidence.since - opened.started < 0


def test_a_habit_is_no_spike_however_dear() -> None:
    signals = steady(SpendSpike(), minutes=600, usd_per_minute=40.0)
    assert signals[-1].phase == "clear"
    assert all(signal.evidence.learning is not None for signal in signals)
    daily = ([0.5] * HOUR + [0.0] * 11 * HOUR) * 4
    signals = judge_spending(SpendSpike(), daily)
    assert not [s for s in signals if s.started - signals[0].started > 12 * 3_600_000]


def test_twice_the_highest_window_is_not_enough_and_three_times_is() -> None:
    calm, burn = (steady(SpendSpike(), minutes=300, usd_per_minute=10.0, then=(10, usd)) for usd in (19.0, 30.0))
    assert phases(calm)[-1] == "clear"
    assert phases(burn)[-1] in ("open", "update")
    assert burn[-1].evidence.learning is None


def test_less_than_the_gate_is_never_told() -> None:
    assert not steady(SpendSpike(), minutes=300, usd_per_minute=0.001, then=(10, 0.2))


def test_a_burst_in_one_pane_says_that_it_is_one() -> None:
    burst = judge_spending(SpendSpike(), [0.001] * 5 * HOUR + [8.0] + [0.001] * HOUR)
    assert burst[0].evidence.hot_panes == 1
    assert phases(burst) == ["open", "clear"]


def test_the_second_hot_pane_is_told_at_once_and_later_updates_once_a_minute() -> None:
    signals = judge_spending(SpendSpike(), [0.001] * 5 * HOUR + [8.0] * 3 * MINUTE)
    assert phases(signals) == ["open", "update", "update", "update"]
    assert signals[1].at - signals[0].at == 5_000
    assert signals[1].evidence.hot_panes == 2
    assert [b.at - a.at for a, b in pairwise(signals[1:])] == [60_000, 60_000]


def test_an_episode_clears_after_six_quiet_panes_and_not_over_a_short_gap() -> None:
    burn, calm = [2.5] * 6, [0.001]
    gap = judge_spending(SpendSpike(), calm * 5 * HOUR + burn + calm * 5 + burn + calm * MINUTE)
    assert phases(gap).count("open") == 1
    assert phases(gap).count("clear") == 1
    ended = 5 * HOUR + 6 + 5 + 6
    assert gap[-1].at - gap[0].at == (ended + 6 - 5 * HOUR - 3) * 5_000


def test_a_young_key_is_told_as_learning() -> None:
    opened = judge_spending(SpendSpike(), [0.001] * HOUR + [5.0] * MINUTE)[0]
    assert opened.evidence.learning == 60


def test_an_attack_is_not_learnt_while_a_new_normal_is() -> None:
    attack = judge_spending(SpendSpike(), [0.01] * 24 * HOUR + [2.5] * 2 * HOUR)
    assert phases(attack)[-1] == "update"
    assert "clear" not in phases(attack)
    week = [0.01] * 24 * HOUR + ([0.0] * 20 * HOUR + [0.6] * 4 * HOUR) * 12
    later = [s for s in judge_spending(SpendSpike(), week) if s.phase == "open"]
    days = {(s.started - later[0].started) // 86_400_000 for s in later}
    assert max(days) <= 4


def test_dollars_since_the_start_add_up() -> None:
    signals = judge_spending(SpendSpike(), [0.001] * 5 * HOUR + [2.5] * MINUTE + [0.001] * MINUTE)
    assert signals[-1].phase == "clear"
    assert signals[-1].evidence.usd_so_far == pytest.approx(30, abs=0.2)
    assert signals[-1].evidence.since == signals[0].started - 10_000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.4, 3.0, 50.0]), st.integers(1, 400)), max_size=12))
def test_every_episode_opens_once_and_clears_once(runs: list[tuple[float, int]]) -> None:
    usd = [cost for cost, panes in runs for _ in range(panes)] + [0.0] * 400
    open_episode = None
    for signal in judge_spending(SpendSpike(), [0.01] * 2000 + usd):
        if signal.phase == "open":
            assert open_episode is None
            open_episode = signal.episode
        assert signal.episode == open_episode
        if signal.phase == "clear":
            open_episode = None
    assert open_episode is None
