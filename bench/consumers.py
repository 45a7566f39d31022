"""What bench/edge.py compares, one process each.

    python -m bench.consumers KIND BOOTSTRAP TOPIC NAME CALLS CORE WARM

Every consumer reads the topic from its beginning to the last call. What it did between call WARM and call CALLS is
printed as JSON: seconds on the wall, seconds of CPU of the whole process (all threads), and resident memory at both ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import faust
import msgspec
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer

from bench.calls import Plain
from schemas.decode import Decoder
from stream import metrics
from stream.app import compile_kernels, faust_app, work
from stream.records import to_lines
from stream.settings import KafkaSettings, WorkerSettings

POLL = 1_000


class Gauge:
    """Measures from call `warm` to call `end`."""

    def __init__(self, end: int, warm: int) -> None:
        self.end = end
        self._warm = warm
        self._began: tuple[int, float, float, float] | None = None
        self.found: dict[str, float] = {}

    def at(self, calls: int) -> bool:
        """Whether all calls have been read."""
        if self._began is None and calls >= self._warm:
            self._began = calls, time.perf_counter(), time.process_time(), resident_mb()
        if calls >= self.end and not self.found:
            assert self._began is not None
            before, wall, cpu, mb = self._began
            self.found = {
                "calls": calls - before,
                "wall_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "mb_before": mb,
                "mb_after": resident_mb(),
            }
        return bool(self.found)


def resident_mb() -> float:
    """What the process holds in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


async def edge(kafka: KafkaSettings, gauge: Gauge) -> None:
    """Our edge alone: raw batches through Faust to columns."""
    compile_kernels()
    app, decoder, read, done = faust_app(kafka, WorkerSettings()), Decoder(), 0, asyncio.Event()

    async def batches(stream: Any) -> None:
        nonlocal read
        async for event in stream.noack().events():
            read += len(decoder.decode(to_lines("edge", event.message.value))[0])
            if gauge.at(read):
                done.set()

    app.agent(app.topic(kafka.usage_topic, value_type=None, value_serializer="raw", key_serializer="raw", maxsize=8))(batches)
    await app.start()
    await done.wait()
    await app.stop()


async def worker(kafka: KafkaSettings, gauge: Gauge) -> None:
    """`burnguard worker` as it is, to its last checkpoint."""
    working = asyncio.create_task(work(kafka, WorkerSettings(http_port=0), []))
    while not gauge.at(int(_sample(metrics.CALLS))):
        await asyncio.sleep(0.02)
    gauge.found |= {
        "checkpoints": _sample(metrics.CHECKPOINT_SECONDS, "_count"),
        "checkpoint_s": _sample(metrics.CHECKPOINT_SECONDS, "_sum"),
        "checkpoint_mb": _sample(metrics.CHECKPOINT_BYTES) / 1e6,
        "stall_s": _sample(metrics.CHECKPOINT_STALL, "_sum"),
        "late": _sample(metrics.LATE),
    }
    os.kill(os.getpid(), signal.SIGTERM)
    await working


def _sample(metric: Any, suffix: str = "_total") -> float:
    return next(float(s.value) for family in metric.collect() for s in family.samples if s.name.endswith(suffix))


async def aiokafka(kafka: KafkaSettings, gauge: Gauge) -> None:
    """aiokafka's getmany and msgspec, nothing else."""
    consumer = AIOKafkaConsumer(
        kafka.usage_topic,
        bootstrap_servers=kafka.bootstrap,
        group_id=kafka.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    decoder, read = msgspec.json.Decoder(Plain), 0
    await consumer.start()
    while not gauge.at(read):
        for records in (await consumer.getmany(timeout_ms=1_000, max_records=POLL)).values():
            for record in records:
                decoder.decode(record.value)
            read += len(records)
    await consumer.stop()


async def confluent(kafka: KafkaSettings, gauge: Gauge) -> None:
    """confluent-kafka's consume and msgspec, nothing else; librdkafka's defaults leave it idle most of the time."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": kafka.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 2,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 256 << 10,
            "max.partition.fetch.bytes": 4 << 20,
        }
    )
    decoder, read = msgspec.json.Decoder(Plain), 0
    consumer.subscribe([kafka.usage_topic])
    while not gauge.at(read):
        messages = consumer.consume(POLL, 1.0)
        for message in messages:
            decoder.decode(message.value() or b"")
        read += len(messages)
    consumer.close()


async def plain_faust(kafka: KafkaSettings, gauge: Gauge) -> None:
    """A Faust agent as its manual has it, without the leader topic that stalls it; raw values and msgspec."""
    app = faust.App(
        kafka.group,
        broker=f"kafka://{kafka.bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    decoder, read, done = msgspec.json.Decoder(Plain), 0, asyncio.Event()

    async def values(stream: Any) -> None:
        nonlocal read
        async for value in stream:
            decoder.decode(cast(bytes, value))
            read += 1
            if gauge.at(read):
                done.set()

    app.agent(app.topic(kafka.usage_topic, value_type=None, value_serializer="raw", key_serializer="raw"))(values)
    await app.start()
    await done.wait()
    await app.stop()


KINDS: dict[str, Callable[[KafkaSettings, Gauge], Coroutine[Any, Any, None]]] = {
    each.__name__: each for each in (edge, worker, aiokafka, confluent, plain_faust)
}


def settings(bootstrap: str, topic: str, name: str) -> KafkaSettings:
    """The group and the topics of one run of a consumer of `topic`."""
    return KafkaSettings(bootstrap=bootstrap, usage_topic=topic, prefix=name, group=name)


def main(kind: str, bootstrap: str, topic: str, name: str, *numbers: str) -> None:
    calls, core, warm = map(int, numbers)
    os.sched_setaffinity(0, {core})
    gauge = Gauge(calls, warm)
    asyncio.run(KINDS[kind](settings(bootstrap, topic, name), gauge))
    print(json.dumps(gauge.found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
