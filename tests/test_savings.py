"""Dollars saved and dollars of harm, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.batch import NANO, Ms
from schemas.incidents import Incident, News
from schemas.orders import Order
from schemas.signals import Evidence
from stream.lab.labels import Label, Labels, RightAction
from stream.lab.savings import Balance, Minutes, Refused, balance, refusals
from stream.lab.spending import Spent

M: Ms = 60_000
KEY = ("acme", "key-1")


def spent(usd: dict[tuple[str, str], dict[int, float]]) -> Minutes:
    """USD by key and minute."""
    rows = [(n, minute, of[minute]) for n, of in enumerate(usd.values()) for minute in sorted(of)]
    key, minute, money = (np.array([row[i] for row in rows]) for i in range(3))
    nano = np.round(money * NANO).astype(np.int64)
    return Minutes(Spent(tuple(usd), key.astype(np.int32), minute.astype(np.int64), nano, np.ones(len(rows), np.int64)))


def throttle(start: Ms, end: Ms | None, key: tuple[str, str] = KEY, strength: float = 0.9, expires: Ms = 0) -> list[News]:
    """The news of a throttle of a key that is expected to spend $1 a minute."""
    order = Order(f"o{start}", "i", 0, "throttle", *key, strength, 15 * M, start, start, expires, "", applied_at=start)
    evidence = Evidence(10.0, 5.0, 5 * M, start, 540.0, 10.0, 6, None, 0.0, ())
    incident = Incident("i", "spend", "spend_spike", *key, start, start, evidence, "page")
    news = [News(start, "throttle_applied", "", incident, order)]
    if end is not None:
        ended = Order(f"o{start}", "i", 0, "throttle", *key, strength, 15 * M, start, start, end, "", applied_at=start)
        ended.ended_at = end
        news.append(News(end, "throttle_reverted", "", incident, ended))
    return news


def labels(*of: Label) -> Labels:
    return Labels(seed=1, background="none", scored_from=0, until=3600, keys=2, labels=of)


def label(
    usd: float,
    start: float = 0,
    end: float = 600,
    kind: str | None = "leaked_key",
    action: RightAction = "throttle",
    keys: tuple[str, ...] = ("key-1",),
) -> Label:
    """`usd` injected evenly from `start` to `end`."""
    return Label("l", "s", kind, "acme", keys, start, end, start, True, usd, action, ((start, 0.0), (end, usd)))


BURN = {KEY: {minute: 10.0 for minute in range(10)}}
"""$10 a minute for ten minutes."""


def only(found: list[Refused]) -> tuple[float, float, bool]:
    (refused,) = found
    return round(refused.saved, 6), round(refused.harm, 6), refused.false


def test_what_is_over_the_expected_rate_is_saved_and_the_rest_is_harm() -> None:
    """Five minutes: 0.9 x $9 x 5 saved, 0.9 x $1 x 5 refused for nothing."""
    assert only(refusals(throttle(2 * M, 7 * M), spent(BURN), None)) == (40.5, 4.5, False)


def test_part_of_a_minute_counts_in_part() -> None:
    assert only(refusals(throttle(2 * M + 30_000, 3 * M + 15_000), spent(BURN), None)) == (6.075, 0.675, False)


def test_a_key_that_spends_less_than_expected_saves_nothing() -> None:
    assert only(refusals(throttle(0, 10 * M), spent({KEY: {3: 0.5}}), None)) == (0.0, 0.45, False)


def test_an_order_that_nobody_took_back_counts_until_its_lease_ends() -> None:
    assert only(refusals(throttle(2 * M, None, expires=4 * M), spent(BURN), None)) == (16.2, 1.8, False)


def test_two_orders_at_once_refuse_a_call_once() -> None:
    first, second = refusals([*throttle(2 * M, 5 * M), *throttle(3 * M, 6 * M)], spent(BURN), None)
    assert [first.saved, second.saved] == pytest.approx([0.9 * 9 * 3, 0.9 * 9 * 1])


def test_where_labelled_the_injected_dollars_are_saved() -> None:
    """$8 of the $10 a minute were injected, whatever was expected."""
    assert only(refusals(throttle(2 * M, 7 * M), spent(BURN), labels(label(80.0)))) == (36.0, 9.0, False)


def test_after_the_injected_burn_all_that_is_refused_is_harm() -> None:
    """It ends after minute 4; the throttle is on for minutes 2 to 6."""
    found = refusals(throttle(2 * M, 7 * M), spent(BURN), labels(label(40.0, end=240)))
    assert only(found) == (0.9 * 10 * 2, 0.9 * 10 * 3, False)


def test_a_key_of_several_saves_its_part_of_what_was_injected() -> None:
    """$9 a minute were injected into two keys that spend $10 and $5: $6 of them into the throttled one."""
    two = {**BURN, ("acme", "key-2"): {minute: 5.0 for minute in range(10)}}
    shared = labels(label(90.0, keys=("key-1", "key-2")))
    assert only(refusals(throttle(2 * M, 7 * M), spent(two), shared)) == (0.9 * 6 * 5, 0.9 * 4 * 5, False)


def test_a_key_of_a_whole_tenant_saves_its_part_too() -> None:
    two = {**BURN, ("acme", "key-2"): {minute: 5.0 for minute in range(10)}}
    shared = labels(label(90.0, keys=("*",)))
    assert only(refusals(throttle(2 * M, 7 * M), spent(two), shared)) == (0.9 * 6 * 5, 0.9 * 4 * 5, False)


@pytest.mark.parametrize(
    "really",
    [
        pytest.param(labels(), id="background"),
        pytest.param(labels(label(80.0, kind=None, action="none")), id="look-alike"),
        pytest.param(labels(label(80.0, action="notify")), id="it only wanted telling"),
        pytest.param(labels(label(80.0, keys=("key-2",))), id="another key"),
        pytest.param(labels(label(80.0, start=1000, end=1600)), id="another time"),
    ],
)
def test_all_that_a_false_action_refuses_is_harm(really: Labels) -> None:
    assert only(refusals(throttle(2 * M, 7 * M), spent(BURN), really)) == (0.0, 45.0, True)


def test_a_whole_tenant_is_all_of_its_keys() -> None:
    two = {**BURN, ("acme", "key-2"): {3: 5.0}, ("globex", "key-1"): {3: 100.0}}
    assert only(refusals(throttle(3 * M, 4 * M, ("acme", "*")), spent(two), None)) == (0.9 * 14, 0.9, False)


def test_the_net_is_what_is_left_when_all_harm_is_taken_off() -> None:
    order = throttle(0, M)[0].order
    assert order is not None
    found = balance([Refused(order, 100.0, 7.0, False), Refused(order, 0.0, 20.0, True)])
    assert found == Balance(saved=100.0, harm=7.0, false_harm=20.0, false_orders=1)
    assert found.net == 73.0


def test_a_policy_that_only_tells_saves_nothing() -> None:
    order = Order("n", "i", 0, "notify", *KEY, 0.0, 0, 0, 0, 0, "")
    incident = throttle(0, None)[0].incident
    assert refusals([News(0, "notified", "", incident, order)], spent(BURN), None) == []
