"""`burnguard intake` on a real broker: what was answered with 200 is in the topic, whatever was killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from click.testing import CliRunner
from confluent_kafka import Producer as Librdkafka

from examples.kafka.broker import Broker
from schemas.decode import Decoder, split
from stream.cli import main
from stream.emit import partition_of
from stream.settings import KafkaSettings
from stream.topics import init
from tests.foreign import Truth, bifrost, body
from tests.intakes import PRODUCERS, Listening, MemoryKafka
from tests.test_emit import content, create
from tests.workers import eventually, settings

CALL = Truth(1_000, 500, 0, 0, 90, 10, frozenset(("cached", "reasoning")))
PARTITIONS, TRACES = 4, 10_000


def named(kafka: KafkaSettings) -> dict[str, str]:
    return {"BOOTSTRAP": kafka.bootstrap, "USAGE_TOPIC": kafka.usage_topic, "PREFIX": kafka.prefix, "GROUP": kafka.group}


@contextmanager
def process(kafka: KafkaSettings, log: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Listening]]:
    """The command as its own process, once it listens."""
    environment = {f"BURNGUARD_KAFKA_{name}": value for name, value in named(kafka).items()}
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-c", "from stream.cli import main; main()", "intake", *arguments],
            env=os.environ | environment | {"BURNGUARD_INTAKE_PORT": "0"},
            stdout=out,
            stderr=out,
        )

    def listening() -> list[dict[str, Any]]:
        assert running.poll() is None, log.read_text()
        found = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
        return [said for said in found if said["event"] == "listening"]

    try:
        eventually(listening, 60, "it listens")
        address = urlsplit(listening()[0]["address"])
        yield running, Listening((str(address.hostname), address.port or 0), MemoryKafka())
    finally:
        running.kill()
        running.wait()


def event(n: int) -> dict[str, Any]:
    required = {"event_id": f"e{n}", "ts": 1_790_000_000.0, "tenant": f"t{n % 7}", "key_id": "k", "model": "m"}
    return required | {"input_tokens": n, "output_tokens": 1}


async def test_what_is_answered_is_in_the_topic_and_a_broker_that_is_gone_is_said(
    own_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = settings(own_broker.bootstrap, topic_prefix)
    init(kafka, PARTITIONS, 1)
    (tmp_path / "tokens.json").write_text(json.dumps(PRODUCERS))
    with process(kafka, tmp_path / "log", "--tokens", str(tmp_path / "tokens.json")) as (running, intake):
        sent = [event(n) for n in range(3_000)]
        sent[7] |= {"output_tokens": -1}
        answer = intake.post("/v1/usage/native", body(sent))
        assert (answer.status, answer.json["taken"], answer.json["refused"]) == (200, 2_999, 1)
        there = await content(kafka.bootstrap, kafka.usage_topic)
        assert len(there) == 2_999
        assert all(partition == partition_of(key.encode(), PARTITIONS) for partition, key, _ in there)
        assert Decoder().decode(split(b"".join(value + b"\n" for _, _, value in there)))[1] == []

        own_broker.kill()
        gone = intake.post("/v1/usage/native", body([event(n) for n in range(3_000, 3_100)]))
        assert (gone.status, gone.headers["retry-after"]) == (503, "2")
        assert intake.ask("GET", "/ready").status == 503
        own_broker.start()
        eventually(
            lambda: intake.post("/v1/usage/native", body([event(n) for n in range(3_000, 3_100)])).status == 200,
            60,
            "it is taken",
        )
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    there = await content(kafka.bootstrap, kafka.usage_topic)
    assert {json.loads(value)["event_id"] for _, _, value in there} == {f"e{n}" for n in range(3_100) if n != 7}


async def test_a_topic_of_others_is_passed_on_whole_though_its_reader_is_killed(
    own_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    kafka, foreign = settings(own_broker.bootstrap, topic_prefix), f"{topic_prefix}.bifrost"
    init(kafka, PARTITIONS, 1)
    create(own_broker.bootstrap, foreign, 2)
    producer = Librdkafka({"bootstrap.servers": own_broker.bootstrap, "compression.type": "zstd"})
    for n in range(TRACES):
        told = bifrost(CALL)
        told["Spans"][1]["Attributes"]["gen_ai.response.id"] = f"r{n}"
        producer.produce(foreign, body(told))
        producer.poll(0)
    assert producer.flush(30) == 0

    def passed_on(intake: Listening) -> float:
        shown = intake.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in shown if line.startswith("burnguard_intake_calls_total{"))

    environment = {f"BURNGUARD_KAFKA_{name}": value for name, value in named(kafka).items()}
    typo = CliRunner().invoke(main, ["intake", "--from-topic", f"{foreign}s", "--as", "bifrost"], env=environment)
    assert (typo.exit_code, typo.output) == (1, f"Error: {foreign}s: there is no such topic\n")

    arguments = ("--from-topic", foreign, "--as", "bifrost")
    with process(kafka, tmp_path / "first", *arguments) as (running, intake):
        eventually(lambda: passed_on(intake) > 0, 60, "some calls are passed on")
        running.kill()
    with process(kafka, tmp_path / "second", *arguments) as (running, _):
        async with asyncio.timeout(90):
            while len(await ids(kafka)) < TRACES:
                await asyncio.sleep(1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    assert await ids(kafka) == {f"r{n}" for n in range(TRACES)}


async def ids(kafka: KafkaSettings) -> set[str]:
    """What Bifrost called the calls that are in the topic."""
    there = await content(kafka.bootstrap, kafka.usage_topic)
    return {json.loads(value)["event_id"].rpartition("-")[2] for _, _, value in there}
