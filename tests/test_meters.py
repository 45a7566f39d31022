"""Every meter against plain Python sums over the calls: whatever the cuts, the order, the lateness and the partitions."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decode import split
from schemas.prices import PriceEntry
from schemas.reading import Reading
from stream.assembly import Assembly
from stream.distinct import FEW, KINDS, MANY, Distinct
from stream.figures import Totals
from stream.health import SPANS
from stream.measures import HEALTH, OF_A_CALL
from stream.meters import Group
from stream.pipeline import Output
from stream.readings import ENDS, Readings, Whose, inflation
from stream.sketches import ACCURACY, BUCKETS, FIRST, MAPPING, WHAT, bucket_of
from stream.uses import Uses
from stream.windows import DAY, HOUR, MINUTE
from tests.calls import T0, batch
from tests.plain import Event, belongs, by_hand, named, numbered, totals_of, whose_of
from tests.test_checkpoint import through_bytes

PRICE = {"provider": "p", "model": "m", "effective_from": 0, "unit": "USD per 1M tokens"}
PRICES = [
    PriceEntry.model_validate(PRICE | {"model": model, "input": 1.0, "cache_read": 0.25, "output": 4.0})
    for model in ("m", "m-20260101", "other-m")
]


def usd_of(event: Event) -> int:
    """Nano-dollars, by hand."""
    cached = event.get("cached_input_tokens", 0)
    tokens = 1000 * (event["input_tokens"] - cached) + 250 * cached + 4000 * event["output_tokens"]
    return 0 if event.get("response_cache") == "hit" else tokens


@dataclass(frozen=True)
class Call:
    """One call as delivered: when (Ms), where, and what."""

    clock: int
    partition: int
    event: Event

    @property
    def at(self) -> int:
        return min(self.clock, int(self.event["ts"] * 1000 + 0.5))


@st.composite
def deliveries(draw: st.DrawFn) -> list[Call]:
    """Calls of two tenants over a few days in clock order: late, ahead, of every outcome, with and without every field."""
    clock, calls = T0, []
    for n in range(draw(st.integers(1, 50))):
        clock += draw(st.sampled_from([0, 1, 4_000, 70_000, 20 * MINUTE, HOUR, 7 * HOUR]))
        lag = draw(st.sampled_from([0, 0, 0, 3_000, 90_000, HOUR, 26 * HOUR, -59_000, -70_000]))
        tenant, read = draw(st.integers(0, 1)), draw(st.integers(0, 3_000))
        event = {
            "event_id": f"e{n}",
            "ts": (clock - lag) / 1000,
            "tenant": f"tenant-{tenant}",
            "key_id": f"key-{draw(st.integers(0, 2))}",
            "provider": "p",
            "model": draw(st.sampled_from(["m", "m-20260101", "other-m"])),
            "input_tokens": read,
            "output_tokens": draw(st.integers(0, 900)),
        }
        maybe: dict[str, Any] = {
            "cached_input_tokens": st.integers(0, read),
            "status": st.sampled_from([0, 200, 302, 400, 401, 403, 408, 422, 429, 500, 529]),
            "latency_ms": st.sampled_from([0, 12.4, 12.5, 60_000]),
            "attempt": st.integers(0, 3),
            "request_id": st.sampled_from(["r1", "r2", ""]),
            "requested_model": st.sampled_from(["m", "other-m", ""]),
            "response_cache": st.sampled_from(["hit", "miss", "bypass"]),
            "feature": st.sampled_from(["search", "chat"]),
            "user_id": st.sampled_from(["ada", "bob", "eve", ""]),
            "client_ip": st.sampled_from(["10.0.0.1", "10.0.0.2"]),
            "session_id": st.sampled_from(["s1", "s2", "s3"]),
            "prompt_fingerprint": st.sampled_from(["a1", "A1", "00b2"]),
        }
        event |= {name: draw(values) for name, values in maybe.items() if draw(st.booleans())}
        calls.append(Call(clock, draw(st.integers(0, 2)), event))
    return calls


def unique(calls: list[Call]) -> list[Call]:
    """Without repeats, and with the attempt that each call is taken for."""
    first: dict[tuple[int, str], Call] = {}
    for call in calls:
        first.setdefault((call.partition, call.event["event_id"]), call)
    found = []
    for partition in range(3):
        own = [call for call in first.values() if call.partition == partition]
        events = numbered([(call.clock, call.event) for call in own])
        found += [replace(call, event=event) for call, event in zip(own, events, strict=True)]
    return found


def within(calls: list[Call], span: int, at: int) -> Iterator[Call]:
    """Those in the slot of `at` and in the one before."""
    return (call for call in calls if 0 <= at // span - call.at // span <= 1)


class Log:
    """A partition's calls, in order, through its own assembly."""

    def __init__(self, number: int, calls: list[Call]) -> None:
        self.number, self.calls, self.next = number, [call for call in calls if call.partition == number], 0
        self.assembly = Assembly(PRICES, dedupe=64, partition=number)

    def read(self, count: int) -> Output:
        some, self.next = self.calls[self.next : self.next + count], self.next + count
        lines = split(b"\n".join(json.dumps(call.event).encode() for call in some))
        lines.clock[:] = [call.clock for call in some]
        return self.assembly.pipeline.feed(self.assembly.decoder.decode(lines)[0])

    def restart(self) -> None:
        """As another worker, at a checkpoint."""
        state = through_bytes(self.assembly.snapshot())
        self.assembly = Assembly(PRICES, dedupe=64, partition=self.number)
        self.assembly.restore(state)


def played(calls: list[Call], chance: random.Random, shuffled: bool = False) -> tuple[Readings, list[Log], int]:
    """Every partition cut anywhere and restarted at times, its last minute over; its words in any order, some twice."""
    logs, words, end = [Log(n, calls) for n in range(3)], [], max(call.clock for call in calls)
    for log in logs:
        while log.next < len(log.calls):
            words += log.read(chance.randint(1, 9)).readings
            if chance.random() < 0.3:
                log.restart()
        words += log.assembly.pipeline.advance(end + 2 * MINUTE).readings
    said = [Reading.read(part, ENDS) for word in words for part in word.parts(chance.choice([4_000, 500_000]))]
    if shuffled:
        said += chance.sample(said, len(said) // 2)
        chance.shuffle(said)
    readings = Readings()
    for word in said:
        readings.fold(word)
    return readings, logs, end


@settings(max_examples=40, deadline=None)
@given(deliveries(), st.integers(0, 2**32))
def test_what_tenants_features_models_and_the_fleet_come_to_is_the_sum_of_their_calls(calls: list[Call], seed: int) -> None:
    readings, _, end = played(calls, random.Random(seed), shuffled=True)
    known = readings.known()
    assert {w for c in calls for w in whose_of(c.event)} == set(known)
    for whose in known:
        mine = [call for call in unique(calls) if belongs(call.event, whose)]
        for span in SPANS:
            held = Counter[str]()
            for call in within(mine, span, end):
                held.update(totals_of(call.event, usd_of(call.event)))
            assert readings.totals(whose, span, end) == Totals(**{n: held[n] for n in Totals.__slots__}), (whose, span)
        for window in (MINUTE, HOUR, DAY):
            recent = [c for c in mine if 0 <= end // MINUTE - c.at // MINUTE < window // MINUTE]
            assert named(readings.distinct(whose, window, end)) == pytest.approx(by_hand([c.event for c in recent], MANY))
        for span in SPANS[1:]:
            sizes = sorted(c.event["input_tokens"] + c.event["output_tokens"] for c in within(mine, span, end))
            for q in (0.0, 0.5, 0.99):
                found = readings.quantile(whose, "tokens", q, span, end)
                if not sizes:
                    assert found is None
                else:
                    assert found == pytest.approx(sizes[int(q * (len(sizes) - 1))], rel=ACCURACY + 1e-9)


@settings(max_examples=40, deadline=None)
@given(deliveries(), st.integers(0, 2**32))
def test_keys_and_sessions_in_the_worker_are_the_sum_of_their_calls(calls: list[Call], seed: int) -> None:
    _, logs, end = played(calls, random.Random(seed))
    for log in logs:
        meters = log.assembly.pipeline.meters
        for row, (tenant, key_id) in enumerate(log.assembly.decoder.keys.names):
            mine = [c for c in unique(log.calls) if (c.event["tenant"], c.event["key_id"]) == (tenant, key_id)]
            for span in SPANS:
                held = Counter[str]()
                for call in within(mine, span, end):
                    held.update(totals_of(call.event, usd_of(call.event)))
                assert meters.key_health.window(np.array([row]), span, end)[0].tolist() == [held[name] for name in HEALTH]
            recent = [c for c in mine if 0 <= end // MINUTE - c.at // MINUTE < 60]
            counted = meters.key_seen.count(np.array([row]), HOUR, end)[0]
            assert named(dict(zip(KINDS, counted.tolist(), strict=True))) == pytest.approx(
                by_hand([c.event for c in recent], FEW)
            )
            sessions = {name: Counter[str]() for c in mine if (name := c.event.get("session_id"))}
            for call in mine:
                if "session_id" in call.event:
                    sessions[call.event["session_id"]].update(totals_of(call.event, usd_of(call.event)))
            told = sorted(meters.sessions.of(row)[["calls", "retries", "usd"]].tolist())
            assert told == sorted((c["calls"], c["retries"], c["usd"]) for c in sessions.values())


def seen(items: int, few: int, rng: np.random.Generator) -> Distinct:
    """One row after so many distinct users, each of them twice."""
    row = Distinct(few, capacity=1)
    row.grow(1)
    users = np.tile(rng.integers(1, 2**64, items, np.uint64), 2)
    nobody = np.zeros_like(users)
    calls = np.arange(len(users))
    row.add(calls, np.zeros(len(users), np.int32), np.full(len(users), T0), (users, nobody, nobody, nobody))
    return row


@pytest.mark.parametrize(
    ("few", "items", "error"),
    [(FEW, 1, 0.1), (FEW, 10, 0.25), (FEW, 300, 0.35), (MANY, 3, 0.1), (MANY, 100, 0.1), (MANY, 10_000, 0.2)],
)
def test_distinct_items_are_counted_about_right(few: int, items: int, error: float) -> None:
    rng = np.random.default_rng(items)
    found = [seen(items, few, rng).count(np.zeros(1, np.int64), HOUR, T0)[0] for _ in range(60)]
    assert np.std([row[0] / items for row in found]) < error
    assert np.median([row[0] / items for row in found]) == pytest.approx(1, abs=error)
    assert {tuple(row[1:]) for row in found} == {(0.0, 0.0, 0.0)}


def test_more_uses_than_may_be_said_at_once_take_turns_and_none_is_left_out() -> None:
    group, calls = Group(most_said=3), batch([(0, 0, key, 1.0) for key in range(10)])
    group.grow(10)
    turns = []
    for _ in range(4):
        group.add(calls, np.arange(10), calls.key, calls.ts, np.ones((10, OF_A_CALL), np.int64))
        turns.append(group.take_marked().tolist())
    assert turns == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]
    assert len(group.take_marked()) + len(group.take_marked()) + len(group.take_marked()) == 7
    assert not len(group.take_marked())


def test_a_minute_of_long_ago_never_looks_new_again() -> None:
    """A place holds its minute modulo 65,535: 45 days and 12 hours later the same number stands for now."""
    row = Distinct(FEW, capacity=1)
    row.grow(1)
    none = np.zeros(1, np.uint64)
    for day in range(0, 50):
        user = np.array([1 if day == 0 else 2], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        row.add(np.zeros(1, np.int64), np.zeros(1, np.int32), np.array([T0 + day * DAY]), (user, none, none, none))
        at = T0 + day * DAY
        assert round(row.count(np.zeros(1, np.int64), HOUR, at)[0, 0]) == 1, day
    assert round(row.count(np.zeros(1, np.int64), 2 * DAY, at)[0, 0]) == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**62), st.sampled_from(WHAT))
def test_buckets_are_those_of_the_library_that_reads_them(value: int, what: str) -> None:
    first = int(FIRST[WHAT.index(what)])
    expected = 0 if value == 0 else min(max(MAPPING.key(float(value)) - first + 1, 1), BUCKETS - 1)
    assert bucket_of(value, first) == expected


def test_figures_are_ratios_and_unknown_where_nobody_told() -> None:
    nothing = Totals(*[0] * len(Totals.__slots__))
    some = replace(
        nothing,
        calls=10,
        fresh=600,
        cached=200,
        output=200,
        untold=2,
        ok=6,
        retries=2,
        cache_hits=1,
        timed=4,
        latency_ms=2_000,
        timed_tokens=400,
        timed_output=100,
        reported_input=800,
        reported_cached=200,
    )
    shares = ("success", "prefix_share", "hit_ratio", "attempts_per_request")
    figures = (*shares, "latency", "ms_per_token", "ms_per_output_token", "tokens_per_call")
    assert [getattr(some, name) for name in figures] == [0.75, 0.25, 0.1, 1.25, 500.0, 5.0, 20.0, 100.0]
    assert [getattr(nothing, name) for name in figures] == [None] * len(figures)


def test_inflation_is_an_hour_against_a_day_per_call_and_per_user() -> None:
    def event(n: int, hours: float, tokens: int, user: str) -> Call:
        at = T0 + int(hours * HOUR)
        e = {"event_id": f"e{n}", "ts": at / 1000, "tenant": "t", "key_id": "k", "provider": "p", "model": "m"}
        return Call(at, 0, e | {"feature": "search", "input_tokens": tokens, "output_tokens": 0, "user_id": user})

    calm = [event(n, n / 10, 1_000, f"user-{n % 20}") for n in range(200)]
    calls = calm + [event(1_000 + n, 20 + n / 100, 4_000, f"user-{n % 2}") for n in range(100)]
    readings, _, end = played(calls, random.Random(0))
    per_call, per_user = inflation(readings, Whose("t", "search"), end)
    assert per_call == pytest.approx(3.64 / 2, rel=0.1)
    assert per_user == pytest.approx((410 / 12) / (600 / 20), rel=0.2)
    assert inflation(readings, Whose("nobody"), end) == (None, None)


def said_of(*, health: Sequence[int] = (), seen: Sequence[int] = (), sizes: Sequence[int] = (), model: str = "m") -> bytes:
    """A reading of one use, with at most one row in each table."""
    tables = (np.array(row, np.int64).reshape(-1, len(end)) for row, end in zip((health, seen, sizes), ENDS, strict=True))
    return next(Reading(0, T0, (("t", "search", "", model),), *tables).parts())


ONE = [1] * OF_A_CALL


@pytest.mark.parametrize(
    "message",
    [
        said_of(health=[1, 0, 5, *ONE]),
        said_of(health=[0, len(SPANS), 5, *ONE]),
        said_of(health=[0, 0, 5, *ONE[1:], 2**62]),
        said_of(seen=[0, 4 * 8 * MANY, 5]),
        said_of(sizes=[0, len(WHAT), 0, 4, 0, 1]),
        said_of(sizes=[0, 0, 4, 4, 0, 1]),
        said_of(sizes=[0, 0, 0, 4, BUCKETS, 1]),
        said_of(sizes=[0, 0, 0, 4, 0, 2**32]),
        said_of(model=""),
    ],
)
def test_a_reading_that_names_what_no_meter_has_is_refused_before_a_kernel_sees_it(message: bytes) -> None:
    """Kernels check no bounds: a place beyond an array would end the responder, and again at every restart."""
    with pytest.raises(msgspec.ValidationError):
        Reading.read(message, ENDS)


def test_the_last_place_of_every_meter_is_taken_in() -> None:
    readings = Readings()
    seen, sizes = [0, 4 * 8 * MANY - 1, 5], [0, 1, 3, 5, BUCKETS - 1, 2**32 - 1]
    readings.fold(Reading.read(said_of(health=[0, 2, 5, *ONE], seen=seen, sizes=sizes), ENDS))
    assert readings.totals(Whose("t"), DAY, 5 * DAY).calls == 1


def call(n: int, at: int, **more: Any) -> Call:
    event = {"event_id": f"e{n}", "ts": at / 1000, "tenant": "t", "key_id": "k", "provider": "p", "model": "m"}
    return Call(at, 0, event | {"input_tokens": 100, "output_tokens": 0} | more)


def test_a_use_whose_calls_never_say_who_was_behind_them_stays_until_its_meters_are_empty() -> None:
    readings, _, end = played([call(0, T0)], random.Random(0))
    for later, known in ((0, True), (47 * HOUR, True), (49 * HOUR, False)):
        readings.tidy(end + later)
        assert (Whose("t") in readings.known()) is known
        assert readings.totals(Whose("t"), DAY, end).calls == known


def test_a_day_of_tokens_per_user_has_the_users_of_all_its_hours() -> None:
    """Every hour ten calls of a user of its own: nothing inflates, however long ago the day before began."""
    readings, _, end = played([call(n, T0 + n * 6 * MINUTE, user_id=f"user-{n // 10}") for n in range(480)], random.Random(0))
    per_call, per_user = inflation(readings, Whose("t"), end)
    assert per_call == 1.0
    assert per_user == pytest.approx(1.0, rel=0.25)


def test_a_model_whose_number_has_no_room_in_a_use_is_counted_as_nobody_elses() -> None:
    uses, one = Uses(), np.ones(3, np.int32)
    rows, homeless = uses.rows(np.arange(3), one, one, np.array([0, 2**20 - 1, 2**20], np.int32))
    assert (rows.tolist(), homeless) == ([0, 1, -1], 1)
