"""Real worker processes on a real broker: their topics, their traffic, and what they say of themselves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from stream.settings import KafkaSettings
from stream.topics import init

WORKER = "from stream.cli import main; main()"
PRICES = [{"provider": "p", "model": "m", "effective_from": 0, "input": 1.0, "output": 0.0, "unit": "USD per 1M tokens"}]
NANO_PER_TOKEN = 1_000
LAST_LINES = 12


def settings(bootstrap: str, prefix: str, **more: Any) -> KafkaSettings:
    """Topics and group of one test."""
    return KafkaSettings(bootstrap=bootstrap, usage_topic=f"{prefix}.usage", prefix=prefix, group=prefix, **more)


class Site:
    """One deployment: its topics, a folder for its processes' logs."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, partitions: int = 1) -> None:
        self.kafka = settings(bootstrap, prefix)
        self.folder = folder
        self.partitions = partitions
        self.processes: list[WorkerProcess] = []
        init(self.kafka, partitions, 1)
        (folder / "prices.json").write_text(json.dumps(PRICES))

    def worker(self, program: str = WORKER, **environment: str) -> WorkerProcess:
        """A new worker process; it may take some seconds until it has joined the group."""
        self.processes.append(WorkerProcess(self, f"worker-{len(self.processes)}", program, environment))
        return self.processes[-1]

    def close(self) -> None:
        for process in self.processes:
            process.close()
            last = "\n".join(process.log.read_text().splitlines()[-LAST_LINES:])
            print(f"--- {process.name}\n{last}")  # noqa: T201  pytest shows it where a test fails


class WorkerProcess:
    """A process of `burnguard worker`."""

    def __init__(self, site: Site, name: str, program: str, environment: dict[str, str]) -> None:
        self.name = name
        self.log = site.folder / f"{name}.log"
        kafka = site.kafka
        self.environment = {
            "PATH": os.environ["PATH"],
            "BURNGUARD_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "BURNGUARD_KAFKA_USAGE_TOPIC": kafka.usage_topic,
            "BURNGUARD_KAFKA_PREFIX": kafka.prefix,
            "BURNGUARD_KAFKA_GROUP": kafka.group,
            "BURNGUARD_WORKER_HTTP_PORT": "0",
            "BURNGUARD_WORKER_SESSION_TIMEOUT_S": "6",
            "BURNGUARD_WORKER_CHECKPOINT_S": "2",
            **environment,
        }
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "worker", "--prices", str(site.folder / "prices.json")],
                env=self.environment,
                stdout=out,
                stderr=out,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under that name so far."""
        found = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [event for event in found if event.get("event") == name]

    def metric(self, name: str) -> float:
        """One of its metrics, summed over its labels; 0 before it serves any."""
        address = self.events("listening")
        if not address:
            return 0.0
        with urllib.request.urlopen(f"{address[0]['address']}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page."""
        try:
            with urllib.request.urlopen(f"{self.events('listening')[0]['address']}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self, within_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        self._process.terminate()
        return self._process.wait(within_s)

    def ended(self, within_s: float) -> int:
        """Its exit code, once it ends by itself."""
        return self._process.wait(within_s)

    def close(self) -> None:
        if self.alive:
            self.thaw()
            self.kill()


def eventually(done: Callable[[], Any], within_s: float, what: str) -> float:
    """Seconds until it is so; fails where that takes longer."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def event(n: int | str, key: int, tokens: int, ts: float | None = None) -> dict[str, Any]:
    """A usage event that costs a thousandth of a cent per ten tokens."""
    base = {"event_id": f"e{n}", "ts": time.time() if ts is None else ts, "tenant": f"t{key % 12}", "key_id": f"k{key}"}
    more = {"feature": f"f{tokens % 3}", "status": (200, 200, 429, 500)[tokens % 4], "latency_ms": tokens % 900}
    more |= {"user_id": f"u{tokens % 50}", "session_id": f"s{tokens % 70}", "attempt": 1 + tokens % 2}
    return {**base, **more, "provider": "p", "model": "m", "input_tokens": tokens, "output_tokens": 0}


class Traffic:
    """Produces calls as a gateway does: keyed by tenant, now and then a duplicate, poison, a late one, a burn."""

    def __init__(self, kafka: KafkaSettings, config: dict[str, str] | None = None, seed: int = 1) -> None:
        self._topic = kafka.usage_topic
        ours = {"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random", "linger.ms": 5, "log_level": 0}
        self.producer = Producer(ours | (config or {}))
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.sent = 0

    def send(self, line: bytes, key: str = "t0") -> None:
        self.producer.produce(self._topic, line, key.encode())
        self.producer.poll(0)
        self.sent += 1

    def some(self, calls: int) -> None:
        """So many calls at once."""
        for call in self._calls():
            self.send(*call)
            if self.sent >= calls:
                break
        self.flush()

    def crowd(self, keys: int) -> None:
        """One small call of each of so many other keys."""
        for key in range(1_000, 1_000 + keys):
            call = event(f"{id(self)}-crowd-{key}", key, key % 3_000)
            self.send(json.dumps(call).encode(), call["tenant"])
        self.flush()

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def start(self, per_second: int) -> None:
        """Go on until `stop`."""

        def run() -> None:
            began, calls = time.monotonic(), self._calls()
            while not self._stop.is_set():
                while self.sent < per_second * (time.monotonic() - began):
                    self.send(*next(calls))
                time.sleep(0.01)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _calls(self) -> Iterator[tuple[bytes, str]]:
        r, n = self._random, 0
        while True:
            n += 1
            key = r.randrange(60)
            burning = int(time.time()) // 20 % 60
            tokens = 2_000_000 if key == burning else r.randrange(1, 3_000)
            number, ago = n if r.random() > 0.003 else n // 2, r.choice([0, 0, 0, 0, 9])
            call = event(f"{id(self)}-{number}", key, tokens, time.time() - ago)
            line = json.dumps(call).encode()
            yield (line if r.random() > 0.002 else line[:-9]), call["tenant"]
