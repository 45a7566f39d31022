"""`price_mismatch`: what gateways say that calls cost, held against the price book."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actions.context import Context
from detectors.mix import EVERY, IN_A_ROW
from schemas.batch import ABSENT, NANO
from schemas.decode import split
from schemas.incidents import News
from schemas.policy import Policy
from schemas.prices import Discount, Entry
from schemas.signals import Signal
from stream import responder
from stream.assembly import Assembly
from stream.claims import MOST, add_claims
from stream.pipeline import Output
from tests.calls import T0
from tests.story import Story
from tests.test_checkpoint import through_bytes

MINUTE, HOUR = 60_000, 3_600_000
Said = tuple[int, float | None, dict[str, Any]]
"""A call that costs a dollar: Ms after T0, the claim (USD), and what else of the event is another."""


def lines_of(calls: Sequence[Said]) -> list[tuple[int, bytes]]:
    made = []
    for n, (at, claim, more) in enumerate(calls):
        event = {"event_id": f"e{n}", "ts": (T0 + at) / 1000, "tenant": "acme", "key_id": f"key-{n % 3}"}
        event |= {"provider": "openai", "model": "gpt-4o", "input_tokens": 400_000, "output_tokens": 0}
        event |= {} if claim is None else {"cost_usd": claim}
        made.append((T0 + at, json.dumps(event | {"feature": f"f{n % 2}"} | more).encode()))
    return made


class Part:
    """A partition that is fed, cut and restored."""

    def __init__(self, prices: Sequence[Entry] = ()) -> None:
        self.prices = prices
        self.assembly = Assembly(prices, dedupe=64)
        self.signals: list[Signal] = []

    def feed(self, lines: Sequence[tuple[int, bytes]]) -> None:
        if lines:
            block = split(b"\n".join(line for _, line in lines))
            block.clock[:] = [at for at, _ in lines]
            self._heard(self.assembly.pipeline.feed(self.assembly.decoder.decode(block)[0]))

    def advance(self, to: int) -> None:
        self._heard(self.assembly.pipeline.advance(to))

    def restart(self) -> None:
        state = through_bytes(self.assembly.snapshot())
        self.assembly = Assembly(self.prices, dedupe=64)
        self.assembly.restore(state)

    def _heard(self, output: Output) -> None:
        panes = [signal for signals, _ in output.panes() for signal in signals]
        assert panes == output.signals, "a signal that belongs to no pane is heard by nobody"
        self.signals += [signal for signal in output.signals if signal.kind == "price_mismatch"]


def said(calls: Sequence[Said], prices: Sequence[Entry] = (), quiet: int = 0) -> list[Signal]:
    """What is said of calls, and of so long a time without any."""
    part = Part(prices)
    part.feed(lines_of(calls))
    part.advance(T0 + calls[-1][0] + quiet + EVERY + MINUTE)
    return part.signals


def phases(signals: list[Signal]) -> list[str]:
    return [signal.phase for signal in signals]


def steady(minutes: int, claim: float | None, since: int = 0, **more: Any) -> list[Said]:
    """A call a minute, five in every comparison."""
    return [(since + n * MINUTE + 30_000, claim, more) for n in range(minutes)]


@pytest.mark.parametrize("claim", [1.27, 0.6])
def test_a_gateway_that_is_off_for_half_an_hour_is_told_with_what_both_say(claim: float) -> None:
    signals = said(steady(40, claim))
    assert phases(signals) == ["open", *["update"] * (len(signals) - 1)]
    opened = signals[0]
    calls = (opened.at - T0) // MINUTE
    assert (opened.tenant, opened.key_id, opened.started) == ("acme", "*", T0)
    assert opened.at - opened.started == IN_A_ROW * EVERY
    (told,) = opened.evidence.contributions
    assert (told.name, told.unit) == ("openai/gpt-4o", "USD")
    assert told.observed == pytest.approx(claim * told.expected)
    assert told.expected == pytest.approx(calls)
    assert opened.evidence.usd_per_hour == pytest.approx(60 * abs(claim - 1))


@pytest.mark.parametrize(
    "calls",
    [
        steady(600, 1.0),
        steady(600, 1.0004),
        steady(600, 1.04),
        steady(600, None),
        steady(25, 1.27),
        [(at, 500.0 if n % 60 == 7 else 1.0, {}) for n, (at, _, _) in enumerate(steady(600, 1.0))],
        [(at, 1.5 if n // 5 % 2 else 0.5, {}) for n, (at, _, _) in enumerate(steady(600, 1.0))],
        steady(200, 0.002, input_tokens=400),
        steady(200, 2.0, model="nobody-knows-it"),
        steady(200, 1.0, response_cache="hit"),
    ],
    ids=["right", "rounding", "4 %", "no claim", "too short", "odd calls", "to and fro", "cents", "a guess", "cache hits"],
)
def test_what_is_no_mismatch_is_not_told(calls: list[Said]) -> None:
    assert said(calls) == []


@pytest.mark.parametrize(("claim", "told"), [(1.0, 0), (0.8, 0), (0.9, 0), (0.5, 1), (1.3, 1)])
def test_a_discount_that_we_know_of_may_be_claimed_or_not(claim: float, told: int) -> None:
    terms: list[Entry] = [Discount(tenant="acme", discount=0.2, effective_from=0, provider="openai")]
    assert phases(said(steady(40, claim), terms))[:1] == ["open"] * told
    assert said(steady(40, 0.8)), "a discount that nobody told us of"


def test_it_clears_when_the_claims_are_right_for_half_an_hour_not_when_they_are_nearly_right() -> None:
    wrong, nearly, right = steady(60, 1.3), steady(120, 1.04, HOUR), steady(60, 1.01, 3 * HOUR)
    assert phases(said(wrong + nearly)).count("clear") == 0
    signals = said(wrong + nearly + right)
    assert phases(signals)[-1] == "clear"
    assert signals[-1].at - (T0 + 3 * HOUR) in range(IN_A_ROW * EVERY, (IN_A_ROW + 1) * EVERY + 1)
    assert len({signal.episode for signal in signals}) == 1
    assert len({signal.id for signal in signals}) == len(signals)


def test_an_open_episode_is_spoken_of_while_nobody_calls_and_ends_after_a_day_without_a_claim() -> None:
    signals = said(steady(60, 1.3), quiet=25 * HOUR)
    assert phases(signals)[-1] == "clear"
    assert all(later.at - one.at == EVERY for one, later in pairwise(signals))


@st.composite
def streams(draw: st.DrawFn) -> list[Said]:
    calls, at, claim = [], 0, 1.0
    for _ in range(draw(st.integers(1, 60))):
        at += draw(st.sampled_from([1_000, MINUTE, 4 * MINUTE, 5 * MINUTE, 5 * MINUTE, HOUR, 25 * HOUR]))
        claim = draw(st.sampled_from([claim, claim, claim, claim, 1.0, 1.04, 3.0, 0.0]))
        calls.append((at, draw(st.sampled_from([claim, claim, None])), {"model": draw(st.sampled_from(["gpt-4o", "o3"]))}))
    return calls


@settings(max_examples=40, deadline=None)
@given(streams(), st.integers(0, 2**32))
def test_cut_anywhere_and_restarted_it_says_the_same(calls: list[Said], seed: int) -> None:
    chance, lines, whole, pieces = random.Random(seed), lines_of(calls), Part(), Part()
    whole.feed(lines)
    whole.advance(lines[-1][0] + 2 * HOUR)
    at = 0
    while at < len(lines):
        upto = min(len(lines), at + chance.randint(1, 9))
        pieces.feed(lines[at:upto])
        if chance.random() < 0.3:
            pieces.advance(chance.randint(lines[upto - 1][0], lines[min(upto, len(lines) - 1)][0]))
        if chance.random() < 0.3:
            pieces.restart()
        at = upto
    pieces.advance(lines[-1][0] + 2 * HOUR)
    assert pieces.signals == whole.signals


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2**61), st.integers(0, 2**61)), max_size=40))
def test_the_kernel_adds_up_as_its_twin_does(calls: list[tuple[int, int, int]]) -> None:
    rows, claims, costs = (np.array([call[n] for call in calls], np.int64) for n in range(3))
    ours, theirs = np.zeros(4, np.int64), np.zeros(4, np.int64)
    add_claims(np.arange(len(calls)), rows.astype(np.int32), claims, costs.reshape(-1, 1), ours, theirs)
    for row in range(4):
        mine = [(claim, cost) for at, claim, cost in calls if at == row and claim != ABSENT]
        assert theirs[row] == min(sum(claim for claim, _ in mine), MOST)
        assert ours[row] == min(sum(cost for _, cost in mine), MOST)


def test_a_claim_of_whatever_a_caller_likes_is_told_and_breaks_nothing() -> None:
    part = Part()
    part.feed(lines_of(steady(40, 1e12)))
    part.restart()
    part.advance(T0 + 2 * HOUR)
    assert phases(part.signals)[0] == "open"
    assert Signal.read(part.signals[0].to_json()) == part.signals[0]
    assert part.signals[0].evidence.observed < MOST / NANO * 100


EVERYTHING = Policy.model_validate(
    {
        "version": 1,
        "rules": [
            {"name": "all", "do": ["notify", {"throttle": {"strength": 0.9, "lease": "60s"}}], "match": {}, "armed": True},
        ],
    }
)


def heard(opened: Signal) -> tuple[list[News], list[str]]:
    """What a responder tells whose policy throttles whatever it hears of, and what it would send."""
    with closing(Story("sqlite://", EVERYTHING, now=opened.at)) as story:
        story.responder.hear([opened], story.now)
        return story.responder.news(), [delivery.verb for delivery in story.responder.due(story.now)]


@pytest.mark.parametrize(("claim", "severity"), [(1.27, "notice"), (0.5, "notice"), (1.9, "ticket")])
def test_it_is_told_in_dollars_as_a_notice_or_a_ticket(claim: float, severity: str) -> None:
    (opened, notified), _ = heard(said(steady(40, claim))[0])
    both = f"gateway says ${30 * claim:,.2f}, price book says $30.00 (ratio {claim:.2f})"
    assert opened.said == f"price_mismatch of acme/*: openai/gpt-4o: {both}"
    assert notified.what == "notified"
    assert notified.said.startswith(severity)
    assert "price_mismatch.md" in notified.said


def test_nothing_is_ordered_for_it_and_without_its_hold_a_throttle_would_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = said(steady(40, 9.0))[0]
    assert heard(signal)[1] == []
    monkeypatch.setattr(responder, "in_context", lambda *_: Context("ticket", ()))
    assert heard(signal)[1] == ["apply"]
