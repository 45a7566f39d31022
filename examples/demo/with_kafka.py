"""The same story through Kafka: producer, topic, two workers of which one is killed while the key burns, responder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial

from examples.demo.stage import BURNGUARD, HERE, STORY, Stage, seconds_since
from examples.demo.traffic import STOLEN
from examples.kafka.broker import VERSION, Broker, Unavailable, fetch
from stream.emit import partition_of

PARTITIONS = 3
STOLEN_PARTITION = partition_of(STOLEN[0].encode(), PARTITIONS)
STARTS_WITHIN_S = 60.0
LIVE_S = 80.0
LAST_WORDS_S = 10.0
WORKERS = ("worker-1", "worker-2")
STORY_WITH_KAFKA = {
    "burn": STORY["burn"],
    "worker killed": r"demo +worker-\d killed",
    "its partition taken over": rf"worker-\d +took over partition {STOLEN_PARTITION} ",
    **{step: pattern for step, pattern in STORY.items() if step != "burn"},
}
TOLD = {"died", "offset_gap", "fenced", "seek"}
"""What a worker says of trouble; `loaded` is told by `Workers`, the rest is for logs."""


class Workers:
    """Who holds which partition, as the workers' own events say."""

    def __init__(self) -> None:
        self.killed: str | None = None
        self._killed_at = 0.0
        self._holders: dict[int, tuple[int, str]] = {}

    def settled(self) -> bool:
        """Whether all partitions are held in one generation of the group, and each worker holds some."""
        generations = {generation for generation, _ in self._holders.values()}
        names = {name for _, name in self._holders.values()}
        return len(self._holders) == PARTITIONS and len(generations) == 1 and names == set(WORKERS)

    def holder(self, partition: int) -> str:
        return self._holders[partition][1]

    def kill(self, name: str, program: subprocess.Popen[str]) -> None:
        self.killed, self._killed_at = name, time.monotonic()
        program.kill()
        program.wait()

    def tell(self, name: str, line: str) -> str | None:
        """What to show of a worker's log line."""
        if not line.startswith("{"):
            return None
        event = json.loads(line)
        if event["event"] in TOLD:
            return " ".join(f"{key}={value}" for key, value in event.items() if key not in ("level", "timestamp"))
        if event["event"] != "loaded":
            return None
        number = event["partition"]
        _, before = self._holders.get(number, (0, None))
        self._holders[number] = (event["generation"], name)
        if before == self.killed is not None:
            where = f"at {before}'s last checkpoint, call {event['next']}" if event["next"] else "no call in it yet"
            return f"took over partition {number} {seconds_since(self._killed_at)} after the kill: {where}"
        return None if event["kept"] else f"holds partition {number}"


def main() -> int:
    try:
        with Stage() as stage:
            play(stage)
            return stage.verdict(STORY_WITH_KAFKA)
    except Unavailable as reason:
        print(f"demo       no Kafka here: {reason}. `make demo` needs neither.")
        return 1


def play(stage: Stage) -> None:
    stage.say("demo", f"Apache Kafka {VERSION}, fetched by Maven the first time (54 MB)")
    fetch()
    stage.say("demo", f"playing in {stage.folder}, which is removed at the end")
    began = time.monotonic()
    broker = Broker(stage.folder / "kafka")
    stage.leave_with(broker.kill)
    broker.start()
    stage.say("broker", f"answers at {broker.bootstrap} after {seconds_since(began)}")
    url = stage.receiver()
    environment = stage.environment(
        url,
        BURNGUARD_KAFKA_BOOTSTRAP=broker.bootstrap,
        BURNGUARD_WORKER_HTTP_PORT="0",
        BURNGUARD_WORKER_SESSION_TIMEOUT_S="6",
        BURNGUARD_WORKER_CHECKPOINT_S="2",
    )
    past = stage.folder / "history.ndjson"
    topics = [BURNGUARD, "topics", "init", "--partitions", str(PARTITIONS)]
    stage.run("topics", topics, lambda line: line.split(", replication")[0], environment)
    files = ["--policy", HERE / "policy.yaml", "--ledger", stage.folder / "ledger.sqlite"]
    stage.play("responder", [BURNGUARD, "responder", *files], responders, environment)
    stage.run("traffic", [sys.executable, HERE / "traffic.py", "history", past])
    stage.run("history", [BURNGUARD, "learn", past], env=environment)
    workers = Workers()
    programs = {name: stage.play(name, [BURNGUARD, "worker"], partial(workers.tell, name), environment) for name in WORKERS}
    if not stage.wait(workers.settled, STARTS_WITHIN_S) or not stage.wait("responder +elected", STARTS_WITHIN_S):
        return
    live(stage, workers, programs, url, environment)


def live(
    stage: Stage, workers: Workers, programs: dict[str, subprocess.Popen[str]], url: str, environment: dict[str, str]
) -> None:
    """The traffic; when the stolen key has burnt for some seconds, its worker is killed."""
    until = time.monotonic() + LIVE_S
    emit = stage.play("producer", [BURNGUARD, "emit", "-"], env=environment, stdin=subprocess.PIPE)
    traffic = stage.play(
        "traffic", [sys.executable, HERE / "traffic.py", "live", url], stdout=emit.stdin, stderr=subprocess.PIPE
    )
    assert emit.stdin is not None
    emit.stdin.close()
    burning = r"stolen key: [1-9]\d* calls let through"
    if stage.wait(lambda: len(stage.all(burning)) == 2, until - time.monotonic()):
        victim = workers.holder(STOLEN_PARTITION)
        workers.kill(victim, programs[victim])
        stage.say("demo", f"{victim} killed (SIGKILL): it held partition {STOLEN_PARTITION}, where the stolen key burns")
    stage.wait("RESOLVED", until - time.monotonic())
    traffic.terminate()
    stage.end(emit, LAST_WORDS_S)


def responders(line: str) -> str | None:
    """What to show of the responder: what it says to people, and that it was elected."""
    if not line.startswith("{"):
        return line
    event = json.loads(line)
    return f"elected, epoch {event['epoch']}" if event["event"] == "elected" else None


if __name__ == "__main__":
    sys.exit(main())
