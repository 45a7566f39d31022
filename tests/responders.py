"""Real responder processes on a real broker, and what they act on: a worker that only speaks, a receiver that never lifts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import NonEmptyGroupError

from examples.receiver.receiver import Order, Receiver
from schemas.batch import SLICE
from tests.conftest import SECRET
from tests.story import KEY
from tests.topic import Said, burn, pulse

POLICY = """version: 1
rules:
  - name: stop
    match: {severity: page}
    do:
      - notify
      - throttle: {strength: 0.9, lease: 20s}
    armed: true
"""
BURNGUARD = "from stream.cli import main; main()"
RESTS_S = 3.0
"""Longer than a heartbeat: a member that joined has been heard of by all."""
UNGUARDED = "from tests.unguarded import main; main()"


class Patient(Receiver):
    """Lifts nothing by itself, so that a throttle which nobody takes back is seen; `posts` has every webhook that came."""

    def __init__(self) -> None:
        self.posts: list[str] = []
        super().__init__(SECRET)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def verified(self, body: bytes, headers: dict[str, str]) -> Order:
        self.posts.append(headers["webhook-id"])
        return super().verified(body, headers)

    def over(self, order: Order) -> bool:
        return False

    def counts(self) -> dict[str, list[str]]:
        """What was done, by order."""
        done: dict[str, list[str]] = {}
        for verb, order in self.effects:
            done.setdefault(order, []).append(verb)
        return done

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.effects]

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Worker:
    """Says what a worker would: signals, and a pulse for every pane since it began."""

    def __init__(self, bootstrap: str, topic: str, partitions: int = 1) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1, "log_level": 0})
        self._topic = topic
        self._partitions = partitions
        self._next = time.time_ns() // 1_000_000 // SLICE * SLICE + SLICE
        self.said: list[Said] = []

    def say(self, said: Iterable[Said]) -> None:
        for each in said:
            self.said.append(each)
            self._producer.produce(self._topic, key=each.key, value=each.value, partition=0)
        self._producer.flush(10)

    def burn(self, key: tuple[str, str] = KEY, partition: int = 0) -> None:
        self.say([burn(time.time_ns() // 1_000_000, partition=partition, key=key)])

    def quiet(self) -> None:
        """The pulse of every pane that has ended since the last time."""
        while self._next <= time.time_ns() // 1_000_000:
            for partition in range(self._partitions):
                self.say(pulse(self._next, (), partition))
            self._next += SLICE

    def quiet_until(self, done: Callable[[], bool], within_s: float) -> float:
        """Goes on speaking; the seconds that it took. Fails where it takes longer."""
        begun = time.monotonic()
        while not done():
            assert time.monotonic() - begun < within_s, "not in time"
            self.quiet()
            time.sleep(0.05)
        return time.monotonic() - begun


class Member:
    """A process of `burnguard responder`, or of another `program` with the same arguments."""

    def __init__(self, folder: Path, name: str, ledger: str, environment: dict[str, str], program: str = BURNGUARD) -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        arguments = ["responder", "--policy", str(folder / "policy.yaml"), "--ledger", ledger]
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments], stdout=out, stderr=err, env=environment
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        rows = [json.loads(row) for row in self.err.read_text().splitlines() if row.startswith("{")]
        return [row for row in rows if row["event"] == name]

    def active(self) -> bool:
        ends = ("elected", "standby", "deposed", "resigned")
        rows = [json.loads(row) for row in self.err.read_text().splitlines() if row.startswith("{")]
        last = [row["event"] for row in rows if row["event"] in ends]
        return last[-1:] == ["elected"] and self.process.poll() is None

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds until it exits. Fails where that is not with 0."""
        begun = time.monotonic()
        self.process.terminate()
        assert self.process.wait(20) == 0, self.err.read_text()
        return time.monotonic() - begun


def figure(text: str) -> None:
    """A measured figure, for docs/reliability.md (pytest -s)."""
    print(f"\n{text}")  # noqa: T201


class Stage:
    """A topic, a ledger, a receiver, a worker, and members that come and go."""

    def __init__(self, folder: Path, bootstrap: str, prefix: str, ledger: str, partitions: int = 1) -> None:
        self.folder = folder
        self.ledger = ledger
        self.bootstrap = bootstrap
        self.group = f"{prefix}-responder"
        self.receiver = Patient()
        (folder / "secret").write_text(SECRET)
        (folder / "policy.yaml").write_text(POLICY)
        self.environment = {
            "PATH": os.environ["PATH"],
            "BURNGUARD_WEBHOOK_URL": f"{self.receiver.url}/hook",
            "BURNGUARD_WEBHOOK_SECRET_FILE": str(folder / "secret"),
            "BURNGUARD_WEBHOOK_ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "BURNGUARD_WEBHOOK_ALLOW_HTTP": "true",
            "BURNGUARD_KAFKA_BOOTSTRAP": bootstrap,
            "BURNGUARD_KAFKA_PREFIX": prefix,
            "BURNGUARD_KAFKA_GROUP": prefix,
        }
        self.members: list[Member] = []
        with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.create_topics([NewTopic(f"{prefix}.signals", 1, 1)])
        self.worker = Worker(bootstrap, f"{prefix}.signals", partitions)

    def join(self, program: str = BURNGUARD) -> Member:
        """One more responder, without waiting for its election."""
        member = Member(self.folder, f"member-{len(self.members)}", self.ledger, self.environment, program)
        self.members.append(member)
        return member

    def command(self, *arguments: str) -> str:
        """What `burnguard` says to these arguments and our ledger."""
        command = [sys.executable, "-c", BURNGUARD, *arguments, "--ledger", self.ledger]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def active(self) -> Member:
        """The one that is active, when all have joined and the group has come to rest."""
        living = [m for m in self.members if m.process.poll() is None]
        self.worker.quiet_until(lambda: all(m.events("standby") for m in living), 40)
        while True:
            self.worker.quiet_until(lambda: any(m.active() for m in living), 40)
            first = next(m for m in living if m.active())
            until = time.monotonic() + RESTS_S
            while first.active() and time.monotonic() < until:
                self.worker.quiet()
                time.sleep(0.05)
            if first.active():
                return first

    def freeze(self, member: Member) -> None:
        """Freeze it between two transactions; within one it would keep the ledger locked, which is another fault."""
        while True:
            member.freeze()
            with closing(self.locker()) as connection, suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                return
            member.thaw()
            time.sleep(0.2)

    def locker(self) -> sqlite3.Connection:
        """A connection of another program to the ledger."""
        return sqlite3.connect(self.ledger, timeout=0.1, isolation_level=None)

    def reverted(self, count: int = 1) -> Callable[[], bool]:
        return lambda: self.receiver.verbs().count("revert") >= count

    def deleted_group(self) -> bool:
        """Delete the group; False while it has members."""
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            try:
                admin.delete_groups([self.group])
            except NonEmptyGroupError:
                return False
        return True

    def close(self) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.thaw()
                member.kill()
        self.receiver.close()
