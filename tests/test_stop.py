"""How a run ends: by its source, by a signal, by a person's `stop`; and a ledger that cannot be written meanwhile."""

from __future__ import annotations

import os
import signal as signals
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actions.ledger import Busy, Ledger
from examples.receiver.receiver import Receiver
from stream.duty import wall
from tests.story import KEY, Story, signal
from tests.test_run import burnguard, live

COMMAND = [sys.executable, "-c", "from stream.cli import main; main()"]


def throttled(folder: Path) -> Path:
    """The ledger of a responder that was killed just now, a throttle of a minute in it."""
    story = Story(folder / "l.sqlite")
    story.now = wall()
    story.responder.watch(story.now)
    story.hear(signal(story.now, started=story.now))
    assert story.hook.throttled
    story.ledger.close()
    return story.path


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "not in time"
        time.sleep(0.02)


def running(ledger: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`burnguard run` on an open standard input, on duty."""
    before = Ledger(f"sqlite:///{ledger}")
    beat = before.last_beat()
    process = subprocess.Popen(
        [*COMMAND, "run", "--ledger", str(ledger), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PATH": os.environ["PATH"]},
    )
    until(lambda: before.last_beat() != beat)
    return process


@pytest.mark.parametrize("number", [signals.SIGTERM, signals.SIGINT])
def test_a_run_that_is_told_to_end_takes_throttles_back_sums_up_and_resigns(
    receiver: Receiver, tmp_path: Path, number: signals.Signals
) -> None:
    ledger = throttled(tmp_path)
    process = running(ledger, live(receiver, tmp_path))
    process.send_signal(number)
    said, wrong = process.communicate(timeout=30)
    assert (process.returncode, wrong) == (0, "")
    assert [verb for verb, _ in receiver.effects] == ["revert"]
    assert "stopping" in said
    assert "summary" in said
    assert Ledger(f"sqlite:///{ledger}").last_beat() == 0
    began = time.monotonic()
    assert "no responder lives" in burnguard("stop", "--ledger", ledger).output
    assert time.monotonic() - began < 4, "who has resigned is not waited for"


def test_a_second_ctrl_c_leaves_at_once(receiver: Receiver, tmp_path: Path) -> None:
    nobody = {**live(receiver, tmp_path), "BURNGUARD_WEBHOOK_URL": "http://127.0.0.1:1/hook"}
    process = running(throttled(tmp_path), nobody)
    process.send_signal(signals.SIGINT)
    assert process.stdout is not None
    until(lambda: "stopping" in process.stdout.readline())  # type: ignore[union-attr]  # a pipe, see above
    began = time.monotonic()
    process.send_signal(signals.SIGINT)
    _, wrong = process.communicate(timeout=30)
    assert process.returncode == 130
    assert wrong == "left at once\n"
    assert time.monotonic() - began < 10


def test_who_still_reads_a_history_is_not_on_duty_and_outlives_a_stop(tmp_path: Path) -> None:
    path, past = tmp_path / "l.sqlite", tmp_path / "past.ndjson"
    os.mkfifo(past)
    process = subprocess.Popen(
        [*COMMAND, "run", "--history", str(past), "--ledger", str(path), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with past.open("w") as history:
        ledger = Ledger(f"sqlite:///{path}")
        assert ledger.last_beat() is None
        assert "no responder lives" in burnguard("stop", "--ledger", path).output
        history.write("")
    until(lambda: bool(ledger.last_beat()))
    said, _ = process.communicate("")
    assert process.returncode == 0
    assert "STOPPED" in said


def test_a_stop_is_written_down_though_it_cannot_be_delivered(tmp_path: Path) -> None:
    story = Story(tmp_path / "l.sqlite")
    story.hear(signal(story.now))
    story.ledger.close()
    said = burnguard("stop", "--ledger", story.path, BURNGUARD_WEBHOOK_ALLOW_NETWORKS="10.0.0.0/8")
    assert said.exit_code == 1
    assert "stopped, but cannot deliver: BURNGUARD_WEBHOOK_ALLOW_NETWORKS must be a JSON list" in said.output
    assert Ledger(f"sqlite:///{story.path}").newest_happening() == "stop"


def locked(path: Path) -> sqlite3.Connection:
    """Another program that keeps the ledger to itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def patient(path: Path) -> Story:
    story = Story(path)
    story.ledger.close()
    story.ledger = Ledger(f"sqlite:///{path}", wait_s=0.02)
    story.responder._ledger = story.ledger
    story.responder._patient = True
    story.responder._ledger.take_epoch(story.now)
    return story


def test_while_the_ledger_is_locked_it_hears_and_sends_nothing_and_then_writes_all_once(tmp_path: Path) -> None:
    story = patient(tmp_path / "l.sqlite")
    other = locked(story.path)
    said = signal(story.now)
    for _ in range(3):
        story.hear(said)
        story.play(5)
    assert not story.hook.posts
    assert story.whats() == ["incident_opened", "notified", "paused"]
    other.execute("ROLLBACK")
    story.play(3)
    assert [verb for _, verb, _ in story.hook.posts] == ["apply"]
    assert story.whats()[3:] == ["resumed", "throttle_applied"]
    with sqlite3.connect(story.path) as rows:
        assert rows.execute("SELECT count(*), count(DISTINCT id) FROM signals").fetchone() == (1, 1)
        assert rows.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
    story.restart()
    story.hear(said)
    assert len(story.hook.posts) == 1


def test_a_lock_between_an_attempt_and_its_receipt_loses_no_receipt(tmp_path: Path) -> None:
    story = patient(tmp_path / "l.sqlite")
    story.responder.hear([signal(story.now)], story.now)
    (delivery,) = story.responder.due(story.now)
    assert story.responder.claim(delivery, story.now)
    other = locked(story.path)
    story.responder.settle(story.hook.post(delivery, story.now + 60_000, story.now))
    story.play(3)
    other.execute("ROLLBACK")
    story.play(70)
    assert [verb for verb, _ in story.hook.effects] == ["apply", "revert"]
    with sqlite3.connect(story.path) as rows:
        assert rows.execute("SELECT count(*) FROM receipts").fetchone() == (2,)


def test_a_full_disk_pauses_orders_and_not_the_stream(tmp_path: Path) -> None:
    story = patient(tmp_path / "l.sqlite")
    with story.ledger._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    keys = [("acme", f"key-{n}") for n in range(200)]
    story.hear(*(signal(story.now, key=key) for key in keys))
    story.play(3)
    assert story.whats()[-1] == "paused"
    assert not story.hook.posts
    with story.ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    story.play(10)
    assert len({order for _, order in story.hook.effects}) == 200
    assert story.whats().count("paused") == story.whats().count("resumed") == 1


def test_an_impatient_responder_says_that_the_ledger_is_busy(tmp_path: Path) -> None:
    story = patient(tmp_path / "l.sqlite")
    story.responder._patient = False
    locked(story.path)
    with pytest.raises(Busy):
        story.hear(signal(story.now))
    assert KEY not in story.hook.throttled
