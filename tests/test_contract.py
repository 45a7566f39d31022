"""The worker on a real broker: what is promised of position and state, with real processes and real faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though it does not say so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from examples.kafka.broker import Broker
from schemas.signals import SIGNAL, Signal
from stream.blocks import Index
from stream.checkpoint import EMPTY, Pointer
from stream.transport import Topics
from tests.conftest import Reachable
from tests.verifier import Verdict, committed, read, verify
from tests.workers import Site, Traffic, event, eventually

JOINS_WITHIN_S = 40.0
PANE_AND_GRACE_S = 8.0
LATE_S, LATEST_S = 10.0, 30.0
"""The grace of tenants of which every fifth call comes 9 s late: two slices; and the longest that there is."""


@pytest.fixture
def site(broker: Reachable, topic_prefix: str, tmp_path: Path) -> Iterator[Site]:
    one = Site(broker.bootstrap, topic_prefix, tmp_path)
    yield one
    one.close()


@pytest.fixture
def sites(broker: Reachable, topic_prefix: str, tmp_path: Path) -> Iterator[Site]:
    many = Site(broker.bootstrap, topic_prefix, tmp_path, partitions=4)
    yield many
    many.close()


def settled(site: Site, late_s: float = LATE_S) -> Verdict:
    """Everything read, every slice closed by the idle clock, every worker stopped in good order; then verified.

    `late_s` is the longest grace of a tenant.
    """
    alive = [process for process in site.processes if process.alive]
    eventually(lambda: sum(p.metric("burnguard_partitions") for p in alive) == site.partitions, JOINS_WITHIN_S, "all loaded")
    eventually(lambda: sum(p.metric("burnguard_lag") for p in alive) == 0, 60, "all read")
    closed = time.time() + PANE_AND_GRACE_S + late_s
    eventually(lambda: all(time.time() - p.metric("burnguard_clock_age_seconds") > closed for p in alive), 60, "idle clocks")
    for process in alive:
        assert process.stop() == 0
    return verify(site.kafka, site.partitions)


def test_one_worker_folds_says_and_keeps_exactly_what_the_topic_holds(site: Site) -> None:
    traffic = Traffic(site.kafka)
    traffic.some(3_000)
    worker = site.worker()
    eventually(lambda: worker.metric("burnguard_lag") == 0 and worker.metric("burnguard_calls_total") > 2_000, 60, "read")
    traffic.some(4_000)
    verdict = settled(site)
    assert verdict.wrong == []
    assert verdict.calls > 3_900
    assert verdict.quarantined > 0


def test_poison_in_mid_batch_is_quarantined_once_and_its_neighbours_are_kept(site: Site) -> None:
    traffic = Traffic(site.kafka)
    bad = [b"{broken", b"", b"\xff\xfe", b"[1]", b"9" * 900_000, json.dumps(event("x", 1, -5)).encode()]
    for n in range(600):
        traffic.send(bad[n // 100] if n % 100 == 50 else json.dumps(event(n, n % 7, 100)).encode())
    traffic.flush()
    site.worker()
    verdict = settled(site)
    assert verdict.wrong == []
    assert verdict.quarantined == 6


def test_compressed_batches_of_every_codec_are_read(site: Site) -> None:
    for codec in ("gzip", "snappy", "lz4", "zstd", "none"):
        Traffic(site.kafka, {"compression.type": codec}).some(1_000)
    site.worker()
    verdict = settled(site)
    assert verdict.wrong == []
    assert verdict.calls > 4_900


def test_aborted_transactions_are_not_counted_and_their_markers_are_no_gap(site: Site) -> None:
    traffic = Traffic(site.kafka, {"transactional.id": site.kafka.group})
    traffic.producer.init_transactions(30)
    worker = site.worker()
    for turn in range(6):
        traffic.producer.begin_transaction()
        traffic.some(traffic.sent + 200)
        if turn % 2:
            traffic.producer.abort_transaction()
        else:
            traffic.producer.commit_transaction()
    Traffic(site.kafka).some(100)
    verdict = settled(site)
    assert verdict.wrong == []
    assert 650 < verdict.calls < 710
    assert worker.events("offset_gap") == []


BREAKS_AT_800 = """
from stream import pipeline
fold = pipeline.Pipeline.feed
def feed(self, batch):
    if self.counters["calls"] + len(batch) > 800:
        raise ValueError("a broken invariant")
    return fold(self, batch)
pipeline.Pipeline.feed = feed
from stream.cli import main
main()
"""


def test_a_worker_that_cannot_go_on_crashes_and_the_next_one_has_the_same_totals(site: Site) -> None:
    traffic = Traffic(site.kafka)
    traffic.some(1_000)
    broken = site.worker(program=BREAKS_AT_800)
    assert broken.ended(60) == 1
    assert "a broken invariant" in broken.log.read_text()
    site.worker()
    verdict = settled(site)
    assert verdict.wrong == []
    assert verdict.calls > 950


def test_retention_that_overtakes_the_worker_is_counted_exactly_and_told(site: Site) -> None:
    traffic = Traffic(site.kafka)
    traffic.some(500)
    first = site.worker()
    eventually(lambda: first.metric("burnguard_calls_total") > 400 and first.metric("burnguard_uncommitted") == 0, 60, "read")
    assert first.stop() == 0
    traffic.some(1_500)
    delete_before(site, 1_200)
    second = site.worker()
    eventually(lambda: second.metric("burnguard_offset_gap_total") > 0, 60, "the gap is seen")
    assert second.metric("burnguard_offset_gap_total") == 700
    eventually(lambda: second.metric("burnguard_lag") == 0 and second.metric("burnguard_uncommitted") == 0, 30, "read")
    gaps = [signal for signal in said(site) if signal.kind == "telemetry_gap"]
    assert [(gap.evidence.observed, gap.partition) for gap in gaps] == [(700.0, 0)]
    assert second.stop() == 0


def test_it_says_so_and_ends_where_its_commit_is_gone_but_its_state_is_not(site: Site) -> None:
    Traffic(site.kafka).some(200)
    first = site.worker()
    eventually(lambda: first.metric("burnguard_checkpoint_bytes_total") > 0, 60, "a checkpoint")
    assert first.stop() == 0
    delete_group(site)
    second = site.worker()
    assert second.ended(60) == 1
    assert "its offsets expired or were deleted" in second.log.read_text()


def test_a_rejected_checkpoint_ends_the_worker_and_moves_no_position(site: Site) -> None:
    traffic = Traffic(site.kafka)
    traffic.some(300)
    alter(site, site.kafka.state_topic, "max.message.bytes", "200")
    worker = site.worker()
    assert worker.ended(90) == 1
    assert "checkpoint" in worker.log.read_text()
    assert asyncio.run(committed(site.kafka))[0] == (0, EMPTY)
    alter(site, site.kafka.state_topic, "max.message.bytes", "1100000")
    site.worker()
    verdict = settled(site)
    assert verdict.wrong == []


async def records_of(site: Site, pointer: Pointer) -> list[int]:
    """The records of state that a pointer's index names."""
    topics = Topics(site.kafka)
    await topics.start()
    try:
        return Index.read(await topics.read_state(0, pointer), pointer).offsets
    finally:
        await topics.stop()


def test_a_checkpoint_of_several_records_is_restored(site: Site) -> None:
    traffic = Traffic(site.kafka)
    for n in range(60_000):
        traffic.send(json.dumps(event(n, n, 100 + n)).encode())
    traffic.flush()
    first = site.worker()
    eventually(lambda: first.metric("burnguard_calls_total") == 60_000, 60, "read")
    eventually(lambda: first.metric("burnguard_uncommitted") == 0, 60, "kept")
    assert first.stop() == 0
    pointer = Pointer.read(asyncio.run(committed(site.kafka))[0][1])
    assert len(asyncio.run(records_of(site, pointer))) > 2
    traffic.some(traffic.sent + 500)
    site.worker()
    verdict = settled(site)
    assert verdict.wrong == []


def test_it_does_not_start_on_a_topic_whose_clock_is_the_producers(site: Site) -> None:
    alter(site, site.kafka.usage_topic, "message.timestamp.type", "CreateTime")
    worker = site.worker()
    assert worker.ended(60) == 1
    assert "message.timestamp.type is CreateTime" in worker.log.read_text()


@pytest.mark.usefixtures("own_broker")  # for the reason to skip
def test_a_batch_that_the_disk_has_damaged_ends_the_worker_and_is_not_read(topic_prefix: str, tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as broker:
        site = Site(broker.bootstrap, topic_prefix, tmp_path)
        traffic = Traffic(site.kafka)
        traffic.some(300)
        broker.stop()
        log = next((tmp_path / "kafka").glob(f"**/{site.kafka.usage_topic}-0/*.log"))
        damaged = bytearray(log.read_bytes())
        damaged[damaged.rindex(b"input_tokens")] ^= 1
        log.write_bytes(damaged)
        broker.start()
        worker = site.worker()
        assert worker.ended(60) == 1
        assert "wrong CRC" in worker.log.read_text()
        site.close()


def test_health_readiness_and_metrics_are_served_on_loopback(site: Site) -> None:
    worker = site.worker()
    eventually(lambda: worker.events("loaded"), JOINS_WITHIN_S, "loaded")
    eventually(lambda: worker.get("/ready")[0] == 200, 10, "ready")
    assert worker.get("/health") == (200, "alive\n")
    assert "burnguard_offset_gap_total 0.0" in worker.get("/metrics")[1]
    address = worker.events("listening")[0]["address"]
    assert address.startswith("http://127.0.0.1:")
    second = site.worker(BURNGUARD_WORKER_HTTP_PORT=address.rpartition(":")[2])
    assert second.ended(30) == 1
    assert "address already in use; 0 takes any that is free" in second.log.read_text()


HANGS = """
import time
import stream.app
from stream.pipeline import Pipeline
stream.app.compile_kernels()
stream.app.compile_kernels = lambda: None
def hang_here(self, batch):
    time.sleep(600)
Pipeline.feed = hang_here
from stream.cli import main
main()
"""


def test_a_stuck_worker_says_where_it_hangs_and_ends(site: Site) -> None:
    Traffic(site.kafka).some(100)
    worker = site.worker(program=HANGS, BURNGUARD_WORKER_STUCK_S="10")
    assert worker.ended(90) == 1
    text = worker.log.read_text()
    assert "stuck: the loop has not turned" in text
    assert "hang_here" in text


def test_sasl_over_tls_is_the_workers_way_in_too(own_broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    site = Site(own_broker.bootstrap, topic_prefix, tmp_path)
    (tmp_path / "password").write_text(own_broker.password)
    Traffic(site.kafka).some(300)
    site.worker(
        BURNGUARD_KAFKA_BOOTSTRAP=own_broker.sasl_ssl,
        BURNGUARD_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        BURNGUARD_KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        BURNGUARD_KAFKA_USERNAME=own_broker.username,
        BURNGUARD_KAFKA_PASSWORD_FILE=str(tmp_path / "password"),
        BURNGUARD_KAFKA_CA_FILE=str(own_broker.ca),
    )
    try:
        verdict = settled(site)
        assert verdict.wrong == []
        assert verdict.calls > 250
    finally:
        site.close()


def said(site: Site) -> list[Signal]:
    """The signals on their topic."""
    records = asyncio.run(read(site.kafka, site.kafka.signals_topic, 0))
    return [Signal.read(record.value) for record in records if record.key == SIGNAL]


def delete_before(site: Site, offset: int) -> None:
    """What retention does."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(**site.kafka.client())
        await admin.start()
        await admin.delete_records({TopicPartition(site.kafka.usage_topic, 0): RecordsToDelete(before_offset=offset)})
        await admin.close()

    asyncio.run(delete())


def delete_group(site: Site) -> None:
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap})
    eventually(lambda: _deleted(admin, site.kafka.group), 20, "the group is empty")


def _deleted(admin: AdminClient, group: str) -> bool:
    try:
        admin.delete_consumer_groups([group])[group].result(10)
    except KafkaException:
        return False
    return True


def alter(site: Site, topic: str, key: str, value: str) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    resource.add_incremental_config(ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET))
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(10)
