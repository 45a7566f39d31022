"""The score: worked out by hand on a few labels, and its laws."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.policy import Severity
from stream.lab.alerts import Alert
from stream.lab.labels import Label, Labels, RightAction
from stream.lab.score import AFTERGLOW_S, MEASURES, Outcome, Score, Tally, by_chance, grouped, interval, pool, score, shifted
from stream.lab.tables import Row, basis, by_kind, by_lookalike, by_scenario, summary, to_json

H = 3600.0


def label(id: str, kind: str | None, keys: str, start: float, end: float, usd: float, action: RightAction) -> Label:
    """Hours; it costs the same in every second, and is material after a quarter of its time."""
    at = start + (end - start) / 4
    curve = ((start * H, 0.0), (end * H, usd))
    return Label(id, f"{id}s", kind, "acme", (keys,), start * H, end * H, at * H, usd > 5, usd, action, curve)


def alert(
    hour: float, key: str, severity: Severity = "page", incident: str = "", kind: str = "spend_spike", action: str = "notify"
) -> Alert:
    row = {"at": hour * H, "incident": incident or f"{key} {hour}", "kind": kind, "severity": severity, "tenant": "acme"}
    return msgspec.convert(row | {"key_id": key, "action": action, "usd_at_risk": 0.0}, Alert)


LEAK = label("leak", "leaked_key", "k1", 10, 12, 100.0, "rotate")
LOOP = label("loop", "agent_loop", "k2", 30, 34, 40.0, "throttle")
CREEP = label("creep", "token_inflation", "k4", 40, 44, 4.0, "notify")
LAUNCH = label("launch", None, "k1", 20, 22, 60.0, "none")
LABELS = Labels(7, "made up", 0.0, 48 * H, 50, (LEAK, LOOP, CREEP, LAUNCH))
ALERTS = [
    alert(9.9, "k1"),
    alert(10.25, "k1", "notice", "A"),
    alert(10.75, "k1", "page", "A", "leaked_key", "throttle"),
    alert(11, "k1", "page", "A", "leaked_key", "rotate"),
    alert(21, "k1", "page", "B", action="throttle"),
    alert(43, "k4", "ticket", "C", "token_inflation"),
    alert(45, "k3", "ticket", "D"),
    alert(46, "k3", "ticket", "D"),
    alert(46, "k3", "notice", "E"),
    alert(49, "k3"),
]

SOME = st.lists(
    st.builds(
        alert,
        st.floats(-1, 49),
        st.sampled_from(["k1", "k2", "k3", "k4", "*"]),
        st.sampled_from(["notice", "ticket", "page"]),
        st.sampled_from("ABCD"),
        st.sampled_from(["spend_spike", "leaked_key", "agent_loop"]),
        st.sampled_from(["notify", "throttle", "rotate"]),
    ),
    max_size=12,
)


def value(of: Score, measure: str) -> float | None:
    return MEASURES[measure](of).value


def outcomes(alerts: list[Alert], *labels: Label) -> list[Outcome]:
    return list(score(alerts, replace(LABELS, labels=labels)).outcomes)


def test_a_day_worked_out_by_hand() -> None:
    got = score(ALERTS, LABELS)
    leak, loop, creep, launch = got.outcomes
    assert (leak.delay, leak.kind_right, leak.notifications) == (-900.0, True, 3)
    assert (leak.usd_before_alert, leak.usd_before_action) == (12.5, 37.5)
    assert leak.tally == Tally(notices=1, pages=1, actions=2)
    assert (leak.action, leak.acted_right, leak.overacted) == ("rotate", True, False)
    assert (loop.found, loop.usd_before_alert, loop.usd_before_action, loop.action) == (False, 40.0, 40.0, "none")
    assert (creep.delay, creep.acted_right) == (2 * H, True)
    assert launch.tally == Tally(pages=1, actions=1)
    assert got.false == Tally(notices=1, tickets=1, pages=1)
    assert {name: value(got, name) for name in MEASURES} == {
        "recall": 1 / 2,
        "recall_all": 2 / 3,
        "kind_right": 1.0,
        "right_action": 1 / 2,
        "over_action": 0.0,
        "usd": 70.0,
        "usd_before_alert": 26.25,
        "usd_before_action": 38.75,
        "notifications": 3.0,
        "precision": 2 / 5,
        "false_pages": 1.0,
        "false_tickets": 1.0,
        "false_notices": 1.0,
        "false_actions": 0.0,
        "lookalikes_acted_on": 1.0,
    }
    assert got.delay(50) == -900.0


def test_where_telling_is_right_no_dollar_counts_as_spent_before_an_action() -> None:
    told = replace(LEAK, id="told", action="notify", key_ids=("k5",), usd=900.0)
    got = score([alert(11, "k1", action="rotate"), alert(11, "k5")], replace(LABELS, labels=(LEAK, told)))
    assert value(got, "usd_before_action") == 50.0


def test_an_alert_is_about_what_it_names_else_about_what_started_last() -> None:
    early = label("early", "leaked_key", "k1", 10, 20, 50.0, "rotate")
    late = label("late", "agent_loop", "k1", 12, 20, 50.0, "throttle")
    assert [o.found for o in outcomes([alert(13, "k1", kind="leaked_key")], early, late)] == [True, False]
    assert [o.found for o in outcomes([alert(13, "k1")], early, late)] == [False, True]
    assert [o.found for o in outcomes([alert(11, "k1", kind="agent_loop")], early, late)] == [True, False]


def test_an_alert_counts_until_the_glow_is_over_and_only_for_its_entity() -> None:
    glow = AFTERGLOW_S / H
    assert [outcomes([alert(at, "k1")], LEAK)[0].found for at in (9.99, 10, 12 + glow, 12.01 + glow)] == [
        False,
        True,
        True,
        False,
    ]
    assert not outcomes([alert(11, "k2")], LEAK)[0].found
    assert outcomes([alert(11, "*")], LEAK)[0].found


def test_what_lies_outside_the_scored_part_counts_for_nothing() -> None:
    late = replace(LABELS, scored_from=10.25 * H)
    got = score([alert(9, "k3"), alert(11, "k1"), alert(21, "k1")], late)
    assert [outcome.label for outcome in got.outcomes] == ["loop", "creep", "launch"]
    assert (got.false, got.raised, got.true) == (Tally(), 1, 0)
    assert got.key_days == 50 * 37.75 / 24


def test_an_action_where_telling_is_right_is_too_strong_and_so_is_one_above_the_right_one() -> None:
    cases: list[tuple[RightAction, str, tuple[bool, bool]]] = [
        ("notify", "notify", (True, False)),
        ("notify", "downgrade", (False, True)),
        ("throttle", "downgrade", (False, False)),
        ("throttle", "throttle", (True, False)),
        ("throttle", "rotate", (False, True)),
        ("rotate", "notify", (False, False)),
    ]
    for right, action, verdict in cases:
        one = replace(LOOP, action=right)
        [got] = outcomes([alert(31, "k2"), alert(32, "k2", action=action)], one)
        assert (got.acted_right, got.overacted) == verdict, (right, action)


def test_silence_finds_nothing_disturbs_nobody_and_saves_nothing() -> None:
    got = score([], LABELS)
    assert (value(got, "recall"), value(got, "recall_all"), value(got, "precision"), got.delay(50)) == (0, 0, None, None)
    assert value(got, "usd_before_alert") == value(got, "usd_before_action") == value(got, "usd")
    assert got.false == Tally()
    assert value(got, "false_pages") == 0


def test_an_oracle_finds_everything_in_its_moment() -> None:
    incidents = [one for one in LABELS.labels if one.kind is not None]
    told = [alert(one.material_at / H, one.key_ids[0], "page", one.id, str(one.kind), one.action) for one in incidents]
    got = score(told, LABELS)
    perfect = ("recall", "recall_all", "kind_right", "right_action", "precision", "notifications")
    assert {value(got, name) for name in perfect} == {1.0}
    assert (got.delay(50), got.delay(90), value(got, "usd_before_action")) == (0.0, 0.0, 17.5)
    assert (got.false, value(got, "lookalikes_acted_on")) == (Tally(), 0.0)


@given(SOME, st.randoms())
def test_the_order_of_alerts_does_not_matter(alerts: list[Alert], shuffling: random.Random) -> None:
    shuffled = list(alerts)
    shuffling.shuffle(shuffled)
    assert score(shuffled, LABELS) == score(alerts, LABELS)


@given(SOME, SOME)
def test_pooled_trials_say_what_their_parts_say_together(one: list[Alert], other: list[Alert]) -> None:
    parts = [score(one, LABELS), score(other, LABELS)]
    for name, measure in MEASURES.items():
        tops, bottoms = zip(*((rate.top, rate.bottom) for rate in map(measure, parts)), strict=True)
        pooled = measure(pool(parts))
        assert pooled.top == pytest.approx(sum(tops)), name
        assert pooled.bottom == sum(bottoms), name


@given(SOME, st.floats(0, 48 * H))
def test_shifting_there_and_back_changes_no_time(alerts: list[Alert], by: float) -> None:
    moved = shifted(alerts, LABELS, by)
    assert all(LABELS.scored_from <= one.at < LABELS.until for one in moved)
    inside = [one.at for one in alerts if LABELS.scored_from <= one.at <= LABELS.until]
    back = [one.at for one in shifted(moved, LABELS, -by)]
    assert all(min(abs(a - b), 48 * H - abs(a - b)) < 1e-3 for a, b in zip(inside, back, strict=True))


def test_an_alert_all_the_time_is_as_good_by_chance_and_a_rare_one_is_not() -> None:
    always = [alert(quarter / 4, key) for key in ("k1", "k2", "k4") for quarter in range(4 * 48)]
    assert value(by_chance(always, LABELS), "recall") == value(score(always, LABELS), "recall") == 1.0
    rare = [alert(11, "k1", kind="leaked_key"), alert(32, "k2", kind="agent_loop")]
    assert value(score(rare, LABELS), "recall") == 1.0
    # a window of 2.5 h and one of 4.5 h in 48 h
    assert 0.0 < (value(by_chance(rare, LABELS), "recall") or 0.0) < 0.25
    assert by_chance(rare, LABELS) == by_chance(rare, LABELS)


def test_an_interval_needs_trials_contains_their_mean_and_is_a_point_where_they_agree() -> None:
    found, missed = score([alert(11, "k1"), alert(32, "k2")], LABELS), score([alert(46, "k3")], LABELS)
    recall = MEASURES["recall"]
    assert interval([found], recall) is None
    assert interval([found] * 5, recall) == (1.0, 1.0)
    assert interval([score([], LABELS)] * 2, MEASURES["precision"]) is None
    few, many = interval([found, missed] * 3, recall), interval([found, missed] * 30, recall)
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < 0.5 < many[1] < few[1]


def test_groups_hold_their_own_outcomes_only() -> None:
    groups = grouped(score(ALERTS, LABELS).incidents, lambda outcome: str(outcome.kind))
    assert {kind: value(group, "recall_all") for kind, group in groups.items()} == {
        "agent_loop": 0.0,
        "leaked_key": 1.0,
        "token_inflation": 1.0,
    }


def test_the_tables_show_what_was_worked_out() -> None:
    got = score(ALERTS, LABELS)
    rows = [Row("ours", (got,), by_chance(ALERTS, LABELS)), Row("silent", (score([], LABELS),) * 3, score([], LABELS))]
    found, disturbed = summary(rows)
    assert found.rows[0][:2] == ("ours", "50")
    assert found.rows[0][3:] == ("67", "100", "-15 min", "-15 min", "26", "39", "50")
    assert found.rows[1] == ("silent", "0 (0..0)", "0", "0 (0..0)", "-", "-", "-", "70 (70..70)", "70 (70..70)", "0 (0..0)")
    assert disturbed.rows[0] == ("ours", "40", "1.00", "1.00", "0.00", "1 of 1", "0 of 2", "3.00")
    said = basis(rows[0])
    assert said == "2 material incidents (of 3), $70 each if nothing is done; 1 look-alikes; 100 key-days; trials: 1."
    assert by_scenario(got).rows[0] == ("creeps", "-", "1 of 1", "-", "-", "-", "-", "-")
    assert by_kind(got).rows[1] == ("leaked_key", "1 of 1", "1 of 1", "1 of 1", "-15 min", "-15 min", "1 of 1", "0 of 1")
    assert by_lookalike(got).rows[0] == ("launchs", "1", "0", "0", "1", "1")
    title, _, *lines = found.markdown().splitlines()
    assert title == "### What is found"
    assert len({len(line) for line in lines}) == 1


def test_the_numbers_in_json_are_those_of_the_tables() -> None:
    got = score(ALERTS, LABELS)
    [row] = msgspec.json.decode(to_json([Row("ours", (got, got), by_chance(ALERTS, LABELS))]))
    assert row["measures"]["usd_before_alert"] == {"value": 26.25, "interval": [26.25, 26.25]}
    assert (row["trials"], row["material"], row["lookalikes"], row["key_days"]) == (2, 4, 2, 200.0)
    assert row["delay_s"] == {"median": -900.0, "p90": -900.0}
    assert row["by_kind"]["agent_loop"]["measures"]["recall"] == 0.0
    assert row["by_lookalike"]["launchs"] == {"n": 2, "set_off": {"notices": 0, "tickets": 0, "pages": 2, "actions": 2}}
