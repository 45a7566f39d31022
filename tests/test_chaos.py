"""Workers that are killed, frozen, join and leave under load, and a broker that goes away; judged from the topic alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.kafka.broker import Broker
from tests.conftest import Reachable
from tests.responders import figure
from tests.test_contract import JOINS_WITHIN_S, LATEST_S, settled
from tests.workers import Site, Traffic, WorkerProcess, eventually

pytestmark = pytest.mark.chaos
KILLS, ZOMBIES, RATE = 10, 4, 300
PARTITIONS, CROWD = 4, 12_000


@pytest.fixture
def site(broker: Reachable, topic_prefix: str, tmp_path: Path) -> Iterator[Site]:
    many = Site(broker.bootstrap, topic_prefix, tmp_path, PARTITIONS)
    yield many
    many.close()


def burdened(site: Site, not_these: list[WorkerProcess]) -> WorkerProcess:
    """A worker that holds calls which it has folded and not committed; says how many."""
    found: list[WorkerProcess] = []

    def look() -> bool:
        alive = [p for p in site.processes if p.alive and p not in not_these]
        found[:] = sorted(alive, key=lambda p: p.metric("burnguard_uncommitted"))[-1:]
        return bool(found) and found[0].metric("burnguard_uncommitted") > 0

    eventually(look, JOINS_WITHIN_S, "a worker with uncommitted calls")
    figure(f"{found[0].name} holds {found[0].metric('burnguard_uncommitted'):.0f} folded, uncommitted calls")
    return found[0]


def generation(process: WorkerProcess) -> int:
    """The newest generation in which it loaded anything."""
    return max((event["generation"] for event in process.events("loaded")), default=0)


def owned(process: WorkerProcess) -> set[int]:
    """The partitions that it loaded in its newest generation."""
    return {event["partition"] for event in process.events("loaded") if event["generation"] == generation(process)}


def taken_over(site: Site, victim: WorkerProcess, lost: set[int], since: dict[str, int]) -> bool:
    """Whether other workers have all that the victim owned, loaded from its pointers."""
    after = {
        event["partition"]
        for process in site.processes
        if process is not victim
        for event in process.events("loaded")[since.get(process.name, 0) :]
    }
    return lost <= after


def count(site: Site) -> dict[str, int]:
    return {process.name: len(process.events("loaded")) for process in site.processes}


def test_killed_and_frozen_workers_lose_nothing_and_count_nothing_twice(site: Site) -> None:
    traffic = Traffic(site.kafka)
    for _ in range(3):
        site.worker()
    traffic.start(RATE)
    eventually(lambda: set().union(*map(owned, site.processes)) == set(range(PARTITIONS)), JOINS_WITHIN_S, "all loaded")
    traffic.crowd(CROWD)
    seconds = []
    for _ in range(KILLS):
        victim = burdened(site, [])
        lost, since = owned(victim), count(site)
        victim.kill()
        site.worker()
        seconds.append(eventually(lambda: taken_over(site, victim, lost, since), JOINS_WITHIN_S, "taken over"))  # noqa: B023
        figure(f"killed: taken over after {seconds[-1]:.1f} s")
    fenced = 0.0
    for _ in range(ZOMBIES):
        victim = burdened(site, [])
        lost, since = owned(victim), count(site)
        victim.freeze()
        eventually(lambda: taken_over(site, victim, lost, since), JOINS_WITHIN_S, "taken over from the frozen one")  # noqa: B023
        newest = max(map(generation, site.processes))
        victim.thaw()
        eventually(lambda: generation(victim) > newest, JOINS_WITHIN_S, "the zombie is a member again")  # noqa: B023
        fenced += victim.metric("burnguard_fenced_total")
        figure("frozen, taken over, thawed")
    traffic.stop()
    verdict = settled(site)
    figure(f"{verdict.calls} calls, {verdict.signals} signals, {verdict.windows} windows, fenced {fenced:.0f} commits")
    figure(f"the last checkpoints of {PARTITIONS} partitions lie in {verdict.records} records")
    assert verdict.wrong == []
    assert verdict.calls > RATE * 60
    assert verdict.signals > 0
    assert verdict.records > 4 * PARTITIONS


def test_workers_join_and_leave_under_load(site: Site) -> None:
    traffic = Traffic(site.kafka)
    first = site.worker()
    traffic.start(RATE)
    eventually(lambda: len(owned(first)) == PARTITIONS, JOINS_WITHIN_S, "the first has all")
    second = site.worker()
    eventually(lambda: owned(second), JOINS_WITHIN_S, "the second has some")
    third = site.worker()
    eventually(lambda: owned(third), JOINS_WITHIN_S, "the third has some")
    assert first.stop() == 0
    eventually(lambda: owned(second) | owned(third) == set(range(PARTITIONS)), JOINS_WITHIN_S, "two have all")
    assert third.stop() == 0
    eventually(lambda: len(owned(second)) == PARTITIONS, JOINS_WITHIN_S, "one has all")
    traffic.stop()
    verdict = settled(site)
    assert verdict.wrong == []
    assert verdict.calls > 1_000


def test_a_broker_that_goes_away_and_comes_back_costs_nothing(
    topic_prefix: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, own_broker: Broker
) -> None:
    site = Site(own_broker.bootstrap, topic_prefix, tmp_path)
    worker = site.worker()
    traffic = Traffic(site.kafka, {"message.timeout.ms": "120000"})
    traffic.start(RATE)
    try:
        eventually(lambda: worker.metric("burnguard_calls_total") > 500, 60, "some are read")
        own_broker.kill()
        time.sleep(5)
        own_broker.start()
        before = worker.metric("burnguard_calls_total")
        seconds = eventually(lambda: worker.metric("burnguard_calls_total") > before + 500, 90, "it reads on")
        figure(f"reads on {seconds:.1f} s after the broker answers again")
        traffic.stop()
        verdict = settled(site, LATEST_S)
        assert verdict.wrong == []
    finally:
        traffic.stop()
        site.close()
