"""`burnguard topics init|check` on a real cluster: what it makes, what it finds wrong, and that the mends it prints work."""

from __future__ import annotations

import re
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    NewPartitions,
    ResourcePattern,
    ResourceType,
)

from examples.kafka.broker import Broker
from stream.cli import main
from stream.problems import problems
from stream.reach import obstacle
from stream.settings import KafkaSettings
from stream.topics import Cluster, Topic, look
from tests.conftest import Reachable


def topics(settings: KafkaSettings, *arguments: str) -> Result:
    given = settings.model_dump(exclude_none=True)
    environment = {f"BURNGUARD_KAFKA_{name.upper()}": str(value) for name, value in given.items()}
    return CliRunner().invoke(main, ["topics", *arguments], env=environment)


@pytest.fixture
def settings(broker: Reachable, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap=broker.bootstrap, usage_topic=f"{topic_prefix}.usage", prefix=topic_prefix, group=topic_prefix
    )


@pytest.fixture
def kafka(broker: Reachable) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield admin
    admin.close()


def as_alice(broker: Broker, prefix: str, folder: Path) -> KafkaSettings:
    (folder / "password").write_text(broker.password)
    return KafkaSettings(
        bootstrap=broker.sasl_ssl,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        username=broker.username,
        password_file=folder / "password",
        ca_file=broker.ca,
        usage_topic=f"{prefix}.usage",
        prefix=prefix,
        group=prefix,
    )


@contextmanager
def only_bob(broker: Broker, *resources: tuple[ResourceType, str]) -> Iterator[None]:
    """Someone is named there, so everyone else is shut out."""
    patterns = [ResourcePattern(kind, name) for kind, name in resources]
    named = [ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, at) for at in patterns]
    kafka = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    kafka.create_acls([ACL("User:bob", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, at) for at in patterns])
    while not all(kafka.describe_acls(name)[0] for name in named):
        time.sleep(0.05)  # brokers hear of it a little later
    try:
        yield
    finally:
        kafka.delete_acls(named)
        kafka.close()


def mend(broker: Broker, settings: KafkaSettings, lines: list[str]) -> None:
    """Does what the lines say, as the operator who may do everything."""
    for line in lines:
        for tool, arguments in re.findall(r"(kafka-\w+)\.sh (.*?)(?:, then |$)", line):
            asked = arguments.replace(settings.bootstrap, broker.bootstrap).replace(" --command-config client.properties", "")
            broker.tool(tool, *shlex.split(asked))
        if line.endswith("burnguard topics init"):
            time.sleep(1)  # a deletion is not seen at once
            assert topics(settings, "init").exit_code == 0


def test_init_makes_what_check_calls_good_and_a_second_init_changes_nothing(settings: KafkaSettings) -> None:
    before = topics(settings, "check")
    assert before.exit_code == 1
    assert before.output.splitlines()[0] == f"{settings.usage_topic}: missing: burnguard topics init"
    made = topics(settings, "init", "--partitions", "6")
    assert made.exit_code == 0, made.output
    assert [line.split(", ")[0] for line in made.output.splitlines()] == [
        f"{settings.usage_topic}: created",
        f"{settings.signals_topic}: created",
        f"{settings.state_topic}: created",
        f"{settings.quarantine_topic}: created",
    ]
    good = topics(settings, "check")
    assert good.exit_code == 0, good.output
    assert f"{settings.usage_topic}: 6 partitions" in good.output
    assert f"{settings.signals_topic}: 1 partition," in good.output
    again = topics(settings, "init")
    assert again.exit_code == 0
    assert again.output.count("already there, left as it is") == 4


def test_init_takes_the_partitions_that_usage_already_has(settings: KafkaSettings, kafka: KafkaAdminClient) -> None:
    kafka.create_topics({settings.usage_topic: {"num_partitions": 5, "replication_factor": 1}}, wait_for_metadata=True)
    assert f"{settings.state_topic}: created, 5 partitions" in topics(settings, "init").output
    assert f"{settings.usage_topic}: message.timestamp.type is CreateTime" in topics(settings, "check").output


def test_every_mend_that_check_prints_works(own_broker: Broker, topic_prefix: str) -> None:
    here = KafkaSettings(
        bootstrap=own_broker.bootstrap, usage_topic=f"{topic_prefix}.usage", prefix=topic_prefix, group=topic_prefix
    )
    kafka = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    wrong: dict[str, Any] = {
        here.usage_topic: (3, {"compression.type": "gzip", "cleanup.policy": "compact", "min.insync.replicas": "2"}),
        here.signals_topic: (2, {"message.timestamp.type": "LogAppendTime"}),
        here.state_topic: (
            3,
            {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1000", "retention.bytes": "9"},
        ),
        here.quarantine_topic: (1, {}),
    }
    kafka.create_topics(
        {n: {"num_partitions": p, "replication_factor": 1, "configs": c} for n, (p, c) in wrong.items()},
        wait_for_metadata=True,
    )
    kafka.close()
    said = topics(here, "check")
    lines = said.output.splitlines()
    assert said.exit_code == 1
    for start in (
        f"{here.signals_topic}: 2 partitions, must be 1",
        f"{here.quarantine_topic}: 1 partitions, but {here.usage_topic} has 3",
        f"{here.usage_topic}: message.timestamp.type is CreateTime",
        f"{here.usage_topic}: cleanup.policy is compact",
        f"{here.usage_topic}: compression.type is gzip: the broker compresses every batch again",
        f"{here.usage_topic}: min.insync.replicas is 2 of 1",
        f"{here.state_topic}: retention.ms is 604800000",
        f"{here.state_topic}: retention.bytes is 9",
        f"{here.state_topic}: max.message.bytes is 1000",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, said.output)
    assert len(lines) == 9
    mend(own_broker, here, lines)
    after = topics(here, "check")
    assert after.exit_code == 0, after.output


def test_grown_partitions_are_refused_and_the_way_over_works(settings: KafkaSettings, kafka: KafkaAdminClient) -> None:
    assert topics(settings, "init", "--partitions", "2").exit_code == 0
    assert (
        "--partitions 4, but there are 2. Partition growth is refused" in topics(settings, "init", "--partitions", "4").output
    )
    kafka.create_partitions({settings.usage_topic: NewPartitions(4)})
    said = topics(settings, "check")
    assert said.exit_code == 1
    line = next(line for line in said.output.splitlines() if line.startswith(settings.state_topic))
    assert f"2 partitions, but {settings.usage_topic} has 4. Partition growth is refused" in line
    way = dict(re.findall(r"BURNGUARD_KAFKA_(\w+)=(\S+)", line))
    over = settings.model_copy(update={name.lower(): value for name, value in way.items()})
    assert topics(over, "init", "--partitions", "4").exit_code == 0
    assert topics(over, "check").exit_code == 0


def test_a_missing_right_is_named_with_its_topic_or_group_and_granting_it_is_enough(
    own_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    alice = as_alice(own_broker, topic_prefix, tmp_path)
    assert topics(alice, "init").exit_code == 0
    assert topics(alice, "check", "--role", "worker", "--role", "responder", "--role", "emit").exit_code == 0
    with only_bob(own_broker, (ResourceType.TOPIC, alice.usage_topic), (ResourceType.GROUP, alice.group)):
        denied = topics(alice, "check")
        assert denied.exit_code == 1
        assert denied.output.startswith(f"{alice.usage_topic}: not visible to us: needs Describe: kafka-acls.sh --bootstrap")
        assert f"group {alice.group}: the worker needs Read: " in denied.output
        deadline = time.monotonic() + 90
        while (said := topics(alice, "check")).exit_code:  # Describe first, then what can be seen by then
            assert time.monotonic() < deadline, said.output
            mend(own_broker, alice, said.output.splitlines())
        assert f"{alice.usage_topic}: the emit needs Write" in topics(alice, "check", "--role", "emit").output


def test_init_without_the_right_to_create_names_it(own_broker: Broker, topic_prefix: str, tmp_path: Path) -> None:
    alice = as_alice(own_broker, topic_prefix, tmp_path)
    with only_bob(own_broker, (ResourceType.CLUSTER, "kafka-cluster"), (ResourceType.TOPIC, alice.usage_topic)):
        refused = topics(alice, "init", "--replication", "1")
    assert refused.exit_code == 1
    assert f"{alice.usage_topic}: not created: needs Create: kafka-acls.sh" in refused.output
    assert f"{alice.state_topic}: created" in refused.output


GOOD = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def test_a_cluster_of_three_keeps_three_copies_two_of_them_in_step_and_offsets_for_a_week() -> None:
    here = KafkaSettings(bootstrap="kafka:9092")
    topic = Topic(12, 3, GOOD | {"min.insync.replicas": "2"})
    names = (here.usage_topic, here.state_topic, here.quarantine_topic)
    good = Cluster(3, 10_080, {here.signals_topic: replace(topic, partitions=1), **dict.fromkeys(names, topic)})
    assert problems(here, good) == []

    def usage_is(topic: Topic) -> list[str]:
        return problems(here, replace(good, topics=good.topics | {here.usage_topic: topic}))

    (few,) = usage_is(replace(topic, replicas=2, config=GOOD))
    assert few.startswith("usage: replication 2 on 3 brokers: a lost disk loses it. Raise it to 3")
    (alone,) = usage_is(replace(topic, config=GOOD | {"min.insync.replicas": "1"}))
    assert alone.endswith("--entity-name usage --add-config min.insync.replicas=2")
    (brittle,) = usage_is(replace(topic, config=GOOD | {"min.insync.replicas": "3"}))
    assert "one broker down stops all writes" in brittle
    (unread,) = usage_is(replace(topic, config=topic.config | {"compression.type": "brotli"}))
    assert "compression.type is brotli, which no worker reads (gzip, snappy, lz4, zstd)" in unread
    (short,) = problems(here, replace(good, offsets_retention_minutes=1440))
    assert short.startswith("brokers: offsets.retention.minutes is 1440: workers stopped for longer lose position and state")


def test_the_retention_of_offsets_is_read_from_the_broker(settings: KafkaSettings) -> None:
    assert look(settings).offsets_retention_minutes == 10_080


def test_no_broker_is_said_within_15_seconds_and_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        bootstrap = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        said = topics(KafkaSettings(bootstrap=bootstrap), "check")
        assert time.monotonic() - began < 15
    assert said.exit_code == 1
    assert said.output == (
        f"Error: {bootstrap} accepts connections, but does not answer as Kafka without TLS does: "
        "is BURNGUARD_KAFKA_SECURITY_PROTOCOL right?\n"
    )


def test_what_stands_in_the_way_is_named(own_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    alice: dict[str, Any] = {"sasl_mechanism": "PLAIN", "username": "alice", "password_file": tmp_path / "password"}
    encrypted: dict[str, Any] = {"security_protocol": "SASL_SSL", **alice}
    trusted = encrypted | {"ca_file": own_broker.ca}
    for given, reason in [
        ({"bootstrap": "127.0.0.1:1"}, "127.0.0.1:1: cannot connect (Connection refused); is it running"),
        ({"bootstrap": "no.such.host.invalid:1"}, "no.such.host.invalid:1: cannot connect ("),
        ({"bootstrap": own_broker.sasl_ssl, **encrypted}, "its certificate is not trusted (self"),
        ({"bootstrap": own_broker.bootstrap, **trusted}, f"{own_broker.bootstrap}: no TLS there ("),
        ({"bootstrap": own_broker.sasl_ssl, **trusted}, "does not let alice in: check BURNGUARD_KAFKA_SASL_MECHANISM"),
        ({"bootstrap": own_broker.ssl, "security_protocol": "SSL", "ca_file": own_broker.ca}, "BURNGUARD_KAFKA_CERT_FILE"),
    ]:
        assert reason in obstacle(KafkaSettings(**given))
