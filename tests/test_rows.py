"""Who keeps a row and who is forgotten: real keys stay, floods are bounded, nothing depends on how the log was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import Batch, Lines
from schemas.decode import split
from schemas.prices import PriceEntry
from schemas.pulse import Pulse, Slots
from schemas.rollup import MEASURES, Rollup
from schemas.snapshot import Snapshot
from schemas.vocabulary import Vocabulary
from stream.assembly import AFTER_END, Assembly
from stream.pipeline import Output
from stream.rows import HARD, Rows
from stream.sources import FileClock, LineReader
from stream.tenants import TenantMeters
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
    starts = np.cumsum(lengths, axis=1) - lengths
    return list(vocabulary.rows(buffer, starts, lengths, hashes, np.zeros(len(names), np.bool_)))


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


@settings(max_examples=25, deadline=None)
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


# A flood of made-up keys

REAL, MADE_UP, MOST = 50, 4_000, 1_000
NIGHT, FLOOD, MORNING = 4 * HOUR, 5 * HOUR, 10 * HOUR


def days(made_up: int) -> list[list[Call]]:
    """Real keys work for four hours and sleep; made-up keys of the same tenants come in one hour; a real key burns."""
    habit = [(m * MINUTE + k, f"tenant-{k % 5}", f"key-{k}", 10) for m in range(0, 240, 3) for k in range(REAL)]
    flood = [(FLOOD + n * HOUR // MADE_UP, f"tenant-{n % 5}", f"made-up-{n}", 7) for n in range(made_up)]
    burn = [(MORNING + s * 1000, "tenant-3", "key-3", 600_000) for s in range(120)]
    batches = [some[at : at + 500] for some in (habit, flood) for at in range(0, len(some), 500)]
    return [
        *batches,
        burn,
        [(MORNING + HOUR, "tenant-1", "made-up-1", 30_000_000), (MORNING + 2 * HOUR, "tenant-1", "key-1", 1)],
    ]


def flooded(made_up: int, rows: Rows) -> tuple[Assembly, Output]:
    assembly, said, n = Assembly(PRICES, keys=MOST), Output(), 0
    assembly.pipeline._rows = rows
    for some in days(made_up):
        take(said, assembly.pipeline.feed(assembly.decoder.decode(lines_of(some, n))[0]))
        n += len(some)
    take(said, assembly.pipeline.advance(T0 + MORNING + 3 * HOUR))
    return assembly, said


def test_a_flood_of_made_up_keys_pushes_out_no_real_key_and_no_memory() -> None:
    _, calm = flooded(0, Rows(MOST))
    assembly, said = flooded(MADE_UP, Rows(MOST))
    burn = [signal for signal in said.signals if signal.key_id == "key-3"]
    assert [signal.phase for signal in burn][:2] == ["open", "update"]
    assert burn == [signal for signal in calm.signals if signal.key_id == "key-3"]
    assert burn[0].evidence.learning is None
    counters = assembly.pipeline.counters
    assert counters["other_key"] == REAL + MADE_UP - HARD * MOST
    assert counters["evicted"] >= MOST
    assert len(assembly.decoder.keys) <= HARD * MOST + 5 + 500
    tenants, truth = TenantMeters(), Counter[str]()
    for pulse in said.pulses:
        tenants.fold(pulse)
    for _, tenant, _, tokens in (call for some in days(MADE_UP) for call in some):
        truth[tenant] += 1000 * tokens
    assert tenants.spent(24 * HOUR) == truth
    assert counters["usd"] == sum(truth.values())


def test_where_the_longest_silent_went_first_the_flood_would_push_out_the_real_keys() -> None:
    _, said = flooded(MADE_UP, Rows(MOST, young=0))
    assert next(signal for signal in said.signals if signal.key_id == "key-3").evidence.learning is not None


def test_a_made_up_key_that_was_forgotten_comes_back_as_new() -> None:
    assembly, said = flooded(MADE_UP, Rows(MOST))
    (back,) = (signal for signal in said.signals if signal.key_id == "made-up-1" and signal.phase == "open")
    assert back.evidence.learning == 0
    assert ("tenant-1", "made-up-1") in assembly.decoder.keys.names


def test_event_ids_seen_before_leave_no_keys_behind() -> None:
    assembly = Assembly(PRICES, keys=MOST)
    for n in range(40):
        calls = [(n, f"tenant-{k}", f"key-{n}-{k}", 1) for k in range(50)]
        assembly.pipeline.feed(assembly.decoder.decode(lines_of(calls, 0))[0])
    assert assembly.pipeline.counters["duplicate"] == 39 * 50
    assert (len(assembly.decoder.keys), len(assembly.decoder.tenants)) == (100, 50)


def test_a_tenant_is_forgotten_when_all_its_windows_are_empty_and_not_before() -> None:
    crowd = [(24 * HOUR, f"tenant-{n}", f"key-{n}", 1) for n in range(1, 4)]
    assembly, said = Assembly(PRICES, keys=1), Output()
    late = lines_of([(24 * HOUR + MINUTE, "tenant-0", "key-0", 3)], 9)
    buffer = late.buffer.tobytes().replace(
        f"{(T0 + 24 * HOUR + MINUTE) / 1000}".encode(), f"{(T0 + HOUR) / 1000}000".encode()
    )
    late = Lines(np.frombuffer(buffer, np.uint8), late.start, np.array([len(buffer)]), late.position, late.clock)
    for lines in (lines_of([(HOUR, "tenant-0", "key-0", 4)]), lines_of(crowd, 1), late):
        take(said, assembly.pipeline.feed(assembly.decoder.decode(lines)[0]))
    take(said, assembly.pipeline.advance(T0 + 25 * HOUR))
    slots = [slots_of(pulse.tenants) for pulse in said.pulses]
    assert [s[("tenant-0",), 2, T0 // HOUR + 1][0] for s in slots if (("tenant-0",), 2, T0 // HOUR + 1) in s] == [
        4_000,
        7_000,
    ]
    assert len(assembly.decoder.tenants.idle) == 0
    take(said, assembly.pipeline.advance(T0 + 84 * HOUR))
    assert len(assembly.decoder.tenants.idle) == 3


def test_a_responder_forgets_a_tenant_when_all_its_windows_are_empty() -> None:
    assembly, tenants = Assembly(PRICES), TenantMeters()
    calls = [(n * MINUTE, f"tenant-{n}", "key", 5) for n in range(100)]
    said = assembly.pipeline.feed(assembly.decoder.decode(lines_of([*calls, (23 * HOUR, "tenant-1", "key", 5)]))[0])
    for pulse in said.pulses:
        tenants.fold(pulse)
    assert len(tenants.spent(24 * HOUR)) == 100
    last = lines_of([(40 * HOUR, "tenant-1", "key", 7)], 500)
    said = assembly.pipeline.feed(assembly.decoder.decode(last)[0])
    for pulse in [*said.pulses, *assembly.pipeline.advance(T0 + 52 * HOUR).pulses]:
        tenants.fold(pulse)
    again = TenantMeters()
    again.restore(through_bytes(tenants.snapshot()))
    assert tenants.snapshot()["meter.usd"].shape[0] == 1
    assert tenants.spent(24 * HOUR) == again.spent(24 * HOUR) == {"tenant-1": 7_000}


# Rows are not given away while somebody still means them


def read_in_pieces(data: bytes, size: int, held: bool) -> tuple[Any, ...]:
    assembly, said = Assembly(PRICES, keys=2), Output()
    reader, clock = LineReader(assembly.decoder), FileClock()

    def waiting() -> Batch | None:
        return clock.held if held else None

    for at in range(0, len(data), size):
        take(said, assembly.pipeline.feed(clock.feed(reader.read(data[at : at + size], held=waiting()))))
    take(said, assembly.pipeline.feed(clock.feed(reader.finish(held=waiting()))))
    last = clock.finish()
    assert last is not None
    take(said, assembly.pipeline.feed(last))
    take(said, assembly.pipeline.advance(T0 + 4_000 * HOUR))
    return pulses_of(said.pulses), usage_of(said.usage)


def test_calls_that_a_files_clock_holds_keep_their_keys() -> None:
    calls = [(n * HOUR, f"tenant-{n % 11}", f"key-{n % 11}", n) for n in range(300)]
    data = lines_of(calls).buffer.tobytes()
    whole = read_in_pieces(data, len(data), held=True)
    assert read_in_pieces(data, 1_000, held=True) == whole
    with pytest.raises(ValueError, match="stands for no name"):
        read_in_pieces(data, 1_000, held=False)


# Older checkpoints


def test_keys_of_a_checkpoint_that_does_not_know_of_rows_are_settled_and_heard_of_just_now() -> None:
    before, assembly = Assembly(PRICES, keys=100), Assembly(PRICES, keys=4)
    before.pipeline.feed(before.decoder.decode(lines_of([(n, f"tenant-{n}", f"key-{n}", 1) for n in range(8)]))[0])
    state: Snapshot = {
        name: column
        for name, column in before.snapshot().items()
        if not name.startswith("pipeline.rows.") and not name.endswith(".idle")
    }
    assembly.restore(through_bytes(state))
    assembly.pipeline.advance(T0 + 3 * HOUR - MINUTE)
    assert assembly.pipeline.counters["evicted"] == 0
    assembly.pipeline.advance(T0 + 3 * HOUR + 2 * MINUTE)
    assert assembly.pipeline.counters["evicted"] == 4
    assembly.decoder.decode(lines_of([(4 * HOUR, "tenant-9", "key-9", 1)], 9))
    assert assembly.decoder.keys.names[0] == ("tenant-9", "key-9")
    assert assembly.decoder.keys.names[4:] == [(f"tenant-{n}", f"key-{n}") for n in range(4, 8)]
