"""From calls to panes, signals and pulses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.spend import SpendSpike
from schemas.batch import NANO, SLICE
from schemas.pulse import Pulse, Slots
from schemas.rollup import Rollup
from schemas.signals import Signal
from stream.dedupe import NoDedupe, SeenIds
from stream.pipeline import Pipeline
from stream.tenants import TenantMeters
from stream.windows import SPANS
from tests.calls import T0, Call, DollarPerOutputToken, Words, batch, pipeline, play
from tests.exporters import exporters

HOUR = 3_600_000


@st.composite
def streams(draw: st.DrawFn) -> list[Call]:
    """Delivery in clock order; `ts` is late, timely, ahead or absurd; few keys, so that they collide."""
    clock = 0
    calls = []
    for _ in range(draw(st.integers(1, 60))):
        clock += draw(st.sampled_from([0, 1, 400, 4_999, 5_000, 5_001, 60_000, 900_000]))
        lag = draw(st.sampled_from([0, 1, 1_999, 2_000, 7_001, 65_000, HOUR, 25 * HOUR, -4_000, -60_000, -60_001, -HOUR]))
        calls.append((clock, clock - lag, draw(st.integers(0, 5)), draw(st.sampled_from([0.0, 0.01, 3.0, 40.0]))))
    return calls


def same(one: Sequence[Pulse | Rollup], other: Sequence[Pulse | Rollup]) -> bool:
    return [list(p.parts()) for p in one] == [list(p.parts()) for p in other]


@settings(max_examples=60, deadline=None)
@given(st.one_of(streams(), exporters()), st.data())
def test_cutting_a_batch_anywhere_changes_nothing(calls: list[Call], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(calls)), max_size=6))
    _, whole = play(calls)
    _, pieces = play(calls, cuts)
    assert pieces.signals == whole.signals
    assert same(pieces.pulses, whole.pulses)
    assert same(pieces.usage, whole.usage)


@settings(max_examples=60, deadline=None)
@given(streams())
def test_panes_add_up_to_calls_and_dollars(calls: list[Call]) -> None:
    line, said = play(calls)
    assert line.counters["unique"] == len(calls)
    assert line.counters["usd"] == sum(round(c[3] * 1000) * (NANO // 1000) for c in calls)
    newest = {}
    for pulse in said.pulses:
        for i in np.flatnonzero(pulse.tenants.ring == 2):
            name = pulse.tenants.names[pulse.tenants.entity[i]]
            newest[name, int(pulse.tenants.slot[i])] = (int(pulse.tenants.usd[i]), int(pulse.tenants.counts[i, 0]))
    clock = 0
    truth: dict[tuple[tuple[str], int], tuple[int, int]] = {}
    for at, ts, key, usd in calls:
        clock = max(clock, at)
        counted = clock if ts > clock + 60_000 else ts
        if counted < clock - 22 * HOUR:
            continue
        place = ((f"tenant-{key // 4}",), (T0 + counted) // HOUR)
        cost, n = truth.get(place, (0, 0))
        truth[place] = (cost + round(usd * 1000) * (NANO // 1000), n + 1)
    assert {place: value for place, value in newest.items() if place in truth} == truth


@settings(max_examples=40, deadline=None)
@given(st.one_of(streams(), exporters()), st.randoms(use_true_random=False))
def test_the_order_of_calls_within_one_clock_reading_does_not_matter(calls: list[Call], random: object) -> None:
    shuffled = sorted(calls, key=lambda c: (c[0], random.random()))  # type: ignore[attr-defined]  # a random.Random
    one, other = play(calls)[0], play(shuffled)[0]
    assert one.counters == other.counters
    assert (one._keys.usd == other._keys.usd).all()
    assert (one._keys.counts == other._keys.counts).all()


@settings(max_examples=40, deadline=None)
@given(st.one_of(streams(), exporters()))
def test_hearing_pulses_again_in_parts_and_late_gives_the_same_tenant_windows(calls: list[Call]) -> None:
    _, said = play(calls)
    once, again = TenantMeters(), TenantMeters()
    for pulse in said.pulses:
        once.fold(pulse)
        parts = [Pulse.read(part) for part in pulse.parts(700)]
        for part in [*parts, *reversed(parts)]:
            again.fold(part)
    for pulse in said.pulses[::2]:  # what a worker that was frozen says when it wakes
        again.fold(pulse)
    for window in (60_000, 300_000, HOUR, 6 * HOUR):
        assert once.spent(window) == again.spent(window)


def test_a_part_of_a_pulse_is_never_larger_than_its_limit() -> None:
    _, said = play([(i, i, i % 20, 1.0) for i in range(200)])
    parts = list(said.pulses[0].parts(600))
    assert len(parts) > 1
    assert max(len(part) for part in parts) <= 600
    assert sum(len(Pulse.read(part).keys) for part in parts) == len(said.pulses[0].keys)


def test_a_late_call_enters_its_own_slots_and_is_counted_late() -> None:
    line, said = play([(0, 0, 1, 1.0), (40_000, 40_000, 1, 1.0), (50_000, 10_000, 1, 7.0)])
    assert line.counters["late"] == 1
    at = {(int(r), int(s)): int(u) for p in said.pulses for r, s, u in _rows(p.keys)}
    assert at[0, (T0 + 10_000) // SLICE] == 7 * NANO
    assert at[1, T0 // 60_000] == 9 * NANO


@pytest.mark.parametrize("delay_s", [0, 6, 7, 12, 30])
def test_a_burn_whose_calls_are_all_late_is_noticed(delay_s: int) -> None:
    habit = [(m * 60_000, m * 60_000, 1, 0.01) for m in range(300)]
    start = 300 * 60_000
    burn = [(start + (s + delay_s) * 1000, start + s * 1000, 1, 0.14) for s in range(300)]
    _, said = play(habit + burn)
    opened = said.signals[0]
    assert opened.phase == "open"
    assert opened.at - (T0 + start) <= 60_000 + delay_s * 1000
    assert [s.phase for s in said.signals].count("open") == 1


def test_a_call_more_than_a_minute_ahead_is_counted_at_the_clock() -> None:
    line, said = play([(0, 0, 1, 1.0), (1_000, 70_000, 1, 2.0), (1_000, 59_000, 1, 4.0)])
    assert line.counters["skewed"] == 1
    at = {(int(r), int(s)): int(u) for p in said.pulses for r, s, u in _rows(p.keys)}
    assert at[0, T0 // SLICE] == 3 * NANO
    assert at[0, (T0 + 59_000) // SLICE] == 4 * NANO


def test_a_duplicate_is_counted_once_and_without_the_protection_twice() -> None:
    calls = [(0, 0, 1, 1.0), (10, 0, 1, 1.0), (20, 0, 2, 1.0)]
    line, _ = play(calls, ids=[7, 7, 8])
    assert (line.counters["usd"], line.counters["duplicate"]) == (2 * NANO, 1)
    bare = pipeline(NoDedupe(16))
    bare.feed(batch(calls, [7, 7, 8]))
    assert bare.counters["usd"] == 3 * NANO


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=200), st.integers(1, 50))
def test_the_dedupe_window_holds_exactly_the_newest_ids(ids: list[int], cut: int) -> None:
    seen = SeenIds(16)
    clustered = [i % 8 + (i // 8) * 32 for i in ids]
    fresh = [
        bool(f) for lo in range(0, len(ids), cut) for f in seen.first_seen(np.array(clustered[lo : lo + cut], np.uint64))
    ]
    window: list[int] = []
    for i, was_fresh in zip(clustered, fresh, strict=True):
        assert was_fresh == (i not in window)
        if was_fresh:
            window = [*window, i][-16:]


def test_a_window_that_may_grow_forgets_nothing_before_it_holds_its_most() -> None:
    ids = np.arange(1, 1001, dtype=np.uint64)
    window, other = SeenIds(16, most=1024), SeenIds(16, most=512)
    for seen in (window, other):
        assert all(seen.first_seen(ids[lo : lo + 7]).all() for lo in range(0, 1000, 7))
    assert not window.first_seen(ids).any()
    assert not other.first_seen(ids[-512:]).any()
    assert other.first_seen(ids[:100]).all()


def test_an_idle_stream_still_closes_its_panes() -> None:
    line = pipeline()
    assert not line.feed(batch([(0, 0, 1, 1.0)])).pulses
    assert not any(len(pulse.tenants) for pulse in line.advance(T0 + 6_999).pulses)
    pulse = line.advance(T0 + 7_000).pulses[0]
    assert (pulse.clock, pulse.covered, len(pulse.tenants)) == (T0 + 5_000, 0, 3)


def test_an_idle_partition_says_at_each_step_that_it_lives_and_once_over_a_gap() -> None:
    line = pipeline()
    line.feed(batch([(0, 0, 1, 1.0)]))
    clocks = [[p.clock - T0 for p in line.advance(T0 + at).pulses] for at in (7_000, 8_000, 12_000, 3 * HOUR + 2_000)]
    assert clocks == [[5_000], [], [10_000], [3 * HOUR]]


def test_a_signal_says_its_partition_and_what_it_was_judged_by() -> None:
    line = Pipeline(DollarPerOutputToken(), Words(), [SpendSpike()], seen=SeenIds(16), partition=3, config="abc")
    signals = line.feed(batch([(m * 60_000, m * 60_000, 1, 0.01 if m < 300 else 30.0) for m in range(302)])).signals
    assert {(signal.partition, signal.config) for signal in signals} == {(3, "abc")}
    assert [Signal.read(signal.to_json()) for signal in signals] == signals


def test_a_burn_opens_one_episode_and_clears_when_it_ends() -> None:
    habit = [(m * 60_000, m * 60_000, 1, 0.01) for m in range(300)]
    start = 300 * 60_000
    burn = [(start + s * 1000, start + s * 1000, 1, 0.5) for s in range(40)]
    _, said = play(habit + burn)
    assert [s.phase for s in said.signals] == ["open", "clear"]
    opened, cleared = said.signals
    assert opened.at - (T0 + start) <= 15_000
    assert opened.evidence.since == T0 + start
    assert opened.evidence.learning is None
    assert cleared.episode == opened.episode
    assert cleared.at - (T0 + start + 40_000) <= 6 * SLICE
    burning = [p.clock for p in said.pulses if ("tenant-0", "key-1") in p.burning]
    assert burning[0] == opened.at
    assert T0 + start + 40_000 - burning[-1] < SLICE


def _rows(slots: Slots) -> list[tuple[int, int, int]]:
    return list(zip(slots.ring.tolist(), slots.slot.tolist(), slots.usd.tolist(), strict=True))


def test_a_slot_of_every_ring_has_its_span() -> None:
    assert SPANS.tolist() == [5_000, 60_000, HOUR]
    assert [f.name for f in fields(Slots)][:2] == ["names", "entity"]
