"""Hourly usage from calls to the ledger: exactly what the calls came to, whatever happens on the way."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.sqlite import insert as upsert

from actions import ledger as sql
from actions.ledger import Ledger
from actions.tables import usage
from schemas.decode import split
from schemas.prices import Discount, Entry, PriceEntry
from schemas.rollup import MEASURES, UNKNOWN, USAGE, Rollup
from schemas.snapshot import BadCheckpoint, Snapshot
from stream.assembly import AFTER_END, Assembly
from stream.cells import BOOKS, WORDS, Cells, values_of
from stream.learn import _checkpoint as checkpoint_of
from stream.pipeline import Output
from stream.pricing import version_of
from stream.windows import HOUR
from tests.calls import T0, batch
from tests.test_checkpoint import through_bytes
from tests.test_hearing import Term
from tests.topic import Said, logged

RATES = {
    "input": 1.0,
    "cache_read": 0.25,
    "cache_write": 1.25,
    "cache_write_1h": 2.0,
    "output": 4.0,
    "audio_input": 8.0,
    "audio_output": 16.0,
    "web_search": 10.0,
}
PRICES = [
    PriceEntry.model_validate(
        {"provider": "p", "model": "m", "effective_from": 0, "unit": "USD per 1M tokens", **RATES}
        | {"service_tiers": {"batch": 0.5}}
    )
]
ALL = ("hour", "tenant", "key_id", "provider", "model", "feature", "operation", "tier")
Line = tuple[int, int, dict[str, Any]]
"""Partition, clock (Ms after T0), event"""


@st.composite
def events(draw: st.DrawFn) -> list[Line]:
    """Delivery in clock order over two partitions; late by up to days, ahead, twice; every token class."""
    clock, lines = 0, []
    for _ in range(draw(st.integers(1, 40))):
        clock += draw(st.sampled_from([0, 1, 5_000, 60_000, 900_000, HOUR, 30 * HOUR]))
        lag = draw(st.sampled_from([0, 1, 65_000, HOUR, 2 * HOUR, 25 * HOUR, 400 * HOUR, -59_000, -60_001, -2 * HOUR]))
        n = draw(st.integers(0, 30))
        event = {
            "event_id": f"e{n}",
            "ts": (T0 + clock - lag) / 1000,
            "tenant": f"tenant-{n % 3}",
            "key_id": f"key-{n % 4}",
            "provider": "p",
            "model": "m" if n % 5 else "nobody-knows-it",
            "input_tokens": 1000 + n,
            "output_tokens": 500 - n,
            "cached_input_tokens": draw(st.sampled_from([None, 0, 300, 1000])),
            "reasoning_tokens": draw(st.sampled_from([None, 7, 470])),
        }
        if n % 2:
            event |= {"feature": draw(st.sampled_from(["search", "", "naïve", "x" * 300])), "operation": "chat"}
        if n % 3 == 0:
            event |= {"service_tier": "batch", "web_search_requests": 2, "audio_input_tokens": 9, "audio_output_tokens": 8}
        if n % 4 == 0 and event["cached_input_tokens"] != 1000:
            event |= {"cache_write_tokens": 400, "cache_write_1h_tokens": draw(st.sampled_from([None, 0, 150]))}
        lines.append((n % 3 % 2, clock, {k: v for k, v in event.items() if v is not None}))
    return lines


def parts_of(e: dict[str, Any]) -> dict[str, int]:
    """The classes of a call's tokens, by hand."""
    write, hour = e.get("cache_write_tokens", 0), e.get("cache_write_1h_tokens", 0)
    fresh = e["input_tokens"] - e.get("cached_input_tokens", 0) - write
    audio = min(fresh, e.get("audio_input_tokens", 0))
    said = e["output_tokens"] - e.get("audio_output_tokens", 0)
    return {
        "fresh": fresh - audio,
        "cached": e.get("cached_input_tokens", 0),
        "cache_write": write - hour,
        "cache_write_1h": hour,
        "output": said - min(said, e.get("reasoning_tokens", 0)),
        "reasoning": min(said, e.get("reasoning_tokens", 0)),
        "audio_input": audio,
        "audio_output": e.get("audio_output_tokens", 0),
        "web_searches": e.get("web_search_requests", 0),
    }


def truth(lines: list[Line]) -> dict[tuple[Any, ...], Counter[str]]:
    """What every cell holds, in plain Python; of models without a price, everything but the money."""
    rate = {"fresh": 1000, "cached": 250, "cache_write": 1250, "cache_write_1h": 2000, "output": 4000, "reasoning": 4000}
    rate |= {"audio_input": 8000, "audio_output": 16000}
    seen, found = set(), dict[tuple[Any, ...], Counter[str]]()
    for partition, at, e in lines:
        if (partition, e["tenant"], e["event_id"]) in seen:
            continue
        seen.add((partition, e["tenant"], e["event_id"]))
        ts, clock = round(e["ts"] * 1000), T0 + at
        hour = (clock if ts > clock + 60_000 else ts) // HOUR
        feature = e.get("feature", "") if len(e.get("feature", "")) < 256 else "other"
        tier = e.get("service_tier", "standard")
        cell = (hour, e["tenant"], e["key_id"], "p", e["model"], feature, e.get("operation", ""), tier)
        parts = parts_of(e)
        tokens = sum(count * rate[name] for name, count in parts.items() if name in rate)
        nano = tokens // (2 if tier == "batch" else 1) + parts["web_searches"] * 10_000_000
        counts = found.setdefault(cell, Counter())
        counts.update(calls=1, usd=nano if e["model"] == "m" else 0, **parts)
    return found


@dataclass
class Heard:
    """All that two partitions said, in order, and their counters in the end."""

    usage: list[Rollup] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    def parts(self, limit: int = 500_000) -> Iterator[Said]:
        return (Said(USAGE, part) for rollup in self.usage for part in rollup.parts(limit))


class Log:
    """One partition's lines, read from any place on."""

    def __init__(self, number: int, lines: list[Line]) -> None:
        self.number = number
        self.prices: list[Entry] = list(PRICES)
        self.lines = [(at, json.dumps(event).encode()) for partition, at, event in lines if partition == number]
        self.assembly = Assembly(PRICES, partition=number)
        self.next = 0

    def read(self, until: int) -> Output:
        some, self.next = self.lines[self.next : until], max(self.next, until)
        if not some:
            return Output()
        lines = split(b"\n".join(line for _, line in some))
        lines.clock[:] = [T0 + at for at, _ in some]
        return self.assembly.pipeline.feed(self.assembly.decoder.decode(lines)[0])

    def restart(self, kept: tuple[Snapshot, int]) -> None:
        """Go on from a checkpoint, as another worker."""
        self.assembly = Assembly(self.prices, partition=self.number)
        if kept[0]:
            self.assembly.restore(kept[0])
        self.next = kept[1]


def played(lines: list[Line], chance: random.Random) -> Heard:
    """Cut anywhere, crashed and gone on from an older checkpoint at times; then a quiet quarter of an hour."""
    said = Heard()
    for log in (Log(0, lines), Log(1, lines)):
        kept: tuple[Snapshot, int] = ({}, 0)
        while log.next < len(log.lines):
            said.usage += log.read(log.next + chance.randint(1, 12)).usage
            if chance.random() < 0.3:
                kept = (through_bytes(log.assembly.snapshot()), log.next)
            if chance.random() < 0.2:
                log.restart(kept)
        if log.assembly.pipeline.clock is not None:
            said.usage += log.assembly.pipeline.advance(log.assembly.pipeline.clock + AFTER_END).usage
        said.counters.update(log.assembly.pipeline.counters)
    return said


def ledger_of(said: list[Said]) -> Ledger:
    term = Term("sqlite://")
    term.hearing.take(logged(said), T0)
    return term.ledger


def cells_of(ledger: Ledger) -> dict[tuple[Any, ...], Counter[str]]:
    """What the ledger holds, by everything; of models without a price, everything but the money."""
    rows = ledger.usage(ALL, range(2**31 - 1), {})
    found = {row[: len(ALL)]: Counter(dict(zip(MEASURES, row[len(ALL) :], strict=True))) for row in rows}
    for cell, counts in found.items():
        guessed = counts.pop("guessed_usd")
        assert guessed == (0 if cell[4] == "m" else counts["usd"])
        counts["usd"] -= guessed
    return found


@settings(max_examples=60, deadline=None)
@given(events(), st.integers(0, 2**32))
def test_the_ledger_holds_exactly_what_the_calls_came_to(lines: list[Line], seed: int) -> None:
    chance = random.Random(seed)
    said = played(lines, chance)
    log = list(said.parts(chance.choice([600, 500_000])))
    log += chance.sample(log, len(log) // 2)  # what a worker that was frozen says when it wakes
    chance.shuffle(log)
    ledger = ledger_of(log)
    assert cells_of(ledger) == truth(lines)
    ((calls, usd, guessed),) = ((row[0], row[1], row[2]) for row in ledger.usage((), range(2**31 - 1), {}))
    counters = said.counters
    assert (calls, usd, guessed) == (counters["unique"], counters["usd"], counters["guessed_usd"])


LATE: list[Line] = [
    (0, at, {"event_id": f"e{at}", "ts": (T0 + ts) / 1000, "tenant": "t", "key_id": "k", "provider": "p", "model": "m"}
     | {"input_tokens": 10, "output_tokens": 0})
    for at, ts in ((0, 0), (5_000, 5_000), (3 * HOUR, 0), (3 * HOUR + 60_000, 1), (9 * HOUR, 1))
]  # fmt: skip


def test_a_call_days_late_is_added_to_its_hour_and_without_cells_of_its_own_it_is_lost() -> None:
    said = played(LATE, random.Random(0))
    assert cells_of(ledger_of(list(said.parts()))) == truth(LATE)
    said.usage = [replace(rollup, counted=rollup.hour) for rollup in said.usage]
    assert cells_of(ledger_of(list(said.parts()))) != truth(LATE)


def test_what_a_zombie_says_late_lowers_nothing_and_where_the_newest_word_holds_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = played(LATE[:2], random.Random(0))
    early = replace(said.usage[0], values=said.usage[0].values // 2)
    words = [*said.parts(), *(Said(USAGE, part) for part in early.parts())]
    assert cells_of(ledger_of(words)) == truth(LATE[:2])
    plain = upsert(usage)
    values = {name: plain.excluded[name] for name in MEASURES}
    keys = usage.primary_key.columns
    monkeypatch.setattr(sql, "_raise_usage", lambda connection: plain.on_conflict_do_update(index_elements=keys, set_=values))
    assert cells_of(ledger_of(words)) != truth(LATE[:2])


def test_two_sources_that_look_alike_add_up() -> None:
    said = played(LATE, random.Random(0))
    term = Term("sqlite://")
    for source in ("file 1", "file 2", "file 1"):
        for rollup in said.usage:
            term.duty.responder.count(rollup, source, T0)
    assert term.ledger.usage((), range(2**31 - 1), {})[0][:2] == (2 * 5, 2 * 5 * 10_000)


DEARER: list[Entry] = [*PRICES, Discount(tenant="somebody", discount=0.1, effective_from=0)]
OLD, NEW = version_of(PRICES), version_of(DEARER)


def priced_by(ledger: Ledger, *by: str) -> dict[tuple[Any, ...], int]:
    """Calls by price book, and by more."""
    by = (*by, "price_version")
    return {row[: len(by)]: row[len(by)] for row in ledger.usage(by, range(2**31 - 1), {})}


@pytest.mark.parametrize("crashed", [False, True])
def test_prices_that_change_within_an_hour_are_both_named_and_no_call_is_counted_twice(crashed: bool) -> None:
    """After a crash the new prices make some calls again of which the old ones have spoken already."""
    calls = [(0, n * 10_000, {**LATE[0][2], "event_id": f"e{n}", "ts": (T0 + n * 10_000) / 1000}) for n in range(60)]
    for n in (0, 1, 58, 59):
        calls[n][2]["key_id"] = "early" if n < 2 else "later"
    log = Log(0, calls)
    said = [log.read(20).usage]
    kept = (through_bytes(log.assembly.snapshot()), log.next)
    if crashed:
        said += [log.read(40).usage]
    log.prices = DEARER
    log.restart(kept)
    said += [log.read(60).usage, log.assembly.pipeline.advance(T0 + HOUR).usage]
    ledger = ledger_of([Said(USAGE, part) for rollups in said for rollup in rollups for part in rollup.parts()])
    both = ",".join(sorted([OLD, NEW]))
    assert priced_by(ledger, "key_id") == {("early", OLD): 2, ("k", both): 56, ("later", NEW): 2}


def test_a_cell_of_an_older_checkpoint_and_a_word_of_an_older_worker_have_unknown_prices() -> None:
    log = Log(0, LATE[:2])
    log.read(1)
    state = log.assembly.snapshot()
    del state["pipeline.usage.books"]
    state["pipeline.usage.cells"]["calls"] &= (1 << BOOKS) - 1
    log.restart((through_bytes(state), 1))
    log.read(2)
    (rollup,) = log.assembly.pipeline.rest()
    assert priced_by(ledger_of([Said(USAGE, part) for part in rollup.parts()])) == {(f"{OLD},{UNKNOWN}",): 2}
    older = [Said(USAGE, msgspec.msgpack.encode(msgspec.msgpack.decode(part)[:-2])) for part in rollup.parts()]
    assert priced_by(ledger_of(older)) == {(UNKNOWN,): 2}


def test_more_price_books_than_there_is_room_for_are_unknown_until_older_ones_leave() -> None:
    calls = batch([(0, 0, 1, 1.0)])
    state: Snapshot = {}
    for n in range(20):
        cells = Cells(f"book-{n:02}")
        cells.restore(state)
        cells.fold(calls, calls.clock, np.ones((1, 12), np.int64), np.arange(1), T0 // HOUR)
        state = through_bytes(cells.snapshot())
    assert cells.books(cells.every())[0] == ((",".join([*(f"book-{n:02}" for n in range(14)), UNKNOWN]),),)
    cells.take(T0 // HOUR + 2)
    state, cells = through_bytes(cells.snapshot()), Cells("book-20")
    cells.restore(state)
    cells.fold(calls, calls.clock, np.ones((1, 12), np.int64), np.arange(1), T0 // HOUR)
    assert cells.books(cells.every())[0] == (("book-20",),)


def test_usage_is_said_once_a_minute_at_its_end_and_only_what_changed() -> None:
    lines = [(0, at, {**LATE[0][2], "event_id": f"e{at}", "ts": (T0 + at) / 1000}) for at in range(10_000, 200_000, 1_000)]
    log = Log(0, [*lines, (0, 3 * HOUR + 2_000, {**LATE[0][2], "event_id": "last", "ts": T0 / 1000})])
    usage = log.read(len(log.lines)).usage
    assert [rollup.clock - T0 for rollup in usage] == [60_000, 120_000, 180_000, 3 * HOUR]
    assert [int(rollup.values[0, 0]) for rollup in usage] == [52, 112, 172, 190]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 900), st.integers(1, 20))
def test_the_kernel_adds_up_as_its_twin_does(seed: int, n: int, keys: int) -> None:
    chance = random.Random(seed)
    calls = batch([(0, -chance.choice([0, HOUR, 2 * HOUR, 50 * HOUR]), chance.randrange(keys), 1.0) for _ in range(n)])
    sums, now = np.arange(12 * n).reshape(n, 12), T0 // HOUR
    cells, twin = Cells(), dict[tuple[int, ...], Counter[str]]()
    for lo in range(0, n, 300):
        rows = np.array([i for i in range(lo, min(n, lo + 300)) if chance.random() < 0.9], np.intp)
        others = cells.fold(calls, calls.clock, sums, rows, now)
        assert others == sum(calls.feature[i] == 1 or calls.operation[i] == 1 for i in rows)
        for i in rows.tolist():
            hour = int(calls.ts[i]) // HOUR
            named = (int(calls.key[i]), int(calls.feature[i]), int(calls.operation[i]))
            cell = twin.setdefault((*named, hour, hour if hour >= now - 1 else now), Counter())
            cell.update(calls=1, usd=int(sums[i, 0]), guessed_usd=int(sums[i, 1]), fresh=100, output=1000)
    found = {}
    for row in cells.snapshot()["cells"].tolist():
        held = dict(zip(WORDS, row, strict=True))
        held["calls"] &= (1 << BOOKS) - 1
        place = (held["who"] >> 32, held["what"] >> 32, (held["what"] & 0xFFFFFFFF) >> 2, held["when"] >> 32)
        found[(*place, held["when"] & 0xFFFFFFFF)] = Counter({name: held[name] for name in MEASURES if held[name]})
    assert found == {place: +counts for place, counts in twin.items()}


def test_more_cells_than_may_be_said_at_once_take_turns_and_all_are_said_before_they_leave() -> None:
    cells, calls = Cells(most_said=3), batch([(0, 0, key, 1.0) for key in range(10)])
    now = T0 // HOUR
    sums = np.ones((10, 12), np.int64)
    turns = []
    for _ in range(4):
        cells.fold(calls, calls.clock, sums, np.arange(10), now)
        turns.append([int(who) >> 32 for who in cells.take(now)[:, 0]])
    assert turns == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]
    assert len(cells.rest()) == 7
    assert len(cells) == 10
    last = cells.take(now + 2)
    assert values_of(last)[:, 0].tolist() == [4] * 7
    assert len(cells) == len(cells.rest()) == 0


def test_a_thousand_keys_over_many_hours_leave_two_hours_in_memory() -> None:
    cells = Cells()
    for hour in range(30):
        calls = batch([(hour * HOUR, hour * HOUR, key, 1.0) for key in range(1000)])
        cells.fold(calls, calls.clock, np.ones((1000, 12), np.int64), np.arange(1000), T0 // HOUR + hour)
        assert len(cells.take(T0 // HOUR + hour)) == 1000
        assert len(cells) == min(hour + 1, 2) * 1000
    assert cells._cells.nbytes <= 128 * 4096


def test_cells_of_an_older_checkpoint_lack_a_measure_and_a_damaged_one_is_refused() -> None:
    cells, calls = Cells(), batch([(0, 0, 1, 1.0)])
    cells.fold(calls, calls.clock, np.ones((1, 12), np.int64), np.arange(1), T0 // HOUR)
    state = cells.snapshot()
    names = [name for name in state["cells"].dtype.names or () if name != "web_searches"]
    older = Cells()
    older.restore(
        through_bytes({"cells": np.ascontiguousarray(state["cells"])[names].astype([(n, np.int64) for n in names])})
    )
    assert older.take(T0 // HOUR).tolist() == cells.take(T0 // HOUR).tolist()
    state["cells"]["calls"] = -1
    with pytest.raises(BadCheckpoint, match="less than nothing"):
        Cells().restore(state)


def test_what_was_learnt_from_a_file_is_no_usage_of_the_topic() -> None:
    log, fresh = Log(0, LATE), Assembly(PRICES)
    log.read(3)
    assert log.assembly.pipeline.standing()[1]
    fresh.restore(through_bytes(checkpoint_of(log.assembly, next=7).state))
    assert (fresh.pipeline.standing()[1], fresh.pipeline.counters["usd"]) == ([], 0)
