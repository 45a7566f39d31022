"""`python -m bench.edge`: calls/s and CPU per call of our edge, our worker and what others do, on one core and one broker.

Each consumer is a process of its own, pinned to one core; the broker and the producer have the others. `--write FILE`
puts the tables into FILE, `--memory` measures how much a worker grows with calls instead.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
from confluent_kafka import Consumer as Reader
from confluent_kafka import Producer, TopicPartition
from kafka.admin import KafkaAdminClient

from bench.calls import calls
from bench.consumers import settings
from examples.kafka.broker import VERSION, Broker
from stream.topics import init

CALLS, PER_SECOND, WARM, ROUNDS = 5_000_000, 150_000, 0.2, 2
FEWER = 110_000
"""Plain Faust reads only so many: it is some thirty times slower."""
CODECS, KEYS = ("none", "lz4"), (1_000, 100_000)
GROWTH = ((500_000, 2_000_000), (2_000_000, 5_000_000))
"""Between 0.5 and 2 million calls the window of event ids fills up (2**20), and with it the checkpoints; then all is flat."""
MOST_GROWTH_MB = 10
NAMES = {
    "edge": "our edge: raw batches through Faust to columns",
    "worker": "**our worker**, all that exists, checkpoints every 5 s",
    "aiokafka": "aiokafka + msgspec decode, nothing else",
    "confluent": "confluent-kafka + msgspec decode, nothing else",
    "plain_faust": "Faust agent + msgspec decode, nothing else",
}
TARGETS = {"edge": ">= 0.50", "aiokafka": "> 1", "confluent": "", "plain_faust": ">= 30"}
HEAD = "# Performance\n\nWritten by `python -m bench.edge --write docs/performance.md`. What each row is stands below.\n"


@dataclass(frozen=True, slots=True)
class Found:
    """What one consumer did between the end of its warm-up and the last call."""

    calls: int
    wall_s: float
    cpu_s: float
    mb_before: float
    mb_after: float
    checkpoints: float = 0
    checkpoint_s: float = 0
    checkpoint_mb: float = 0
    stall_s: float = 0
    late: float = 0

    @property
    def rate(self) -> float:
        return self.calls / self.wall_s

    @property
    def us(self) -> float:
        return self.cpu_s / self.calls * 1e6


def make_topics(broker: Broker, topic: str, name: str) -> None:
    """Those of a worker that reads `topic`."""
    said, there = init(settings(broker.bootstrap, topic, name), partitions=1, replication=1)
    if not there:
        raise SystemExit("\n".join(said))


def produce(broker: Broker, topic: str, codec: str, keys: int, count: int) -> None:
    """Fill a usage topic of one partition at PER_SECOND calls a second at most."""
    make_topics(broker, topic, topic)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec, "linger.ms": 5, "acks": "all"})
    began, sent = time.time(), 0
    for rows in calls(count, keys, lambda n: time.time()):
        for row in rows:
            producer.produce(topic, row)
        sent += len(rows)
        producer.poll(0)
        while len(producer) > 5 * len(rows):
            producer.poll(0.005)
        time.sleep(max(0.0, began + sent / PER_SECOND - time.time()))
    if producer.flush(60):
        raise SystemExit(f"{topic}: not all calls were acknowledged")


def delete(broker: Broker, topic: str) -> None:
    """Give the disk back."""
    kafka = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    kafka.delete_topics([topic])
    kafka.close()


def consume(kind: str, broker: Broker, topic: str, count: int, warm: int, core: int, turn: int = 0) -> Found:
    """Run one consumer to the end."""
    name = f"{topic}-{kind}-{turn}"
    if kind == "worker":
        make_topics(broker, topic, name)
    command = [sys.executable, "-m", "bench.consumers", kind, broker.bootstrap, topic, name, *map(str, (count, core, warm))]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{kind} on {topic} ended with {ran.returncode}: {ran.stderr[-4000:]}")
    if kind == "worker" and (at := committed(broker, topic, name)) < count:
        raise SystemExit(f"{name}: its commit is at {at}, before {count}")
    return Found(**json.loads(ran.stdout.splitlines()[-1]))


def committed(broker: Broker, topic: str, group: str) -> int:
    """How far the group has come."""
    reader = Reader({"bootstrap.servers": broker.bootstrap, "group.id": group})
    offset: int = reader.committed([TopicPartition(topic, 0)], 10)[0].offset
    reader.close()
    return offset


def compare(broker: Broker, core: int) -> Iterator[tuple[str, dict[str, Found]]]:
    """Each topic's name, and what every consumer did on it in its faster turn."""
    for codec in CODECS:
        for keys in KEYS:
            topic = f"usage-{codec}-{keys}"
            produce(broker, topic, codec, keys, CALLS)
            best: dict[str, Found] = {}
            for turn in range(ROUNDS):
                for kind in NAMES:
                    count = FEWER if kind == "plain_faust" else CALLS
                    found = consume(kind, broker, topic, count, round(count * WARM), core, turn)
                    print(f"{topic:18} {kind:12} {found.rate:10,.0f} calls/s {found.us:8.2f} us", flush=True)
                    best[kind] = max(found, best.get(kind, found), key=lambda each: each.rate)
            yield f"{'uncompressed' if codec == 'none' else codec}, {keys // 1000}k keys", best
            delete(broker, topic)


def tables(found: dict[str, dict[str, Found]]) -> str:
    """Rates, CPU, ratios and the worker's checkpoints as Markdown."""
    line = "\n| " + " | ".join(["---"] + ["---:"] * len(found)) + " |\n"

    def table(head: str, rows: Iterator[list[str]]) -> str:
        return f"| {head} | {' | '.join(found)} |" + line + "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def ratio(rival: str, run: dict[str, Found]) -> str:
        return f"{run['worker'].rate / run[rival].rate:.2f} ({run[rival].us / run['worker'].us:.2f})"

    rates = ([name, *(f"{run[kind].rate:,.0f}" for run in found.values())] for kind, name in NAMES.items())
    costs = ([name, *(f"{run[kind].us:.2f}" for run in found.values())] for kind, name in NAMES.items())
    ratios = (
        [f"worker / {kind.replace('_', ' ')}", *(ratio(kind, run) for run in found.values()), target]
        for kind, target in TARGETS.items()
    )
    written = (
        ["checkpoints written", *(f"{run['worker'].checkpoints:.0f}" for run in found.values())],
        ["MB of them", *(f"{run['worker'].checkpoint_mb:.1f}" for run in found.values())],
        ["folding waited for them, ms in all", *(f"{run['worker'].stall_s * 1000:.0f}" for run in found.values())],
        ["late calls", *(f"{run['worker'].late:.0f}" for run in found.values())],
    )
    wider = table("times as fast by the wall (by CPU)", ratios)
    return "\n".join(
        [
            table("calls/s", rates),
            table("us of CPU per call", costs),
            wider.replace(" |\n| ---", " | target |\n| ---", 1).replace("---: |\n", "---: | ---: |\n", 1),
            table("of the worker", iter(written)),
        ]
    )


def machine() -> str:
    """What it ran on."""
    cpu = next((row.split(":")[1].strip() for row in open("/proc/cpuinfo") if row.startswith("model name")), "?")
    names = ("faust-streaming", "aiokafka", "confluent-kafka", "msgspec", "numba", "numpy", "cramjam")
    return (
        f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, Apache Kafka {VERSION} on the same machine; "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f"; {datetime.now(UTC):%Y-%m-%d}."
    )


REMARKS = f"""
- Every consumer is a process of its own on one core, broker and producer share the others; counted from call
  {CALLS * WARM:,.0f} to call {CALLS:,}, on the wall and as CPU of the whole process with all its threads. Before that it is
  warm-up: joining, kernels, first pages, every key new. Plain Faust reads {FEWER:,} calls. Everyone has {ROUNDS} turns,
  one after the other; the faster one stands here.
- A call is 567 bytes of JSON with 21 fields. They were appended at up to {PER_SECOND:,} calls a second in batches of
  librdkafka's making (5 ms of linger), so that a worker closes a pane with every key in it after each {5 * PER_SECOND:,}
  calls or fewer; at its own speed it would have fewer panes to close.
- *our edge*: fetch, CRC, decompression, walk, scan of every field, hashes, vocabularies, `Batch`; its columns are dropped.
- *our worker*: `stream.app.work`, that is the edge and duplicates, prices, meters, panes, detectors, pulses and signals
  produced and acknowledged, checkpoints compressed on the same core, metrics. Its commit was seen at the last offset.
- With 100k keys one checkpoint is 380 MB (20 MB compressed). The first full one takes new memory, about a second of CPU;
  that comes once in a partition's life, but weighs on so short a run (some 0.2 us a call) wherever it falls into it.
- The rivals decode into a msgspec `Struct` of 21 plainly typed fields. They check no bounds, keep nothing, say nothing.
- confluent-kafka fetches on C threads of librdkafka, here on the same core; its queues are tuned, it checks no CRC (default).
- The wall is that of a machine that others use too: trust ratios, and CPU more than wall.
"""


def memory(broker: Broker, core: int) -> None:
    """How much a worker grows."""
    produce(broker, "usage-memory", "lz4", 1_000, GROWTH[-1][1])
    for turn, (warm, end) in enumerate(GROWTH):
        found = consume("worker", broker, "usage-memory", end, warm, core, turn)
        grown = found.mb_after - found.mb_before
        said = "within" if grown <= MOST_GROWTH_MB else "MORE THAN"
        print(
            f"worker, 1k keys: {found.mb_before:.1f} MB after {warm:,} calls, {found.mb_after:.1f} MB after {end:,}:", end=" "
        )
        print(f"{grown:+.1f} MB, {said} {MOST_GROWTH_MB} MB; {found.checkpoints:.0f} checkpoints were written")


@click.command()
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), help="Also write the tables into this file.")
@click.option("--memory", "growth", is_flag=True, help="Measure how much a worker grows instead.")
def main(write: Path | None, growth: bool) -> None:
    """What our edge, our worker and others reach on one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores: one for the consumer, the others for broker and producer")
    os.sched_setaffinity(0, set(cores[:-1]))
    with tempfile.TemporaryDirectory(prefix="bench-edge-") as folder, Broker(Path(folder) / "kafka") as broker:
        if growth:
            memory(broker, cores[-1])
            return
        report = f"{machine()}\n\n{tables(dict(compare(broker, cores[-1])))}"
    print(f"\n{report}")
    if write:
        write.write_text(f"{HEAD}\n{report}\n## What each row is, and what to make of it\n{REMARKS}")


if __name__ == "__main__":
    main()
