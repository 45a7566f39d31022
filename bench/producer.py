"""`python -m bench.producer`: what recording a call costs the caller, ours beside the clients that programs use bare.

A real broker takes what is sent. Every client is paced (PACE calls a second for PACED_S seconds, as a busy server has
them), then unpaced for BURST calls, each timed for itself; at last ours while the broker is gone.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka
import numpy as np
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from examples.kafka.broker import Broker
from schemas.prompt import expected_tokens, fingerprint, simhash
from stream.estimate import Estimator
from stream.producer import Producer
from stream.settings import KafkaSettings

PACE, PACED_S, BURST = 1_000, 5, 20_000
CALL: dict[str, Any] = {
    **{"key_id": "key-17", "model": "gpt-4o", "provider": "openai", "input_tokens": 2048, "output_tokens": 512},
    **{"cached_input_tokens": 1024, "latency_ms": 1834.5, "status": 200, "session_id": "3f1c9a", "feature": "chat"},
    **{"prompt_fingerprint": "a7b6eda801e5347d", "prompt_simhash": "0123456789abcdef"},
}


def measure(name: str, record: Callable[[str], object], paced: bool) -> None:
    """One line: what one call took."""
    calls = PACE * PACED_S if paced else BURST
    took = np.empty(calls)
    began = time.perf_counter()
    for n in range(calls):
        if paced:
            time.sleep(max(0.0, began + n / PACE - time.perf_counter()))
        at = time.perf_counter()
        record(f"tenant-{n % 100}")
        took[n] = time.perf_counter() - at
    median, p99, p999, longest = np.percentile(took * 1e6, [50, 99, 99.9, 100])
    how = f"{PACE:,} a second" if paced else "as fast as it can"
    print(f"| {name} | {how} | {median:.0f} | {p99:.0f} | {p999:,.0f} | {longest:,.0f} |")


def event(tenant: str) -> bytes:
    """What a program without us would send, unchecked."""
    return json.dumps({"event_id": str(uuid4()), "ts": time.time(), "tenant": tenant} | CALL).encode()


def clients(broker: Broker) -> None:
    ours = Producer(KafkaSettings(bootstrap=broker.bootstrap), buffer_mib=128)
    bare = KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=20, compression_type="lz4")
    c = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "compression.type": "lz4", "partitioner": "murmur2_random"}
    )

    def produce(tenant: str) -> None:
        c.produce("usage", event(tenant), tenant.encode())
        c.poll(0)

    ways: dict[str, Callable[[str], object]] = {
        "**ours**, checked against the contract": lambda tenant: ours.record(tenant=tenant, **CALL),
        "json + kafka-python": lambda tenant: bare.send("usage", event(tenant), tenant.encode()),
        "json + confluent-kafka (C)": produce,
    }
    print("| client | calls | median us | p99 | p99.9 | longest |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for name, record in ways.items():
        record("warm")
        time.sleep(2)
        for paced in (True, False):
            measure(name, record, paced)
    print(f"ours: {ours.close(30)}")
    bare.close()
    c.flush()


def away(broker: Broker) -> None:
    """Ours while the broker is gone, first with room and then full; what that takes."""
    producer = Producer(KafkaSettings(bootstrap=broker.bootstrap))
    producer.record(tenant="warm", **CALL)
    while producer.account.waiting:
        time.sleep(0.1)
    broker.kill()
    before, files = resident_mb(), len(os.listdir("/proc/self/fd"))
    measure("ours, the broker gone", lambda tenant: producer.record(tenant=tenant, **CALL), paced=False)
    most = 0
    for _ in range(30):
        time.sleep(1)
        most = max(most, len(os.listdir("/proc/self/fd")) - files)
    print(f"{producer.account}\n{resident_mb() - before:.0f} MB more, at most {most} open files more in 30 s")
    broker.start()
    began = time.monotonic()
    while producer.account.waiting and time.monotonic() - began < 60:
        time.sleep(0.05)
    print(f"all delivered {time.monotonic() - began:.1f} s after the broker was back: {producer.close()}")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def prompts() -> None:
    print("\n| us, of a text of | 1 KB | 10 KB | 100 KB |\n| --- | ---: | ---: | ---: |")
    for made in (fingerprint, simhash, expected_tokens):
        cells = []
        for size in (1_000, 10_000, 100_000):
            text = ("The meter of tenant 17 said 4096 tokens. " * (size // 40 + 1))[:size]
            cells.append(min(_seconds(lambda text=text, made=made: made(text)) for _ in range(20)))  # type: ignore[misc]
        print(f"| {made.__name__} | {' | '.join(f'{cell * 1e6:,.0f}' for cell in cells)} |")
    estimator = Estimator()
    took = min(_seconds(lambda: estimator.estimate("gpt-4o", 1, 1)) for _ in range(500))
    print(f"estimate of known tokens: {took * 1e6:.0f} us")


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores;", end=" "
    )
    print(", ".join(f"{name} {version(name)}" for name in ("kafka-python", "confluent-kafka", "pydantic", "numpy")) + "\n")
    with tempfile.TemporaryDirectory(prefix="bench-producer-") as folder, Broker(Path(folder)) as broker:
        kafka = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        kafka.create_topics({"usage": {"num_partitions": 12, "replication_factor": 1}}, wait_for_metadata=True)
        kafka.close()
        clients(broker)
        away(broker)
    prompts()


if __name__ == "__main__":
    main()
