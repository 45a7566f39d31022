"""Who keeps a row and who is forgotten: real keys stay, floods are bounded, nothing depends on how the log was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import Lines
from schemas.decode import split
from schemas.prices import PriceEntry
from schemas.pulse import Pulse, Slots
from schemas.rollup import MEASURES, Rollup
from schemas.vocabulary import Vocabulary
from stream.assembly import AFTER_END, Assembly
from stream.pipeline import Output
from stream.rows import Rows
from stream.windows import HOUR, MINUTE
from tests.calls import T0, batch
from tests.test_checkpoint import through_bytes

PRICES = [PriceEntry(provider="p", model="m", effective_from=0, input=1.0, output=0.0, unit="USD per 1M tokens")]
Call = tuple[int, str, str, int]
"""Clock and ts (Ms after T0), tenant, key_id, nano-dollars / 1000"""


def lines_of(calls: Iterable[Call], first: int = 0) -> Lines:
    """The calls in delivery order; their event ids are counted from `first`."""
    rows, clocks = [], []
    for n, (at, tenant, key, tokens) in enumerate(calls, first):
        event = {"event_id": f"e{n}", "ts": (T0 + at) / 1000, "tenant": tenant, "key_id": key, "provider": "p", "model": "m"}
        rows.append(msgspec.json.encode(event | {"input_tokens": tokens, "output_tokens": 0}))
        clocks.append(T0 + at)
    lines = split(b"\n".join(rows), first)
    return Lines(lines.buffer, lines.start, lines.end, np.arange(first, first + len(rows)), np.array(clocks, np.int64))


def take(said: Output, more: Output) -> None:
    said.signals += more.signals
    said.pulses += more.pulses
    said.usage += more.usage


# The vocabulary


@st.composite
def deeds(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Names looked up (some have the same hash), rows let go, and restarts."""
    some = st.lists(st.integers(0, 60), max_size=12)
    return draw(st.lists(st.tuples(st.sampled_from(["look", "look", "free", "restore"]), some), max_size=30))


@settings(max_examples=150, deadline=None)
@given(deeds(), st.integers(0, 59), st.integers(8, 64))
def test_a_vocabulary_that_forgets_is_a_dict(doing: list[tuple[str, list[int]]], held: int, crowd: int) -> None:
    vocabulary, rows, free = Vocabulary(), dict[str, int](), set[int]()
    end = 0
    for what, numbers in doing:
        names = [f"name-{n % 60}" * (n % 3 + 1) for n in numbers]
        if what == "look":
            found = look_up(vocabulary, names, crowd)
            for name, row in zip(names, found, strict=True):
                if name not in rows:
                    rows[name] = min(free) if free else end
                    end += rows[name] == end
                    free.discard(rows[name])
                assert row == rows[name]
        elif what == "free":
            gone = [rows[name] for name in names if name in rows]
            vocabulary.idle = np.array(gone, np.int32)
            vocabulary.free(np.array([held], np.int32))
            free |= set(gone) - {held}
            rows = {name: row for name, row in rows.items() if row not in free}
        else:
            before, vocabulary = vocabulary, Vocabulary()
            vocabulary.restore(through_bytes(before.snapshot()))
        assert {vocabulary.names[row][0]: row for row in set(range(end)) - free} == rows
    assert len(vocabulary) == end


def look_up(vocabulary: Vocabulary, names: list[str], crowd: int) -> list[int]:
    """The rows of names whose hashes are so many only, and lie beside one another in the table."""
    buffer = np.frombuffer("".join(names).encode(), np.uint8)
    lengths = np.array([[len(name) for name in names]], np.int32)
    hashes = np.array([[sum(name.encode()) % crowd << 7 for name in names]], np.uint64)
    return vocabulary.rows(
        buffer, np.cumsum(lengths, axis=1) - lengths, lengths, hashes, np.zeros(len(names), np.bool_)
    ).tolist()


def test_a_vocabulary_is_no_larger_after_a_million_names_than_after_the_first_few() -> None:
    vocabulary = Vocabulary(parts=2)
    for n in range(30_000):
        vocabulary.idle = np.array([vocabulary.row("tenant", f"key-{n}")], np.int32)
        vocabulary.free(np.empty(0, np.int32))
    assert len(vocabulary) == 1
    assert sum(column.nbytes for column in vocabulary.snapshot().values()) < 1_000
    assert len(vocabulary._arena) == 4096


# The rule


@dataclass
class Twin:
    """The rule, said naively: a key's first and last clock, in the order of its last call."""

    most: int
    young: int = 150 * MINUTE
    keys: dict[int, tuple[int, int]] = field(default_factory=dict)

    def hear(self, key: int, clock: int) -> bool:
        if key not in self.keys and len(self.keys) >= 2 * self.most:
            return False
        first, _ = self.keys.pop(key, (clock, clock))
        self.keys[key] = (first, clock)
        return True

    def forget(self, now: int) -> set[int]:
        keep = self.most - self.most // 16
        gone: set[int] = set()
        for settled in (False, True):
            for key, (_, last) in list(self.keys.items()):
                alike = [k for k, (a, b) in self.keys.items() if (b - a >= self.young) == settled]
                over = len(self.keys) > keep and (not settled or len(alike) > keep)
                if key in alike and over and last <= now - 3 * HOUR:
                    gone.add(key)
                    del self.keys[key]
        return gone


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 19), st.sampled_from([0, 1, 30, 60, 100])), max_size=120),
    st.integers(1, 12),
    st.integers(1, 9),
)
def test_who_is_let_in_and_who_is_forgotten_is_as_the_rule_says(calls: list[tuple[int, int]], most: int, step: int) -> None:
    rows, twin, minute = Rows(most), Twin(most), 0
    rows.grow(20, 5)
    for at in range(0, len(calls), step):
        some = []
        for key, wait in calls[at : at + step]:
            minute += wait
            some.append((minute * MINUTE, minute * MINUTE, key, 0.0))
        made = batch(some)
        beyond = rows.hear(made, made.clock, np.arange(len(made)))
        assert beyond.tolist() == [not twin.hear(key, at) for at, _, key, _ in some]
        if rows.crowded:
            now = minute * MINUTE
            assert set(rows.forget_keys(T0 + now, np.empty(0, np.int32)).tolist()) == twin.forget(now)
    assert set(np.flatnonzero(rows.keys["call"]).tolist()) == set(twin.keys)
    assert rows.crowded == (len(twin.keys) > most)


def test_a_key_with_an_open_episode_is_never_forgotten() -> None:
    rows = Rows(1)
    rows.grow(20, 5)
    calls = batch([(n, n, n, 0.0) for n in range(2)])
    rows.hear(calls, calls.clock, np.arange(2))
    assert rows.forget_keys(T0 + 9 * HOUR, np.array([0], np.int32)).tolist() == [1]


# The pipeline: whatever the cuts


@st.composite
def crowds(draw: st.DrawFn) -> list[Call]:
    """More keys than there is room for, with pauses of minutes, hours and days; one burns now and then."""
    at, calls = 0, []
    for _ in range(draw(st.integers(1, 80))):
        at += draw(st.sampled_from([0, 0, 0, 1, 5_000, MINUTE, 10 * MINUTE, HOUR, 3 * HOUR, 26 * HOUR]))
        key = draw(st.integers(0, 30))
        calls.append((at, f"tenant-{key % 7}", f"key-{key}", draw(st.sampled_from([0, 10, 10, 9_000_000, 60_000_000]))))
    return calls


def played(calls: list[Call], cuts: list[int], stops: list[int], keys: int, idle: bool = False) -> tuple[Any, ...]:
    """What is said of all calls and a quiet day, in batches cut at `cuts`, going on from a checkpoint at `stops`."""
    assembly, said, restarts = Assembly(PRICES, dedupe=2**10, keys=keys), Output(), 0
    for lo, hi in zip([0, *cuts], [*cuts, len(calls)], strict=True):
        if lo < hi:
            take(said, assembly.pipeline.feed(assembly.decoder.decode(lines_of(calls[lo:hi], lo))[0]))
            if idle and hi < len(calls):
                for at in range(calls[hi - 1][0] + 7_000, calls[hi][0], 47 * MINUTE):
                    take(said, assembly.pipeline.advance(T0 + at))
        if hi in stops:
            before, assembly = assembly, Assembly(PRICES, dedupe=2**10, keys=keys)
            assembly.restore(through_bytes(before.snapshot()))
            restarts += 1
    take(said, assembly.pipeline.advance(T0 + calls[-1][0] + AFTER_END))
    take(said, assembly.pipeline.advance(T0 + calls[-1][0] + 26 * HOUR))
    return (said.signals, pulses_of(said.pulses), usage_of(said.usage), assembly.pipeline.counters)


def pulses_of(pulses: list[Pulse]) -> list[Any]:
    """What the pulses say of anybody, without the order in which they name them."""
    return [
        (pulse.clock, pulse.covered, pulse.counters, slots_of(pulse.tenants), slots_of(pulse.keys), sorted(pulse.burning))
        for pulse in pulses
        if len(pulse.tenants) or len(pulse.keys) or pulse.burning
    ]


def slots_of(slots: Slots) -> dict[Any, Any]:
    return {
        (slots.names[slots.entity[i]], int(slots.ring[i]), int(slots.slot[i])): (int(slots.usd[i]), *slots.counts[i].tolist())
        for i in range(len(slots))
    }


def usage_of(usage: list[Rollup]) -> dict[Any, tuple[int, ...]]:
    """The largest that was said of every cell."""
    cells: dict[Any, tuple[int, ...]] = {}
    for r in usage:
        for i in range(len(r)):
            cell = (r.keys[r.key[i]], r.models[r.model[i]], int(r.hour[i]), int(r.counted[i]))
            cells[cell] = max(cells.get(cell, ()), tuple(r.values[i].tolist()))
    return cells


@settings(max_examples=60, deadline=None)
@given(crowds(), st.data())
def test_cuts_restarts_and_a_clock_that_moves_between_change_nothing_in_what_is_said(
    calls: list[Call], data: st.DataObject
) -> None:
    places = st.lists(st.integers(0, len(calls)), max_size=8)
    cuts, stops = sorted({*data.draw(places)} - {0, len(calls)}), data.draw(places)
    keys = data.draw(st.sampled_from([2, 5, 16]))
    whole = played(calls, [], [], keys)
    assert played(calls, cuts, stops, keys, idle=data.draw(st.booleans())) == whole
    assert played(calls, list(range(1, len(calls))), list(range(len(calls))), keys) == whole


@settings(max_examples=40, deadline=None)
@given(crowds(), st.sampled_from([2, 5, 16]))
def test_tenants_and_usage_are_exact_whoever_is_forgotten(calls: list[Call], keys: int) -> None:
    _, pulses, cells, counters = played(calls, [len(calls) // 2] if len(calls) > 1 else [], [], keys)
    hours: Counter[tuple[str, int]] = Counter()
    for at, tenant, _, tokens in calls:
        hours[tenant, (T0 + at) // HOUR] += 1000 * tokens
    said: dict[tuple[str, int], int] = {}
    for pulse in pulses:
        said |= {(who[0], slot): usd for (who, ring, slot), (usd, *_) in pulse[3].items() if ring == 2}
    used: Counter[tuple[str, int]] = Counter()
    for (key, _, hour, _), values in cells.items():
        used[key[0], hour] += values[MEASURES.index("usd")]
    assert said == hours
    assert used == hours
    assert counters["usd"] == sum(hours.values())
