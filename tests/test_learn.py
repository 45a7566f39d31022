"""`burnguard learn`: workers begin with a file's past, and with nothing else of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from schemas.batch import NANO
from schemas.prices import PriceEntry
from stream.assembly import Assembly
from stream.checkpoint import EMPTY, Buffer, Checkpoint, Pointer, unpack
from stream.cli import main
from stream.duty import wall
from stream.emit import partition_of
from stream.settings import KafkaSettings
from stream.sources import LineReader
from stream.topics import init
from tests.conftest import Reachable
from tests.workers import PRICES, event, settings

DAY_S = 86_400.0
PARTITIONS = 3


@pytest.fixture
def kafka(broker: Reachable, topic_prefix: str) -> KafkaSettings:
    """A new deployment."""
    made = settings(broker.bootstrap, topic_prefix)
    init(made, PARTITIONS, 1)
    return made


def command(kafka: KafkaSettings, *arguments: str | Path, stdin: bytes = b"") -> Result:
    environment = {
        "BURNGUARD_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "BURNGUARD_KAFKA_USAGE_TOPIC": kafka.usage_topic,
        "BURNGUARD_KAFKA_PREFIX": kafka.prefix,
        "BURNGUARD_KAFKA_GROUP": kafka.group,
    }
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment, input=stdin)


def learn(kafka: KafkaSettings, folder: Path, *lines: str) -> Result:
    (folder / "past.ndjson").write_text("".join(line + "\n" for line in lines))
    (folder / "prices.json").write_text(json.dumps(PRICES))
    return command(kafka, "learn", folder / "past.ndjson", "--prices", folder / "prices.json")


def a_day(keys: int = 12, ends_s: float | None = None) -> list[str]:
    """A call of every key each half hour, a cent each; keys 0..11 are of tenants t0..t11."""
    end = wall() / 1000 - 5 if ends_s is None else ends_s
    ticks = [(slot, key) for slot in range(48) for key in range(keys)]
    return [json.dumps(event(f"{slot}-{key}", key, 10_000, end - DAY_S * (47 - slot) / 48)) for slot, key in ticks]


def busy_until(end_s: float) -> list[str]:
    """A day, and then 100 calls of each tenant at its end: the clock of a file is a median of 101 calls."""
    last = [json.dumps(event(f"last-{n}", n % 12, 10, end_s - 0.001)) for n in range(1200)]
    return [*a_day(ends_s=end_s - 1), *last]


def pointers(kafka: KafkaSettings) -> dict[int, tuple[int, str]]:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    found = admin.list_group_offsets(kafka.group)[kafka.group]
    admin.close()
    return {tp.partition: (at.offset, at.metadata) for tp, at in found.items()}


def checkpoint(kafka: KafkaSettings, partition: int) -> Checkpoint:
    """What a worker would load there."""
    pointer = Pointer.read(pointers(kafka)[partition][1])
    tp = TopicPartition(kafka.state_topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    consumer.assign([tp])
    consumer.seek(tp, pointer.first)
    chunks = [next(consumer).value for _ in range(pointer.chunks)]
    consumer.close()
    return unpack(chunks, pointer, Buffer())


def restored(kafka: KafkaSettings, partition: int) -> Assembly:
    assembly = Assembly([PriceEntry.model_validate(price) for price in PRICES], partition=partition)
    assembly.restore(checkpoint(kafka, partition).state)
    return assembly


def burn(assembly: Assembly, key: int) -> list[int | None]:
    """`learning` of the signals of a burn of that key from now on: $10 in every slice of 5 s for a minute."""
    reader, now, said = LineReader(assembly.decoder), wall(), []
    for n in range(12):
        at = now + n * 5_000
        line = json.dumps(event(f"burn-{n}", key, 10_000_000, at / 1000)).encode() + b"\n"
        said += assembly.pipeline.feed(reader.read(line, at)).signals
    return [signal.evidence.learning for signal in said]


def test_a_key_of_the_file_is_judged_by_its_past_and_another_is_young(kafka: KafkaSettings, tmp_path: Path) -> None:
    assert learn(kafka, tmp_path, *a_day()).exit_code == 0
    number = partition_of(b"t3", PARTITIONS)
    assert set(burn(restored(kafka, number), key=3)) == {None}
    others = burn(restored(kafka, number), key=3 + 12)  # the same tenant's next key
    assert others and None not in others


def test_every_call_of_the_file_is_learnt_in_the_partition_where_emit_sends_its_tenant(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    said = learn(kafka, tmp_path, *a_day(), *a_day()[:100], '{"tenant":', json.dumps({"event_id": "x", "tenant": "t0"}))
    assert said.exit_code == 0
    rows = [line.split() for line in said.output.splitlines()]
    assert sum(int(row[2]) for row in rows) == 12 * 48  # repeats are known
    assert sum(int(row[row.index("lines") - 1]) for row in rows) == 2
    dollars = 0
    for number in {int(row[1].rstrip(":")) for row in rows}:
        assembly = restored(kafka, number)
        assert {partition_of(tenant.encode(), PARTITIONS) for tenant, _ in assembly.decoder.keys.names} == {number}
        columns = checkpoint(kafka, number).state
        dollars += int(columns["pipeline.keys.usd"][:, 72:].sum()) + int(columns["pipeline.open.sums"][:, 0].sum())
    assert dollars == pytest.approx(12 * 24 * 2 * 0.01 * NANO, rel=0.1)  # rings of 24 hours: the oldest may be gone


def test_counters_and_offsets_are_about_the_topics_own_calls(kafka: KafkaSettings, tmp_path: Path) -> None:
    learn(kafka, tmp_path, *a_day())
    pulse = restored(kafka, partition_of(b"t0", PARTITIONS)).pipeline.present()[0]
    assert (pulse.covered, pulse.counters["calls"]) == (-1, 0)


def test_a_partition_goes_on_at_the_first_call_appended_after_the_files_end(kafka: KafkaSettings, tmp_path: Path) -> None:
    number = partition_of(b"t0", PARTITIONS)
    command(kafka, "emit", "-", stdin="".join(line + "\n" for line in a_day(1)[:5]).encode())
    learn(kafka, tmp_path, *busy_until(wall() / 1000))
    assert pointers(kafka)[number][0] == 5


def test_a_partition_goes_on_at_the_beginning_where_all_was_appended_later(kafka: KafkaSettings, tmp_path: Path) -> None:
    number = partition_of(b"t0", PARTITIONS)
    command(kafka, "emit", "-", stdin="".join(line + "\n" for line in a_day(1)[:5]).encode())
    learn(kafka, tmp_path, *busy_until(wall() / 1000 - 3_600))
    assert pointers(kafka)[number][0] == 0


def test_what_has_a_past_is_refused_and_keeps_it(kafka: KafkaSettings, tmp_path: Path) -> None:
    learn(kafka, tmp_path, *a_day())
    before = pointers(kafka)
    again = learn(kafka, tmp_path, *a_day())
    assert again.exit_code == 1
    assert "has a past already" in again.output
    assert pointers(kafka) == before


def test_a_group_with_a_member_is_refused(kafka: KafkaSettings, tmp_path: Path) -> None:
    consumer = KafkaConsumer(kafka.usage_topic, bootstrap_servers=kafka.bootstrap, group_id=kafka.group)
    while not consumer.assignment():
        consumer.poll(100)
    refused = learn(kafka, tmp_path, *a_day())
    consumer.close()
    assert refused.exit_code == 1
    assert "is a worker running?" in refused.output


def test_calls_of_the_future_are_refused_and_it_can_be_tried_again(kafka: KafkaSettings, tmp_path: Path) -> None:
    refused = learn(kafka, tmp_path, *busy_until(wall() / 1000 + 7_200))
    assert refused.exit_code == 1
    assert "later than now" in refused.output
    assert {metadata for _, metadata in pointers(kafka).values()} == {EMPTY}
    assert learn(kafka, tmp_path, *a_day()).exit_code == 0
