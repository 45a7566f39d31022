"""From signals to orders and back: what reaches people and receivers, whatever dies in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actions.incidents import INCIDENT_TABLE, ORDER_TABLE, alert_row
from actions.ledger import Deposed, Ledger
from detectors.gap import offset_gap
from schemas.directory import Directory
from schemas.incidents import IncidentState
from schemas.orders import Delivery, OrderState, Receipt
from schemas.policy import Policy
from stream.responder import pull_switch
from tests.conftest import NewLedger, NewStory, fewer
from tests.story import ARMED, KEY, T0, Story, signal

LIFE = ["incident_opened", "notified", "throttle_applied", "throttle_reverted", "incident_resolved"]


@pytest.fixture
def story(new_story: NewStory) -> Story:
    return new_story()


def test_a_throttle_is_applied_reverted_at_lease_end_and_the_incident_resolves(story: Story) -> None:
    story.hear(signal(T0))
    assert story.hook.throttled == {KEY: T0 + 60_000}
    story.play(59)
    assert KEY in story.hook.throttled
    story.play(21)
    assert not story.hook.throttled
    assert story.whats() == LIFE
    assert story.told[3][0] == 60
    assert story.told[4][0] == 75


def test_an_incident_that_nothing_was_heard_of_does_not_resolve_before_its_throttle_was_taken_back(story: Story) -> None:
    story.hear(signal(T0))
    for seconds in (2 * 3600, 2 * 3600 + 5):  # nobody made a call meanwhile: the clock of a backtest jumps
        story.now = T0 + seconds * 1000
        story.responder.tick(story.now)
        story.deliver()
    assert story.told[-2:] == [(7200.0, "throttle_reverted"), (7200.0, "incident_resolved")]


def test_quiet_while_throttled_does_not_resolve(story: Story) -> None:
    story.hear(signal(T0))
    story.play(10)
    story.hear(signal(T0 + 10_000, "clear"))
    story.play(40)
    assert "incident_resolved" not in story.whats()


def test_a_burn_that_ends_by_itself_resolves_on_clear(story: Story) -> None:
    story.hear(signal(T0, usd_per_hour=10.0))
    story.play(60)
    story.hear(signal(T0 + 60_000, "clear"))
    assert story.whats() == ["incident_opened", "notified", "incident_resolved"]


def test_a_burn_after_the_revert_is_throttled_for_twice_as_long_and_after_three_a_human_decides(story: Story) -> None:
    story.hear(signal(T0))
    story.play(900, burns=lambda at: True)
    effects = [verb for verb, _ in story.hook.effects]
    assert effects == ["apply", "revert"] * 3
    applied = [at for at, what in story.told if what == "throttle_applied"]
    reverted = [at for at, what in story.told if what == "throttle_reverted"]
    assert [round(r - a) for a, r in zip(applied, reverted, strict=True)] == [60, 120, 240]
    assert story.whats().count("human_needed") == 1
    assert len({order for _, order in story.hook.effects}) == 3


def test_an_incident_that_comes_back_within_15_minutes_is_the_same_one(story: Story) -> None:
    story.hear(signal(T0))
    story.play(100)
    again = T0 + 200_000
    story.play(100)
    story.hear(signal(again, started=again))
    assert story.whats() == [*LIFE, "incident_reopened", "throttle_applied"]
    story.play(1100)
    later = story.now
    story.hear(signal(later, started=later))
    assert story.whats().count("incident_opened") == 2


def test_a_lease_is_renewed_while_the_burn_goes_on(story: Story) -> None:
    story.hear(signal(T0))
    story.play(40)
    story.hear(signal(story.now, "update"))
    assert story.hook.throttled == {KEY: T0 + 100_000}
    assert story.whats()[-1] == "throttle_renewed"
    story.play(59)
    assert KEY in story.hook.throttled


def test_ten_thousand_replays_of_an_episode_make_one_order(story: Story) -> None:
    for _ in range(100):
        story.responder.hear([signal(T0)] * 100, story.now)
        story.deliver()
    assert len(story.hook.posts) == 1
    story.restart()
    story.hear(signal(T0))
    assert len(story.hook.posts) == 1


def test_a_stale_signal_is_recorded_and_never_acted_on(story: Story) -> None:
    story.hear(signal(T0 - 60_001, started=T0 - 60_001))
    assert not story.told
    assert not story.hook.posts
    story.responder._stale = 10**9
    story.hear(signal(T0 - 60_002, started=T0 - 60_001))
    assert story.hook.posts, "with the protection off it would have acted"


@pytest.mark.parametrize(
    "evidence",
    [
        {"learning": 3},
        {"guessed_share": 0.6},
        {"hot_panes": 1},
        {"hot_panes": 0},
        {"usd_per_hour": 0.0},
        {"known_for": 22 * 3_600_000},
        {"known_for": None},
        {"shortest": 900_000},
        {"shortest": None},
    ],
)
def test_unknown_or_weak_evidence_is_told_and_never_acted_on(story: Story, evidence: dict[str, Any]) -> None:
    story.hear(signal(T0, **evidence))
    story.play(30)
    assert story.whats() == ["incident_opened", "notified"]
    assert not story.hook.posts


def test_a_tenants_other_keys_are_told_and_never_acted_on(story: Story) -> None:
    story.hear(signal(T0, key=("acme", "other")))
    story.play(30)
    assert story.whats() == ["incident_opened", "notified"]
    assert not story.hook.posts


@pytest.mark.parametrize(
    "known",
    [
        {"tenants": [{"tenant": "acme", "created_at": T0 / 1000 - 3600}]},
        {"tenants": [{"tenant": "acme", "keys": [{"key_id": "key-1", "created_at": T0 / 1000 - 60}]}]},
        {"tenants": [{"tenant": "acme", "keys": [{"key_id": "key-1", "replaces": "key-0"}]}]},
        {"declared_windows": [{"kind": "load_test", "tenant": "acme", "start_ts": T0 / 1000 - 9, "end_ts": T0 / 1000 + 9}]},
    ],
)
def test_what_the_directory_explains_is_never_acted_on(new_story: NewStory, known: dict[str, Any]) -> None:
    story = new_story(directory=Directory.model_validate(known))
    story.hear(signal(T0))
    assert not story.hook.posts
    assert story.whats() == ["incident_opened", "notified"]


def test_shadow_decides_the_same_and_sends_nothing(new_story: NewStory) -> None:
    rules = [rule.model_copy(update={"armed": False}) for rule in ARMED.rules]
    story = new_story(policy=Policy(version=1, rules=tuple(rules)))
    story.hear(signal(T0))
    assert story.whats() == ["incident_opened", "notified", "throttle_proposed"]
    story.play(660)
    assert not story.hook.posts
    assert story.whats()[-1] == "throttle_expired"


def test_people_are_told_again_only_when_it_gets_worse(story: Story) -> None:
    story.hear(signal(T0, usd_per_hour=10.0))
    for second, rate in ((60, 20.0), (120, 60.0), (180, 70.0)):
        story.play(60)
        story.hear(signal(T0 + second * 1000, "update", usd_per_hour=rate))
    assert story.whats() == ["incident_opened", "notified", "notified"]


def test_the_kill_switch_takes_everything_back_and_lets_nothing_leave(story: Story) -> None:
    others = [("acme", f"key-{n}") for n in range(2, 6)]
    story.hear(signal(T0), *(signal(T0, key=key) for key in others))
    assert len(story.hook.throttled) == 5
    story.says("stop")
    story.second()
    assert not story.hook.throttled
    story.hear(signal(story.now, started=story.now, key=("acme", "key-9")))
    story.play(30)
    assert not story.hook.throttled
    story.says("release")
    story.second()
    story.hear(signal(story.now, started=story.now, key=("acme", "key-10")))
    assert story.hook.throttled


TWO_TIERS = Policy.model_validate(
    {
        "version": 1,
        "rules": [
            {
                "name": "stop",
                "match": {"severity": "page"},
                "do": [{"throttle": {"strength": 1, "lease": "60s"}}],
                "armed": True,
            },
            {"name": "try", "match": {"severity": "ticket"}, "do": [{"throttle": {"strength": 0.5, "lease": "60s"}}]},
        ],
    }
)


def test_a_proposal_in_shadow_does_not_stand_in_the_way_of_an_armed_rule(new_story: NewStory) -> None:
    story = new_story(policy=TWO_TIERS)
    story.hear(signal(T0, usd_per_hour=60.0))
    assert story.whats() == ["incident_opened", "throttle_proposed"]
    story.hear(signal(T0 + 60_000, "update", usd_per_hour=900.0))
    assert story.whats()[2:] == ["throttle_applied"]
    assert len({o.id for o in story.responder._book.orders.values()}) == 2


def test_a_shadow_rule_proposes_once(new_story: NewStory) -> None:
    story = new_story(policy=TWO_TIERS)
    for minute in range(30):
        story.now = T0 + minute * 60_000
        story.hear(signal(story.now, "update" if minute else "open", usd_per_hour=60.0))
        story.second()
    assert story.whats() == ["incident_opened", "throttle_proposed", "throttle_expired"]


def test_a_new_ledger_is_obeyed_by_a_receiver_that_knew_the_old_one(story: Story, new_story: NewStory) -> None:
    story.hear(signal(T0))
    story.play(62)
    fresh = new_story()
    fresh.hook, fresh.now = story.hook, story.now
    fresh.hear(signal(story.now, started=story.now))
    assert story.hook.throttled


def test_lost_calls_are_told_and_never_acted_on(new_story: NewStory) -> None:
    rule = {"name": "all", "match": {}, "do": ["notify", {"throttle": {"strength": 1, "lease": "60s"}}], "armed": True}
    story = new_story(policy=Policy.model_validate({"version": 1, "rules": [rule]}))
    story.responder.hear([offset_gap(3, 1000, 250, T0, "")], T0)
    opened, told = story.responder.news()
    assert opened.said == "telemetry_gap of */*: 250 calls lost of partition 3 from offset 1000"
    assert told.said.startswith("ticket: */* 250 calls lost of partition 3 from offset 1000; not acted on")
    story.second()
    assert not story.hook.posts


def test_the_kill_switch_is_read_again_right_before_a_send(story: Story) -> None:
    story.responder.hear([signal(T0)], story.now)
    delivery = story.responder.due(story.now)[0]
    story.says("stop")
    assert not story.responder.claim(delivery, story.now)


def test_a_stop_that_nobody_lived_to_obey_is_obeyed_at_the_next_start(story: Story) -> None:
    story.hear(signal(T0))
    story.says("stop")
    story.restart()
    story.second()
    assert not story.hook.throttled


async def stopped(story: Story, clock: Callable[[], int]) -> str:
    """What `burnguard stop` says, without a receiver."""
    with closing(Ledger(story.name)) as ledger:
        return await pull_switch(ledger, False, clock, lambda _: None, ARMED)


async def test_a_stop_without_a_responder_does_not_pass_for_one(story: Story) -> None:
    story.hear(signal(T0))
    story.ledger.close()
    clock = iter(range(T0 + 20_000, T0 + 30_000)).__next__
    for _ in range(2):
        said = await stopped(story, clock)
        assert "no responder lives; 1 throttles are out" in said


async def test_a_heart_that_beat_just_before_the_stop_and_never_again_is_no_responder(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.responder.LISTEN_S", 0.0)
    story.hear(signal(T0))
    clock = iter(range(T0 + 100, T0 + 100_000, 100)).__next__
    said = await stopped(story, clock)
    assert "no responder lives; 1 throttles are out" in said


async def test_a_responder_that_lives_is_left_to_take_everything_back(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.responder.LISTEN_S", 0.0)
    story.hear(signal(T0))
    readings = itertools.count()

    def clock() -> int:
        if next(readings) == 8:
            story.second()
        return T0 + 500

    said = await stopped(story, clock)
    assert said == "stopped: the running responder takes every throttle back"
    assert not story.hook.throttled


@pytest.mark.parametrize("clear", ["late", "lost"])
def test_a_clear_that_is_late_or_lost_does_not_silence_the_next_burn(story: Story, clear: str) -> None:
    story.hear(signal(T0, usd_per_hour=60.0))
    story.now += 200_000
    if clear == "late":
        story.hear(signal(T0 + 100_000, "clear"))
    story.now += 86_400_000
    story.second()
    story.hear(signal(story.now, started=story.now, usd_per_hour=60.0))
    assert story.whats() == ["incident_opened", "notified", "incident_resolved", "incident_opened", "notified"]


def test_a_refusal_after_a_lost_answer_is_taken_back(story: Story) -> None:
    story.hook.answer = unreachable
    story.hear(signal(T0))
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, d.verb == "revert", False, "HTTP 400")
    story.play(20)
    assert [verb for verb, _ in story.hook.effects] == ["apply", "revert"]


def test_a_zombie_writes_nothing(story: Story) -> None:
    with closing(Story(story.name)) as usurper:
        with pytest.raises(Deposed):
            story.hear(signal(T0))
        assert not story.hook.posts
        usurper.hear(signal(T0))
        assert len(usurper.hook.posts) == 1


def unreachable(delivery: Delivery, now: int) -> Receipt:
    return Receipt(delivery.webhook_id, now, ok=False, retry=True, said="ClientConnectorError")


def test_an_apply_is_retried_with_the_same_id_until_the_lease_ends_and_then_taken_back(story: Story) -> None:
    story.hook.answer = unreachable
    story.hear(signal(T0))
    story.play(60)
    applies = [webhook_id for _, verb, webhook_id in story.hook.posts if verb == "apply"]
    assert len(applies) > 3
    assert len(set(applies)) == 1
    assert "delivery_failed" in story.whats()
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, True, False, "HTTP 200")
    story.play(320)
    assert not story.hook.throttled
    assert [verb for verb, _ in story.hook.effects] == ["apply", "revert"]


def test_a_receiver_that_asks_for_a_day_of_patience_is_asked_every_hour_and_until_the_end(story: Story) -> None:
    story.hear(signal(T0))
    story.hook.hears = False
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, False, True, "HTTP 503", wait=90_000_000)
    story.play(61)
    for _ in range(24 * 60):
        story.now += 59_000
        story.second()
    reverts = [at for at, verb, _ in story.hook.posts if verb == "revert"]
    assert len(reverts) == 25
    assert max(b - a for a, b in itertools.pairwise(reverts)) <= 3_661_000
    assert story.whats()[-1] == "throttle_failed"


def test_a_lost_answer_gives_two_posts_and_one_effect(story: Story) -> None:
    story.hook.answer = unreachable
    story.hear(signal(T0))
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, True, False, "HTTP 200")
    story.play(20)
    assert len(story.hook.posts) >= 2
    assert [verb for verb, _ in story.hook.effects] == ["apply"]


def test_a_refused_apply_fails_and_says_so(story: Story) -> None:
    story.hook.hears = False
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, False, False, "HTTP 410")
    story.hear(signal(T0))
    story.play(100)
    assert story.whats()[-1] == "throttle_failed"
    assert len(story.hook.posts) == 1


def test_an_apply_that_could_not_leave_in_time_never_leaves(story: Story) -> None:
    story.responder.hear([signal(T0)], story.now)
    story.now += 61_000
    story.deliver()
    assert not story.hook.posts
    assert story.whats()[-1] == "throttle_expired"


class Crash(Exception):
    """The process dies here."""


def whole_life(story: Story, at: list[str], nth: int, name: str) -> None:
    """Apply, renew, revert, burn, re-apply, revert, resolve; dies once at the nth hit of `name` and starts again."""
    hits = itertools.count(1)

    def failpoint(here: str) -> None:
        at.append(here)
        if here == name and next(hits) == nth:
            raise Crash

    def survive(step: Any, *arguments: Any) -> None:
        try:
            step(*arguments)
        except Crash:
            story.restart()
            step(*arguments)

    story.restart(failpoint)
    survive(story.hear, signal(T0))
    for second in range(1, 400):
        survive(story.second)
        if second == 40:
            survive(story.hear, signal(T0 + 40_000, "update"))
        if second % 5 == 0:
            burning = [KEY] if 100 <= second <= 115 else []
            survive(story.pane, second, burning)


def test_killed_at_any_point_of_an_orders_life_it_neither_forgets_nor_repeats(new_story: NewStory) -> None:
    points: list[str] = []
    calm = new_story()
    whole_life(calm, points, 0, "")
    assert [verb for verb, _ in calm.hook.effects] == ["apply", "renew", "revert", "apply", "revert"]
    crashes = 0
    for name in sorted(set(points)):
        for nth in range(1, min(points.count(name), fewer(5, calm.name)) + 1):
            story = new_story()
            whole_life(story, [], nth, name)
            assert [v for v, _ in story.hook.effects if v != "renew"] == ["apply", "revert", "apply", "revert"], (name, nth)
            assert {order for _, order in story.hook.effects} == {order for _, order in calm.hook.effects}, (name, nth)
            assert not story.hook.throttled, (name, nth)
            assert not story.responder.out()
            crashes += 1
    assert crashes >= fewer(20, calm.name)


STEPS = st.sampled_from(["burn", "clear", "wait", "fail", "heal", "stop", "release", "restart"])


def test_whatever_happens_no_throttle_outlives_its_revert_window(new_ledger: NewLedger) -> None:
    @settings(max_examples=fewer(30, new_ledger()), deadline=None)
    @given(st.lists(STEPS, max_size=25))
    def holds(steps: list[str]) -> None:
        with closing(Story(new_ledger())) as story:
            whatever_happens(story, steps)
        assert not story.hook.throttled
        assert not story.responder.out()

    holds()


def whatever_happens(story: Story, steps: list[str]) -> None:
    """These steps, 7 s apart, then a quarter of an hour of quiet with a receiver that answers."""
    for step in steps:
        if step == "burn":
            story.hear(signal(story.now, started=story.now))
        elif step == "clear":
            story.hear(signal(story.now, "clear"))
        elif step in ("fail", "heal"):
            story.hook.answer = unreachable if step == "fail" else lambda d, now: Receipt(d.webhook_id, now, True, False, "")
        elif step in ("stop", "release"):
            story.says(step)  # type: ignore[arg-type]  # one of the two, see above
        elif step == "restart":
            story.restart()
        story.play(7)
    story.hook.answer = lambda d, now: Receipt(d.webhook_id, now, True, False, "")
    story.play(700)


def test_a_start_loads_what_lives_and_what_is_on_its_way_and_leaves_the_past_in_the_ledger(story: Story) -> None:
    other, third = ("acme", "key-2"), ("acme", "key-3")
    story.hear(signal(T0))
    story.play(100)
    assert story.whats()[-1] == "incident_resolved"
    newest = story.responder._book.sequence
    story.now += 20 * 60_000
    story.hook.hears, story.hook.answer = False, unreachable
    story.hear(signal(story.now, started=story.now, key=other))
    story.play(300, burns=lambda at: False)
    story.hear(signal(story.now, started=story.now, key=third, learning=3))
    story.restart()
    book = story.responder._book
    assert {i.key_id for i in book.incidents.values()} == {"key-2", "key-3"}
    assert {o.key_id for o in book.orders.values()} == {"key-2", "key-3"}
    assert [d.verb for d in book.deliveries.values()] == ["revert"]
    assert book.sequence > newest
    story.hook.hears, story.hook.answer = True, lambda d, now: Receipt(d.webhook_id, now, True, False, "HTTP 200")
    story.play(2000)
    story.restart()
    assert not story.responder._book.incidents
    assert story.responder._book.sequence == book.sequence


def test_more_signals_than_one_statement_takes_are_decided_once(story: Story) -> None:
    many = [signal(T0 - 90_000 - n) for n in range(40_000)]
    story.responder.hear(many, story.now)
    assert story.ledger.knows([s.id for s in many]) == {s.id for s in many}
    story.responder.hear(many, story.now)
    assert not story.responder._decided


def test_every_state_has_its_transitions_and_ends_are_ends() -> None:
    assert set(INCIDENT_TABLE) == set(IncidentState)
    assert set(ORDER_TABLE) == set(OrderState)
    assert [s for s in OrderState if not ORDER_TABLE[s]] == ["reverted", "expired", "denied", "failed"]


def test_alert_rows_are_the_first_notification_a_rise_and_the_first_apply(story: Story) -> None:
    news = []
    story.responder.hear([signal(T0, usd_per_hour=60.0)], story.now)
    news += story.responder.news()
    story.responder.hear([signal(T0 + 1, "update")], story.now)
    story.deliver = lambda: None  # type: ignore[method-assign]  # news are read here
    for delivery in story.responder.due(story.now):
        story.responder.claim(delivery, story.now)
        story.responder.settle(Receipt(delivery.webhook_id, story.now, True, False, ""))
    news += story.responder.news()
    rows = [row for row in map(alert_row, news) if row is not None]
    assert [(r["action"], r["severity"], r["usd_at_risk"]) for r in rows] == [
        ("notify", "ticket", 60.0),
        ("notify", "page", 600.0),
        ("throttle", "page", 600.0),
    ]
    assert set(rows[0]) == {
        "at", "incident", "kind", "severity", "tenant", "key_id", "action", "usd_at_risk", "evidence",
    }  # fmt: skip
