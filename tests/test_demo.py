"""The demos: what they call a success, and that they leave nothing behind. One of them is played."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.stage import ENDS, STORY, Stage
from examples.demo.with_kafka import STOLEN_PARTITION, Workers
from examples.kafka.broker import Broker

LINES = [
    "traffic    stolen key: 4 calls let through, 0 refused in 5 s",
    "burnguard  02:39:17  INCIDENT  spend_spike of acme/acme-key-116",
    "burnguard  02:39:17  THROTTLE  acme/acme-key-116",
    "traffic    stolen key: 0 calls let through, 4 refused in 5 s",
    "burnguard  02:39:37  REVERTED  acme/acme-key-116",
    "burnguard  02:39:52  RESOLVED  acme/acme-key-116",
]


def verdict(lines: list[str]) -> int:
    with Stage() as stage:
        for line in lines:
            stage.say(*line.split(maxsplit=1))
        return stage.verdict(STORY)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A stage takes the signals; give them back."""
    kept = {number: signal.getsignal(number) for number in ENDS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_the_whole_story_is_a_success_and_without_any_of_its_steps_it_is_none() -> None:
    assert verdict(LINES) == 0
    for i in range(len(LINES)):
        assert verdict(LINES[:i] + LINES[i + 1 :]) == 1
        assert i == 0 or verdict([*LINES[: i - 1], LINES[i], LINES[i - 1], *LINES[i + 1 :]]) == 1


def test_only_what_a_dead_worker_held_is_taken_over() -> None:
    workers = Workers()
    loaded = '{"event": "loaded", "partition": %d, "generation": %d, "next": 7, "kept": %s}'
    for number, name in enumerate(("worker-1", "worker-2", "worker-2")):
        assert "holds" in (workers.tell(name, loaded % (number, 2, "false")) or "")
    assert workers.settled()
    victim = workers.holder(STOLEN_PARTITION)
    survivor = {"worker-1": "worker-2", "worker-2": "worker-1"}[victim]
    workers.kill(victim, subprocess.Popen(["sleep", "60"], text=True))
    kept = next(number for number in range(3) if workers.holder(number) == survivor)
    assert workers.tell(survivor, loaded % (kept, 3, "true")) is None
    assert "took over" in (workers.tell(survivor, loaded % (STOLEN_PARTITION, 3, "false")) or "")
    assert workers.tell(survivor, "Traceback (most recent call last):") is None


def start(cache: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo.with_kafka"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ({"BURNGUARD_CACHE": str(cache), "PATH": ""} if cache else {}),
    )


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]


def alive(pid: int) -> bool:
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 0


def test_without_java_it_says_what_to_install(tmp_path: Path) -> None:
    demo = start(tmp_path)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "install Java 17 or newer, and Maven" in said


@pytest.mark.chaos
def test_the_kafka_demo_plays(own_broker: Broker) -> None:
    demo = start()
    said, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, said
    assert said.splitlines()[-1].endswith("resolve: all seen")


@pytest.mark.chaos
def test_an_interrupted_kafka_demo_leaves_nothing_running(own_broker: Broker) -> None:
    with start() as demo:
        assert demo.stdout is not None
        folder = ""
        for line in demo.stdout:
            if "playing in" in line:
                folder = line.split("playing in ")[1].split(",")[0]
            if "holds partition" in line:
                break
        started = children(demo.pid)
        assert len(started) >= 5  # broker, receiver, two workers, responder
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 128 + signal.SIGINT
    assert not [pid for pid in started if alive(pid)]
    assert not Path(folder).exists()
