"""`burnguard emit`: what it says became of the lines is what is in the topic."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer
from click.testing import CliRunner, Result
from kafka.admin import KafkaAdminClient

from examples.kafka.broker import Broker
from stream.cli import main
from stream.emit import Report, lines_of
from tests.conftest import Reachable

Record = tuple[int, str, bytes]


def emit(bootstrap: str, topic: str, source: Path | str, stdin: bytes = b"") -> Result:
    environment = {"BURNGUARD_KAFKA_BOOTSTRAP": bootstrap, "BURNGUARD_KAFKA_USAGE_TOPIC": topic}
    return CliRunner().invoke(main, ["emit", str(source)], env=environment, input=stdin)


def start(bootstrap: str, topic: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """The command as its own process, reading the pipe `stdin`."""
    return subprocess.Popen(
        [sys.executable, "-c", "from stream.cli import main; main()", "emit"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"BURNGUARD_KAFKA_BOOTSTRAP": bootstrap, "BURNGUARD_KAFKA_USAGE_TOPIC": topic},
    )


def figures(said: str) -> dict[str, int]:
    rows = [line.split() for line in said.splitlines() if line]
    return {
        row[0]: int(row[1].rstrip(":")) for row in rows if row[0] in ("read", "acknowledged", "refused", "failed", "unknown")
    }


async def content(bootstrap: str, topic: str) -> list[Record]:
    """Partition, key and value of every record there."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[Record] = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                found += [(tp.partition, record.key.decode(), record.value) for record in records]
    return found


def call(n: int, tenant: str) -> bytes:
    return json.dumps({"event_id": f"e{n}", "tenant": tenant, "input_tokens": n}).encode()


def create(bootstrap: str, topic: str, partitions: int, **configs: str) -> None:
    kafka = KafkaAdminClient(bootstrap_servers=bootstrap)
    asked = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    kafka.create_topics({topic: asked}, wait_for_metadata=True)
    kafka.close()


@pytest.fixture
def topic(broker: Reachable, topic_prefix: str) -> str:
    create(broker.bootstrap, topic_prefix, 12)
    return topic_prefix


async def test_what_is_acknowledged_is_in_the_topic_a_tenant_in_one_partition_and_in_order(
    broker: Reachable, topic: str, tmp_path: Path
) -> None:
    lines = [call(n, f"tenant-{n * n % 41}") for n in range(5_000)]
    (tmp_path / "calls.ndjson").write_bytes(b"\n".join(lines) + b"\r\n\n")
    said = emit(broker.bootstrap, topic, tmp_path / "calls.ndjson")
    assert said.exit_code == 0, said.output
    assert figures(said.output) == {"read": 5_000, "acknowledged": 5_000, "refused": 0, "failed": 0}
    found = await content(broker.bootstrap, topic)
    assert sorted(value for _, _, value in found) == sorted(lines)
    partitions, order = defaultdict(set), defaultdict(list)
    for partition, key, value in found:
        event = json.loads(value)
        assert event["tenant"] == key
        partitions[key].add(partition)
        order[key].append(event["input_tokens"])
    assert all(len(of_one) == 1 for of_one in partitions.values())
    assert all(numbers == sorted(numbers) for numbers in order.values())


async def test_tenants_are_where_java_puts_them_and_librdkafka_with_the_setting_that_we_document(
    own_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    tenants = [f"tenant-{n}" for n in range(200)] + ["a", "ab", "abc", "müller", "日本", "x" * 300]
    topics = [f"{topic_prefix}-{who}" for who in ("ours", "java", "murmur2", "default")]
    for topic in topics:
        create(own_broker.bootstrap, topic, 12)
    (tmp_path / "calls").write_bytes(b"\n".join(call(n, tenant) for n, tenant in enumerate(tenants)))
    assert emit(own_broker.bootstrap, topics[0], tmp_path / "calls").exit_code == 0
    to = ["--bootstrap-server", own_broker.bootstrap, "--topic", topics[1]]
    keyed = ["--property", "parse.key=true", "--property", "key.separator=\t"]
    own_broker.tool("kafka-console-producer", *to, *keyed, stdin="".join(f"{tenant}\tx\n" for tenant in tenants))
    for topic, setting in ((topics[2], {"partitioner": "murmur2_random"}), (topics[3], {})):
        producer = confluent_kafka.Producer({"bootstrap.servers": own_broker.bootstrap, **setting})
        for tenant in tenants:
            producer.produce(topic, b"x", tenant.encode())
        assert producer.flush(20) == 0
    ours, java, murmur2, default = [
        {key: partition for partition, key, _ in await content(own_broker.bootstrap, topic)} for topic in topics
    ]
    assert len(ours) == len(tenants)
    assert ours == java == murmur2
    assert sum(default[tenant] == ours[tenant] for tenant in tenants) < len(tenants) / 2


async def test_standard_input_and_gzip_give_the_same(broker: Reachable, topic: str, tmp_path: Path) -> None:
    lines = [call(n, "acme") for n in range(100)]
    (tmp_path / "calls.ndjson.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    assert emit(broker.bootstrap, topic, tmp_path / "calls.ndjson.gz").exit_code == 0
    assert emit(broker.bootstrap, topic, "-", b"\n".join(lines)).exit_code == 0
    assert [value for _, _, value in await content(broker.bootstrap, topic)] == lines * 2


async def test_lines_that_cannot_be_keyed_are_counted_and_never_shown(broker: Reachable, topic: str, tmp_path: Path) -> None:
    poison = [
        b'{"secret": 1}',
        b"secret",
        b"[]",
        b'{"tenant": 5}',
        b'{"tenant": ""}',
        b'{"tenant": "\xff"}',
        b'{"tenant": "a"} x',
    ]
    longest = b'{"tenant": "a", "secret": "' + b"x" * (3 << 20) + b'"}'
    lines = [call(0, "acme"), b"", *poison, longest, call(1, "acme")]
    (tmp_path / "calls").write_bytes(b"\n".join(lines))
    said = emit(broker.bootstrap, topic, tmp_path / "calls")
    assert said.exit_code == 1
    assert figures(said.output) == {"read": 10, "acknowledged": 2, "refused": 8, "failed": 0}
    assert "first line 3: not a JSON object with a string `tenant`: Object missing required field" in said.output
    assert "secret" not in said.output
    assert [value for _, _, value in await content(broker.bootstrap, topic)] == [lines[0], lines[-1]]


async def test_a_line_that_the_topic_would_not_take_is_refused_and_the_longest_that_it_takes_is_sent(
    broker: Reachable, topic_prefix: str, tmp_path: Path
) -> None:
    create(broker.bootstrap, topic_prefix, 1, **{"max.message.bytes": "4000"})

    def noise(size: int) -> bytes:
        start = b'{"tenant": "acme", "noise": "'
        return start + os.urandom(size).hex().encode()[: size - len(start) - 2] + b'"}'

    fits = 4000 - 128 - len("acme")
    lines = [call(0, "acme"), noise(fits + 1), *[noise(fits) for _ in range(20)], call(2, "acme")]
    (tmp_path / "calls").write_bytes(b"\n".join(lines))
    said = emit(broker.bootstrap, topic_prefix, tmp_path / "calls")
    assert said.exit_code == 1
    assert figures(said.output) == {"read": 23, "acknowledged": 22, "refused": 1, "failed": 0}
    assert "first line 2: longer than 3872 bytes with its tenant" in said.output
    assert [value for _, _, value in await content(broker.bootstrap, topic_prefix)] == [lines[0], *lines[2:]]


async def test_a_broken_gzip_is_said_and_what_was_read_of_it_is_sent(broker: Reachable, topic: str, tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(call(n, "acme") for n in range(20_000)))
    (tmp_path / "calls.gz").write_bytes(whole[: len(whole) // 2])
    said = emit(broker.bootstrap, topic, tmp_path / "calls.gz")
    assert said.exit_code == 1
    assert "the source cannot be read on: Compressed file ended before" in said.output
    assert figures(said.output)["acknowledged"] == len(await content(broker.bootstrap, topic)) > 1_000


def test_a_missing_topic_and_a_missing_broker_are_said_at_once(broker: Reachable, topic_prefix: str, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(call(0, "acme"))
    missing = emit(broker.bootstrap, topic_prefix, tmp_path / "calls")
    assert (missing.exit_code, missing.output) == (1, f"Error: {topic_prefix}: missing: burnguard topics init\n")
    began = time.monotonic()
    with start("127.0.0.1:1", topic_prefix, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(call(0, "acme"))
    assert process.returncode == 1
    assert said.decode().startswith("Error: 127.0.0.1:1: cannot connect (Connection refused)")
    assert time.monotonic() - began < 20  # 5 of them are imports, on a busy machine


async def test_ctrl_c_reports_what_was_sent_so_far(broker: Reachable, topic: str) -> None:
    with start(broker.bootstrap, topic) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"".join(call(n, "acme") + b"\n" for n in range(10)))
        while len(await content(broker.bootstrap, topic)) < 10:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().decode()
    assert process.returncode == 1
    assert figures(said) == {"read": 10, "acknowledged": 10, "refused": 0, "failed": 0}
    assert "stopped       after line 10: interrupted" in said


def trickle(lines: int, seconds: float) -> Iterator[bytes]:
    for n in range(lines):
        time.sleep(seconds / lines)
        yield call(n, f"tenant-{n % 7}") + b"\n"


class Pipe(threading.Thread):
    """`emit` in its own process, fed slowly while the test does something to the broker."""

    def __init__(self, bootstrap: str, topic: str, lines: int, seconds: float) -> None:
        super().__init__()
        self.process = start(bootstrap, topic)
        self._source = trickle(lines, seconds)

    def run(self) -> None:
        assert self.process.stdin is not None
        with self.process.stdin as pipe:
            try:
                for line in self._source:
                    pipe.write(line)
            except BrokenPipeError:  # it gave up, as it should where the broker stays away
                return

    def said(self, timeout: float) -> str:
        assert self.process.stdout is not None
        self.process.wait(timeout)
        self.join()
        with self.process.stdout as said:
            return said.read().decode()


@pytest.mark.chaos
async def test_a_broker_that_comes_back_in_time_costs_no_line_and_doubles_none(own_broker: Broker, topic_prefix: str) -> None:
    create(own_broker.bootstrap, topic_prefix, 3)
    pipe = Pipe(own_broker.bootstrap, topic_prefix, lines=2_000, seconds=12)
    pipe.start()
    while not await content(own_broker.bootstrap, topic_prefix):
        time.sleep(0.1)
    own_broker.kill()
    own_broker.start()
    said = pipe.said(60)
    assert figures(said) == {"read": 2_000, "acknowledged": 2_000, "refused": 0, "failed": 0}, said
    numbers = [json.loads(value)["input_tokens"] for _, _, value in await content(own_broker.bootstrap, topic_prefix)]
    assert sorted(numbers) == list(range(2_000))


@pytest.mark.chaos
async def test_a_broker_that_stays_away_ends_it_in_bounded_time_and_no_line_is_forgotten(
    own_broker: Broker, topic_prefix: str
) -> None:
    create(own_broker.bootstrap, topic_prefix, 3)
    pipe = Pipe(own_broker.bootstrap, topic_prefix, lines=50_000, seconds=120)
    pipe.start()
    while not await content(own_broker.bootstrap, topic_prefix):
        time.sleep(0.1)
    own_broker.kill()
    said = pipe.said(100)
    own_broker.start()
    found = figures(said)
    assert pipe.process.returncode == 1
    assert "stopped       after line" in said
    assert found["read"] == found["acknowledged"] + found["failed"] + found.get("unknown", 0)
    assert found["failed"] > 0
    there = len(await content(own_broker.bootstrap, topic_prefix))
    assert found["acknowledged"] <= there <= found["read"]


def test_a_report_adds_up() -> None:
    report = Report(read=10, acknowledged=7, seconds=1)
    report.failed.add(4, "NotEnoughReplicasError")
    report.failed.add(5, "other")
    assert list(report.lines())[3:5] == [
        "failed        2: first line 4: NotEnoughReplicasError",
        "unknown       1: no answer came; they may be in the topic",
    ]
    assert not report.good


def test_numbers_of_lines_count_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\n\na\r\n\nb")
    with (tmp_path / "f").open("rb") as file:
        assert list(lines_of(file)) == [(3, b"a"), (5, b"b")]
