"""Recomputes from the topic of calls alone what workers must have said and kept, and compares.

Two judges: plain Python sums for windows and counters, and a plain loop (a read-committed consumer, record by record,
into a fresh assembly) as the twin of the whole edge for signals.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from actions.usage import Used, holds_more, used
from schemas.batch import SLICE, Lines, Ms
from schemas.prices import PriceEntry
from schemas.pulse import PULSE, Pulse
from schemas.reading import READING, Reading
from schemas.rollup import USAGE, Rollup
from schemas.signals import SIGNAL, Signal
from schemas.usage import UsageEvent
from stream.assembly import Assembly
from stream.blocks import find
from stream.checkpoint import EMPTY, Buffer, Pointer
from stream.distinct import MANY
from stream.health import SPANS
from stream.measures import HEALTH
from stream.readings import ENDS, Readings
from stream.settings import KafkaSettings
from stream.tenants import TenantMeters
from stream.transport import Topics
from stream.windows import HOUR, MINUTE
from tests.plain import Event, belongs, by_hand, named, totals_of, whose_of
from tests.workers import NANO_PER_TOKEN, PRICES

BOOK = [PriceEntry.model_validate(entry) for entry in PRICES]


@dataclass(frozen=True)
class Record:
    offset: int
    at: Ms
    key: bytes | None
    value: bytes


@dataclass
class Truth:
    """What one partition's calls come to."""

    calls: int = 0
    unique: int = 0
    usd: int = 0
    refused: set[int] = field(default_factory=set)
    hours: Counter[tuple[str, int]] = field(default_factory=Counter)
    keys: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    counted: list[tuple[Ms, Event, int]] = field(default_factory=list)
    """When, what, and for how much: every call once."""


async def read(kafka: KafkaSettings, topic: str, partition: int) -> list[Record]:
    """All committed records of a partition, by a plain consumer."""
    consumer = AIOKafkaConsumer(**kafka.client(), isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    try:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        end = (await consumer.end_offsets([tp]))[tp]
        found: list[Record] = []
        while await consumer.position(tp) < end:
            for r in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
                found.append(Record(r.offset, r.timestamp, r.key, r.value or b""))
        return found
    finally:
        await consumer.stop()


def sums(records: list[Record]) -> Truth:
    """By hand: parse, drop duplicates, add up per tenant and key and hour."""
    truth, seen, clock = Truth(), set(), 0
    for record in records:
        clock = max(clock, record.at)
        try:
            call = json.loads(record.value)
            UsageEvent.model_validate(call)
        except ValueError:
            truth.refused.add(record.offset)
            continue
        truth.calls += 1
        if (call["tenant"], call["event_id"]) in seen:
            continue
        seen.add((call["tenant"], call["event_id"]))
        truth.unique += 1
        usd, at = call["input_tokens"] * NANO_PER_TOKEN, int(call["ts"] * 1000 + 0.5)
        at = clock if at > clock + 60_000 else at
        truth.usd += usd
        truth.counted.append((min(int(call["ts"] * 1000 + 0.5), clock), call, usd))
        truth.hours[call["tenant"], at // HOUR] += usd
        truth.keys[call["tenant"], call["key_id"], at // HOUR] += usd
    return truth


def twin(records: list[Record], partition: int, until: Ms, cut: int = 997) -> tuple[Assembly, dict[str, Signal]]:
    """The plain loop over the same calls, then quiet until `until`."""
    assembly = Assembly(BOOK, partition=partition)
    signals: dict[str, Signal] = {}
    for lo in range(0, len(records), cut):
        some = records[lo : lo + cut]
        ends = np.cumsum([len(r.value) for r in some], dtype=np.int64)
        lines = Lines(
            np.frombuffer(b"".join(r.value for r in some), np.uint8),
            np.concatenate([[0], ends[:-1]]),
            ends,
            np.array([r.offset for r in some]),
            np.array([r.at for r in some]),
        )
        batch, _ = assembly.decoder.decode(lines, partition=partition)
        signals |= {s.id: s for s in assembly.pipeline.feed(batch).signals}
    signals |= {s.id: s for s in assembly.pipeline.advance(until).signals}
    return assembly, signals


async def restored(kafka: KafkaSettings, committed: dict[int, tuple[int, str]]) -> dict[int, tuple[int, Assembly, int]]:
    """What the committed pointers lead to, per partition: offset, state, and in how many records it lies."""
    topics = Topics(kafka)
    await topics.start()
    try:
        found = {}
        for partition, (offset, metadata) in committed.items():
            assembly, records = Assembly(BOOK, partition=partition), 0
            if metadata != EMPTY:
                checkpoint = await find(topics, partition, Pointer.read(metadata))
                assembly.restore(checkpoint.fill(Buffer())[0].state)
                records = len(checkpoint.pieces) + len(checkpoint.records)
            found[partition] = (offset, assembly, records)
        return found
    finally:
        await topics.stop()


async def committed(kafka: KafkaSettings) -> dict[int, tuple[int, str]]:
    """The group's commits."""
    admin = AIOKafkaAdminClient(**kafka.client())
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(kafka.group)
    finally:
        await admin.close()
    return {tp.partition: (c.offset, c.metadata) for tp, c in found.items() if tp.topic == kafka.usage_topic}


@dataclass
class Verdict:
    """What was compared, and every difference in words."""

    calls: int = 0
    signals: int = 0
    windows: int = 0
    quarantined: int = 0
    records: int = 0
    """In so many records the last checkpoints of all partitions lie."""
    wrong: list[str] = field(default_factory=list)


def verify(kafka: KafkaSettings, partitions: int) -> Verdict:
    """Compare everything; workers must have stopped in good order, with all panes closed."""
    return asyncio.run(_verify(kafka, partitions))


async def _verify(kafka: KafkaSettings, partitions: int) -> Verdict:
    verdict, meters = Verdict(), TenantMeters()
    pulsed: dict[int, Ms] = {}
    cells: dict[str, Used] = {}
    said: dict[str, Signal] = {}
    for record in await read(kafka, kafka.signals_topic, 0):
        if record.key == SIGNAL:
            said[Signal.read(record.value).id] = Signal.read(record.value)
        elif record.key == USAGE:
            _take(cells, Rollup.read(record.value))
        elif record.key == READING:
            meters.readings.fold(Reading.read(record.value, ENDS))
        else:
            assert record.key == PULSE
            pulse = Pulse.read(record.value)
            meters.fold(pulse)
            pulsed[pulse.partition] = max(pulse.clock, pulsed.get(pulse.partition, 0))
    states = await restored(kafka, await committed(kafka))
    hours: Counter[str] = Counter()
    keys: Counter[tuple[str, str, int]] = Counter()
    expected: dict[str, Signal] = {}
    counted: list[tuple[Ms, Event, int]] = []
    for partition in range(partitions):
        records = await read(kafka, kafka.usage_topic, partition)
        if not records:
            continue
        truth = sums(records)
        offset, assembly, lies_in = states[partition]
        verdict.records += lies_in
        _compare_state(verdict, partition, truth, records, offset, assembly)
        _, signals = twin(records, partition, pulsed.get(partition, 0) + 2_000)
        expected |= signals
        for (tenant, _), usd in truth.hours.items():
            hours[tenant] += usd
        keys.update(truth.keys)
        counted += truth.counted
        for reading in assembly.pipeline.unsaid():
            meters.readings.fold(reading)
        for rollup in assembly.pipeline.standing()[1]:
            _take(cells, rollup)
        refused = {json.loads(r.value)["position"] for r in await read(kafka, kafka.quarantine_topic, partition)}
        if refused != truth.refused:
            verdict.wrong.append(f"partition {partition}: refused {len(refused)} lines, not {len(truth.refused)}")
        verdict.quarantined += len(truth.refused)
    for tenant, usd in hours.items():
        verdict.windows += 1
        if meters.spent(6 * HOUR).get(tenant) != usd:
            verdict.wrong.append(f"pulses of {tenant}: {meters.spent(6 * HOUR).get(tenant)} nano-dollars, not {usd}")
    rolled_up: Counter[tuple[str, str, int]] = Counter()
    for row in cells.values():
        rolled_up[row["tenant"], row["key_id"], row["hour"]] += row["usd"]
    verdict.windows += len(keys)
    verdict.wrong += [
        f"usage of {key}: {rolled_up[key]} nano-dollars, not {usd}" for key, usd in keys.items() if rolled_up[key] != usd
    ]
    _compare_readings(verdict, meters.readings, counted)
    own = {i: s for i, s in said.items() if s.kind != "telemetry_gap"}
    verdict.signals = len(expected)
    verdict.wrong += [f"signal lost: {s}" for i, s in expected.items() if i not in own]
    verdict.wrong += [f"signal nobody expected: {s}" for i, s in own.items() if i not in expected]
    verdict.wrong += [f"signal differs: {s}" for i, s in own.items() if i in expected and _plain(s) != _plain(expected[i])]
    return verdict


def _compare_readings(verdict: Verdict, readings: Readings, counted: list[tuple[Ms, Event, int]]) -> None:
    """The fleet, every tenant, feature and model: all totals and distinct counts, over every span."""
    end = max(at for at, _, _ in counted)
    everybody = {whose for _, event, _ in counted for whose in whose_of(event)}
    if everybody != set(readings.known()):
        verdict.wrong.append(f"readings of {everybody ^ set(readings.known())} are missing or too many")
    for whose in everybody:
        mine = [(at, event, usd) for at, event, usd in counted if belongs(event, whose)]
        for span in SPANS:
            totals: Counter[str] = Counter()
            for at, event, usd in mine:
                if 0 <= end // span - at // span <= 1:
                    totals.update(totals_of(event, usd))
            verdict.windows += 1
            found = asdict(readings.totals(whose, span, end))
            if found != {name: totals[name] for name in found}:
                verdict.wrong.append(f"readings of {whose} over {span // 60_000} min: {found}, not {dict(totals)}")
        recent = [event for at, event, _ in mine if end // MINUTE - at // MINUTE < 60]
        distinct, expected = named(readings.distinct(whose, HOUR, end)), by_hand(recent, MANY)
        if any(abs(distinct[kind] - expected[kind]) > 1e-6 for kind in expected):
            verdict.wrong.append(f"distinct behind {whose}: {distinct}, not {expected}")


def _take(cells: dict[str, Used], rollup: Rollup) -> None:
    """The largest value of every cell, said or still in a worker's state."""
    for row in used(rollup, "usage"):
        if row["cell"] not in cells or holds_more(row, cells[row["cell"]]):
            cells[row["cell"]] = row


def _plain(signal: Signal) -> Any:
    return (signal.phase, signal.episode, signal.evidence, signal.at, signal.partition)


def _compare_state(
    verdict: Verdict, partition: int, truth: Truth, records: list[Record], offset: int, assembly: Assembly
) -> None:
    counters = assembly.pipeline.counters
    verdict.calls += truth.calls
    for name, value in (("calls", truth.calls), ("unique", truth.unique), ("usd", truth.usd)):
        if counters[name] != value:
            verdict.wrong.append(f"partition {partition}: {name} {counters[name]}, not {value}")
    if offset < records[-1].offset + 1:
        verdict.wrong.append(f"partition {partition}: committed {offset}, the log ends at {records[-1].offset + 1}")
    meter, names = assembly.pipeline._keys, assembly.decoder.keys.names
    rows = {name: row for row, name in enumerate(names)}
    open_now: Counter[tuple[int, int]] = Counter()
    for row, at, spent in _open(assembly):
        open_now[row, at * SLICE // HOUR] += spent
    for (tenant, key_id, hour), usd in truth.keys.items():
        row = rows[tenant, key_id]
        verdict.windows += 1
        held = int(meter.usd[row, 72 + hour % 24]) + open_now[row, hour]
        if held != usd:
            verdict.wrong.append(f"partition {partition}: {key_id} has {held} nano-dollars, not {usd}")
    _compare_health(verdict, partition, truth, assembly)


def _compare_health(verdict: Verdict, partition: int, truth: Truth, assembly: Assembly) -> None:
    """How the calls of every key went, over 5 min, 1 h and 24 h, as of the newest call."""
    names, health = assembly.decoder.keys.names, assembly.pipeline.meters.key_health
    end = max(at for at, _, _ in truth.counted)
    for span in SPANS:
        expected: dict[tuple[str, ...], Counter[str]] = {}
        for at, event, usd in truth.counted:
            if 0 <= end // span - at // span <= 1:
                totals = expected.setdefault((event["tenant"], event["key_id"]), Counter())
                totals.update(totals_of(event, usd))
        found = health.window(np.arange(len(names)), span, end)
        verdict.windows += len(names)
        for key, held in zip(names, found.tolist(), strict=True):
            if held != [expected.get(key, Counter())[name] for name in HEALTH]:
                verdict.wrong.append(f"health of {key} in partition {partition} over {span // 60_000} min: {held}")


def _open(assembly: Assembly) -> list[tuple[int, int, int]]:
    panes = assembly.pipeline._open
    used = panes.used
    return list(zip(panes.keys[:used].tolist(), panes.slots[:used].tolist(), panes.arena[:used, 0].tolist(), strict=True))
