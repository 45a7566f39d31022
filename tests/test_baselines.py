"""Rules of others: each finds its textbook case, is quiet on a steady key, and never looks ahead."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.batch import NANO
from schemas.directory import Directory
from stream.lab.alerts import Alert
from stream.lab.backtest import Backtest, Totals
from stream.lab.baselines import BASELINES, Baseline
from stream.lab.labels import Labels
from stream.lab.spending import MINUTE_S, Spent
from stream.lab.trials import standings

START = 20_000 * 1440
"""A midnight, in epoch minutes."""
HOUR, DAY = 60, 1440
NOBODY = Directory()
RULES = {baseline.name: baseline for baseline in BASELINES}


def spent(*keys: NDArray[np.float64]) -> Spent:
    """USD in every minute from START on, one array a key: k0, k1 ... of one tenant."""
    usd = [np.round(key * NANO).astype(np.int64) for key in keys]
    minutes = [np.flatnonzero(key) for key in usd]
    key = np.repeat(np.arange(len(usd), dtype=np.int32), [len(minute) for minute in minutes])
    cost = np.concatenate([key[minute] for key, minute in zip(usd, minutes, strict=True)], dtype=np.int64)
    names = tuple(("acme", f"k{n}") for n in range(len(usd)))
    return Spent(names, key, START + np.concatenate(minutes), cost, np.ones(len(cost), np.int64))


def flat(days: int, usd_per_hour: float = 0.6) -> NDArray[np.float64]:
    return np.full(days * DAY, usd_per_hour / 60)


def burn(usd: NDArray[np.float64], start: int, minutes: int, usd_per_hour: float) -> NDArray[np.float64]:
    """The same with so much more per hour, from minute `start` on."""
    more = usd.copy()
    more[start : start + minutes] += usd_per_hour / 60
    return more


def told(rule: str, *keys: NDArray[np.float64], directory: Directory = NOBODY, after: int = 0) -> list[tuple[str, float]]:
    """The key, and the minutes since START + `after`, of every alert from then on, in order of time."""
    alerts = RULES[rule].alerts(spent(*keys), directory)
    times = [(alert.key_id, alert.at / MINUTE_S - START - after) for alert in alerts]
    return sorted(((key, minute) for key, minute in times if minute >= 0), key=lambda one: one[1])


@pytest.mark.parametrize("rule", [name for name in RULES if name != "clock"])
def test_a_steady_key_among_its_like_is_left_in_peace_after_a_week(rule: str) -> None:
    assert told(rule, *(flat(14, usd) for usd in (0.1, 0.5, 0.6, 0.7, 0.9)), after=7 * DAY) == []


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_no_calls_and_calls_for_nothing_make_no_alerts(baseline: Baseline) -> None:
    for minutes in (0, 5 * DAY):
        minute, free = START + np.arange(minutes), np.zeros(minutes, np.int64)
        assert baseline.alerts(Spent((("acme", "k0"),), free.astype(np.int32), minute, free, free + 1), NOBODY) == []


def test_a_call_with_a_broken_clock_costs_no_memory() -> None:
    of, labels = spent(flat(2)), Labels(1, "made up", (START + DAY) * 60.0, (START + 2 * DAY) * 60.0, 1, ())
    once = np.ones(1, np.int64)
    broken = Spent(
        of.names,
        np.zeros(len(of.key) + 2, np.int32),
        np.concatenate([0 * once, of.minute, 2 * START * once]),
        np.concatenate([once, of.usd, once]),
        np.concatenate([once, of.calls, once]),
    )
    tracemalloc.start()
    rows = [standings((), Backtest(Totals(0, 0, 0, 0), one, ()), NOBODY, labels) for one in (of, broken)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[0] == rows[1] and peak < 200e6


def test_the_daily_multiple_is_seen_on_the_hour_and_told_once_a_day() -> None:
    key = burn(flat(10), 8 * DAY + 90, 2 * DAY, 30.0)
    # $43.20 are three usual days, passed at 02:54; the next day three of the mean are $332.50, passed at 10:52
    assert told("daily multiple", key, after=8 * DAY) == [("k0", 3 * HOUR), ("k0", DAY + 11 * HOUR)]


def test_the_daily_multiple_needs_ten_dollars_and_a_new_key_no_more_than_that() -> None:
    assert not told("daily multiple", burn(flat(10, 0.01), 8 * DAY, HOUR, 9.0))
    assert told("daily multiple", burn(0 * flat(10), 8 * DAY, HOUR, 11.0)) == [("k0", 8 * DAY + HOUR)]


def test_a_static_rate_is_told_in_its_minute_and_every_five_while_it_lasts() -> None:
    key = burn(flat(2, 0.01), DAY, HOUR, 20.0)
    assert [minute for _, minute in told("static $10/h", key, after=DAY)] == list(range(30, 92, 5))
    alerts = RULES["static $10/h"].alerts(spent(key), NOBODY)
    assert len({alert.incident for alert in alerts}) == 1
    assert not told("static $100/h", key)


def test_the_robust_z_names_the_one_that_costs_more_than_its_tenants_others() -> None:
    others = [flat(3, usd) for usd in (0.5, 0.6, 0.7)]
    # in its first hour it is unlike itself too, and in the next once more; all that it cost passes the others' later
    gone = told("robust z + EWMA", *others, burn(flat(3, 0.6), DAY, DAY, 4.0), after=DAY + 4 * HOUR)
    assert {key for key, _ in gone} == {"k3"}
    assert told("robust z + EWMA", *others[:2], burn(flat(3, 0.6), DAY, DAY, 4.0), after=DAY + 4 * HOUR) == []


def test_a_nightly_batch_that_cost_the_same_last_week_is_like_itself() -> None:
    nightly = np.zeros(15 * DAY)
    for night in range(15):
        nightly[night * DAY + 2 * HOUR : night * DAY + 3 * HOUR] = 0.5
    nightly[::HOUR] += 0.001
    assert not [minute for _, minute in told("robust z + EWMA", nightly) if minute >= 7 * DAY]
    doubled = burn(nightly, 14 * DAY + 2 * HOUR, HOUR, 4 * 30.0)
    assert [minute // HOUR for _, minute in told("robust z + EWMA", doubled) if minute >= 7 * DAY] == [14 * 24 + 2]


def test_a_burn_is_paged_after_two_percent_of_the_budget_and_every_four_hours() -> None:
    directory = Directory.model_validate(
        {"tenants": [{"tenant": "acme", "keys": [{"key_id": "k0", "budgets": [{"usd": 720, "per": "month"}]}]}]}
    )
    # the budget is $1 an hour: at $28.80 an hour the first tier's $14.40 are spent after half an hour
    key = burn(0 * flat(3), DAY, 10 * HOUR, 28.8)
    alerts = RULES["burn-rate tiers"].alerts(spent(key), directory)
    pages = [alert.at / MINUTE_S - START - DAY for alert in alerts if alert.severity == "page"]
    assert pages == [30, 30 + 4 * HOUR, 30 + 8 * HOUR]
    assert {alert.severity for alert in alerts} == {"page", "ticket"}


def test_without_a_budget_of_its_own_a_key_may_burn_three_times_what_it_did() -> None:
    # it cost $3 an hour so far, so $9 is its pace, and 14.4 times as much in an hour $129.60
    assert told("burn-rate tiers", burn(flat(8, 3.0), 7 * DAY, HOUR, 120.0), after=7 * DAY) == []
    [(_, minute)] = told("burn-rate tiers", burn(flat(8, 3.0), 7 * DAY, HOUR, 140.0), after=7 * DAY)
    assert minute == 55


def test_a_tenants_budget_is_split_by_what_its_keys_cost() -> None:
    directory = Directory.model_validate({"tenants": [{"tenant": "acme", "monthly_budget_usd": 7200.0}]})
    big, small = flat(8, 4.0), flat(8, 1.0)
    # of $10 an hour $8 and $2 are theirs: $115.20 and $28.80 in an hour are too much
    assert told("burn-rate tiers", burn(big, 7 * DAY, HOUR, 110.0), small, directory=directory, after=7 * DAY) == []
    found = told("burn-rate tiers", big, burn(small, 7 * DAY, HOUR, 30.0), directory=directory, after=7 * DAY)
    assert [key for key, _ in found] == ["k1"]


def test_ten_times_the_median_is_told_at_the_end_of_its_ten_minutes() -> None:
    assert told("10x median", burn(flat(2), DAY + 40, 60, 6.0)) == [("k0", DAY + 50)]
    assert told("10x median", burn(flat(2), DAY + 40, 60, 5.0)) == []


def test_the_clock_ignores_the_data() -> None:
    quiet, loud = told("clock", flat(2)), told("clock", burn(flat(2), DAY, DAY, 900.0))
    assert quiet == loud == [("k0", 6.0 * HOUR * n) for n in range(1, 9)]


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 9 * DAY))
def test_cutting_off_the_future_changes_nothing_up_to_the_last_call_before(baseline: Baseline, seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [
        np.exp(rng.normal(-4, 2, 9 * DAY))
        * (rng.random(9 * DAY) < rng.uniform(0, 0.3))
        * np.repeat(rng.random(9 * 24) < 0.7, HOUR)
        for _ in range(5)
    ]
    for key in keys:
        key[: rng.integers(4 * DAY)] = 0
    directory = (
        Directory.model_validate({"tenants": [{"tenant": "acme", "monthly_budget_usd": 1000.0}]}) if seed % 2 else NOBODY
    )

    known, whole = spent(*(key[:cut] for key in keys)), spent(*keys)
    end = (int(known.minute.max(initial=START)) + 1) * MINUTE_S

    def alerts(of: Spent) -> list[Alert]:
        found = [alert for alert in baseline.alerts(of, directory) if alert.at <= end]
        return sorted(found, key=lambda alert: (alert.at, alert.incident))

    assert alerts(known) == alerts(whole)
