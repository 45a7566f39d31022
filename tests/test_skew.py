"""Clocks that are off are told as such, by tenant and by producer; what exporters keep back is not."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from schemas.adapters import native
from schemas.adapters.who import Sources
from schemas.producers import Producer
from stream import metrics
from stream.intake import Body, Intake
from stream.passing import Foreign
from stream.rekey import Rekey
from stream.skew import Skews
from tests.calls import Call, batch, pipeline
from tests.exporters import flushed
from tests.foreign import body
from tests.intakes import KAFKA, MemoryKafka
from tests.memory_log import Log, Member, as_fetched
from tests.test_rekey import MemoryTopic
from tests.test_worker import T0, _event, worker

MINUTE, NOW = 60_000, 1_790_000_000


def off(calls: list[Call], by_s: float) -> list[Call]:
    """The calls as a clock that is ahead by so much tells of them."""
    return [(at, ts + round(by_s * 1000), key, usd) for at, ts, key, usd in calls]


@pytest.mark.parametrize("period", [0, 5, 30])
def test_every_clock_that_is_off_is_told_and_no_exporter_that_keeps_calls_back(period: int) -> None:
    line = pipeline()
    clocks = [90.0, -20.0, 5.0, 0.0]
    calls = [call for n, by in enumerate(clocks) for call in off(flushed((0, 400), period, key=4 * n), by)]
    line.feed(batch(sorted(calls)))
    told = {tenant: ahead / 1000 for tenant, ahead in line.clocks().items()}
    assert told == {f"tenant-{n}": pytest.approx(by, abs=1.1) for n, by in enumerate(clocks) if by}
    assert line.counters["unique"] == len(calls)


@settings(max_examples=60, deadline=None)
@given(st.integers(-300, 4_000), st.sampled_from([0, 5, 7, 10, 20, 30]), st.integers(0, 9_999))
def test_whatever_the_skew_and_the_flush_it_is_told_to_the_second(seconds: int, period: int, phase: int) -> None:
    line = pipeline()
    line.feed(batch(sorted(off(flushed((0, 400), period, phase=phase), seconds))))
    found = line.clocks().get("tenant-0", 0) / 1000
    assert found == pytest.approx(seconds, abs=2.0)
    assert abs(seconds) < 4 or found
    assert seconds or not found


def test_few_calls_kept_back_for_long_are_no_clock_that_is_behind() -> None:
    chance = random.Random(1)
    for _ in range(50):
        line = pipeline()
        line.feed(batch([(n * MINUTE + round(chance.uniform(0, 30_000)), n * MINUTE, 1, 0.1) for n in range(12)]))
        assert line.clocks() == {}


def test_single_calls_with_an_odd_time_are_no_skew_and_it_is_told_as_long_as_it_lasts() -> None:
    line = pipeline()
    calls = [(n * 1_000, n * 1_000 + (80_000 if n in (70, 200) else 0), 1, 0.1) for n in range(600)]
    line.feed(batch(calls))
    assert line.clocks() == {}
    wrong = [(n * 1_000, n * 1_000 + 80_000, 1, 0.1) for n in range(600, 900)]
    line.feed(batch(wrong[:150], list(range(1_000, 1_150))))
    assert line.clocks() == {}
    line.feed(batch(wrong[150:], list(range(1_150, 1_300))))
    assert line.clocks() == {"tenant-0": 80_000}
    line.feed(batch([(n * 1_000, n * 1_000, 1, 0.1) for n in range(900, 1_200)], list(range(2_000, 2_300))))
    assert line.clocks() == {}


def test_who_is_silent_for_an_hour_is_not_told_any_more() -> None:
    line = pipeline()
    line.feed(batch(off(flushed((0, 400), 0), 90)))
    assert line.clocks()
    line.feed(batch([(400_000 + 62 * MINUTE, 400_000 + 62 * MINUTE, 5, 0.1)], [10_000]))
    assert line.clocks() == {}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 30_000, MINUTE, MINUTE, 20 * MINUTE]),
            st.integers(0, 1),
            st.integers(-1_500, 1_500) | st.integers(1_900, 4_200),
        ),
        max_size=80,
    ),
    st.integers(1, 80),
)
def test_the_kernel_says_what_a_twin_says(steps: list[tuple[int, int, int]], cut: int) -> None:
    skews, clock = Skews(), 1_000_000 * MINUTE
    skews.grow(2)
    least: dict[int, dict[int, int]] = defaultdict(dict)
    rows = []
    for later, row, behind in steps:
        clock += later
        rows.append((row, clock, clock - behind))
        minutes = least[row]
        minutes[clock // MINUTE] = min(minutes.get(clock // MINUTE, behind), behind)
    for lo in range(0, len(rows), cut):
        row_of, came, ts = np.array(rows[lo : lo + cut], np.int64).T.copy()
        skews.add(row_of.astype(np.int32), came, ts)
    expected = {}
    for row in sorted(least):
        minutes = least[row]
        past = sorted(([0] * 5 + [minutes[m] for m in sorted(minutes)][:-1])[-5:])
        ahead, behind = past[2] < -1_000, past[0] > 2_000 and past[4] - past[0] <= 2_000
        if (ahead or behind) and max(minutes) >= clock // MINUTE - 60:
            expected[row] = -past[2]
    assert skews.ahead(clock) == expected


def sample(name: str, **labels: str) -> float | None:
    return metrics.INTAKE.get_sample_value(name, labels)


def sent(n: int, ts: float) -> dict[str, object]:
    usage = {"tenant": "t", "key_id": "k", "model": "m", "input_tokens": 1, "output_tokens": 1}
    return {"event_id": f"{n}", "ts": ts, **usage}


async def test_the_intake_tells_each_producers_clock_and_refuses_no_call_for_it() -> None:
    kafka = MemoryKafka()
    inside = Intake(kafka, KAFKA, Sources({}), 1 << 20)
    clocks = {"fast": 90.0, "slow": -20.0, "a-little-fast": 5.0, "right": 0.0, "a-day-fast": 86_400.0}
    for name, ahead in clocks.items():
        producer = Producer(name=name, token_sha256="0" * 64)
        for n in range(0, 420, 30):  # a flush every 30 s
            calls = [sent(1_000 * n + kept, NOW + n - kept + ahead) for kept in range(30)]
            taken = await inside.take(Body("native", body(calls)), producer, lambda size: None, NOW + n + 0.2)
            assert (taken.calls, taken.refused) == (30, 0)
    of = {name: {"producer": name, "source": "native"} for name in clocks}
    told = {name: sample("burnguard_intake_clock_ahead_seconds", **labels) for name, labels in of.items()}
    assert told == {name: pytest.approx(ahead, abs=0.5) for name, ahead in clocks.items()}
    ages = {
        edge: [sample("burnguard_intake_age_seconds_bucket", **of[name], le=edge) for name in ("fast", "right")]
        for edge in ("-60.0", "1.0", "30.0")
    }
    assert ages == {"-60.0": [14 * 30, 0], "1.0": [14 * 30, 14], "30.0": [14 * 30, 14 * 30]}


async def test_a_topic_that_is_read_tells_its_clock_too() -> None:
    came = [1_000 * (NOW + 30 * n) for n in range(14)]
    topic = MemoryTopic([Foreign(0, n, at, body(sent(n, at / 1000 + 7))) for n, at in enumerate(came)])
    rekey = Rekey("clocks-of-others", "native", native.WHO, topic.joined(), MemoryKafka(), KAFKA)
    going = asyncio.create_task(rekey.go())
    while topic.committed.get(0) != len(came):
        await asyncio.sleep(0.001)
    going.cancel()
    labels = {"producer": "clocks-of-others", "source": "native"}
    assert sample("burnguard_intake_clock_ahead_seconds", **labels) == 7.0


async def test_a_worker_tells_the_tenants_whose_clocks_are_furthest_off_and_no_more_than_twenty() -> None:
    calls = [
        (T0 + second * 1_000, _event(100 * second + n, T0 + second * 1_000 + n * 2_000, f"key-{n}", 1))
        for second in range(0, 360, 20)
        for n in range(30)
    ]
    log = Log(usage=len(calls))
    mine = worker(Member(log))
    await mine.take(0, 1, [as_fetched(calls, 0)])
    await mine.tick()
    told = {
        f"t-key-{n}": REGISTRY.get_sample_value("burnguard_tenant_clock_ahead_seconds", {"tenant": f"t-key-{n}"})
        for n in range(30)
    }
    assert told == {f"t-key-{n}": 2.0 * n if n >= 10 else None for n in range(30)}
