"""A topic of others' becomes usage events: what was not delivered is not committed, and a repeat has the same ids."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.adapters.who import Sources
from stream import rekey
from stream.partition import Fenced
from stream.passing import Foreign
from stream.rekey import Rekey
from tests.foreign import SECRET_TEXT, Truth, bifrost, body
from tests.intakes import KAFKA, MemoryKafka

CALL = Truth(1_000, 500, 0, 0, 90, 10, frozenset(("cached", "reasoning")))


class MemoryTopic:
    """Two partitions; a member begins where the group was committed. `fenced`: the group has moved on."""

    def __init__(self, records: list[Foreign]) -> None:
        self.records = records
        self.committed: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.fenced = False

    def joined(self) -> MemoryTopic:
        self.read = dict(self.committed)
        return self

    async def fetch(self, timeout_s: float) -> list[Foreign]:
        await asyncio.sleep(0)
        found = [record for record in self.records if record.offset >= self.read.get(record.partition, 0)][:3]
        self.read |= {record.partition: record.offset + 1 for record in found}
        return found or await asyncio.sleep(timeout_s, [])

    def end(self, partition: int) -> int | None:
        return sum(record.partition == partition for record in self.records)

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.fenced:
            raise Fenced("the group has moved on")
        self.committed |= positions


def trace(n: int, **rest: Any) -> bytes:
    told = bifrost(CALL)
    told["Spans"][1]["Attributes"]["gen_ai.response.id"] = f"r{n}"
    return body(told | rest)


def topic() -> MemoryTopic:
    return MemoryTopic([Foreign(n % 2, n // 2, 1_790_000_000_000, trace(n)) for n in range(8)])


@asynccontextmanager
async def passing(topic: MemoryTopic, kafka: MemoryKafka) -> AsyncIterator[Rekey]:
    """A member at work; killed at the end."""
    who = Sources({}).of("bifrost")
    member = Rekey("traces", "bifrost", who, topic.joined(), kafka, KAFKA)
    task = asyncio.create_task(member.go())
    try:
        yield member
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


def ids(kafka: MemoryKafka) -> Counter[str]:
    return Counter(call["event_id"].rpartition("-")[2] for call in kafka.calls())


ALL = {f"r{n}" for n in range(8)}


async def test_every_call_is_passed_on_under_its_tenant_and_committed() -> None:
    there, kafka = topic(), MemoryKafka()
    async with passing(there, kafka):
        await until(lambda: there.committed == {0: 4, 1: 4})
    assert ids(kafka) == Counter(ALL)
    assert {record.key for record in kafka.records} == {b"acme"}


async def test_what_was_not_acknowledged_is_not_committed_and_comes_again() -> None:
    there, kafka = topic(), MemoryKafka()
    kafka.open.clear()
    async with passing(there, kafka):
        await until(lambda: kafka.waiting)
        assert there.committed == {}
    kafka.open.set()
    async with passing(there, kafka):
        await until(lambda: there.committed == {0: 4, 1: 4})
    assert set(ids(kafka)) == ALL


async def test_while_kafka_is_away_it_is_tried_again_and_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekey, "AGAIN_S", 0.01)
    there, kafka = topic(), MemoryKafka()
    kafka.away = True
    async with passing(there, kafka) as member:
        await until(lambda: len(kafka.records) > 3)
        assert there.committed == {}
        assert not member.ready()
        kafka.away = False
        await until(lambda: there.committed == {0: 4, 1: 4})
        assert member.ready()
    assert set(ids(kafka)) == ALL
    assert len(kafka.calls()) > len(ALL)


async def test_a_member_that_is_out_of_the_group_goes_on_and_leaves_the_commit_to_others() -> None:
    there, kafka = topic(), MemoryKafka()
    there.fenced = True
    async with passing(there, kafka):
        await until(lambda: set(ids(kafka)) == ALL)
    assert there.committed == {}


async def test_what_is_refused_is_a_row_that_says_where_it_was_and_nothing_stops() -> None:
    kafka = MemoryKafka()
    bad = [SECRET_TEXT.encode(), None, trace(1), b"\xff" * 9, body([bifrost(CALL), SECRET_TEXT])]
    there = MemoryTopic([Foreign(0, n, 0, value) for n, value in enumerate(bad)])
    async with passing(there, kafka):
        await until(lambda: there.committed == {0: 5})
    assert len(kafka.calls()) == 2
    assert [(row["partition"], row["position"], row["line"]) for row in kafka.rows()] == [(0, 0, 0), (0, 3, 0), (0, 4, 2)]
    assert all(row["reason"].startswith("topic traces: ") for row in kafka.rows())
    assert SECRET_TEXT not in repr(kafka.records)
