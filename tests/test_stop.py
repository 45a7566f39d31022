"""How a run ends: by its source, by a signal, by a person's `stop`; and a ledger that cannot be written meanwhile."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Table, func, select

from actions import tables as rows
from actions.ledger import Busy, Ledger
from examples.receiver.receiver import Receiver
from stream.duty import wall
from tests.conftest import NewLedger, NewStory
from tests.story import KEY, Story, signal
from tests.test_run import burnguard, live

COMMAND = [sys.executable, "-c", "from stream.cli import main; main()"]


def throttled(ledger: str) -> str:
    """A responder's ledger that was killed just now, a throttle of a minute in it."""
    story = Story(ledger)
    story.now = wall()
    story.responder.watch(story.now)
    story.hear(signal(story.now, started=story.now))
    assert story.hook.throttled
    story.close()
    return ledger


@pytest.fixture
def story(new_story: NewStory) -> Story:
    return new_story()


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "not in time"
        time.sleep(0.02)


def running(ledger: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`burnguard run` on an open standard input, on duty."""
    with closing(Ledger(ledger)) as watched:
        beat = watched.last_beat()
        process = started(ledger, environment)
        until(lambda: watched.last_beat() != beat)
    return process


def started(ledger: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "run", "--ledger", ledger, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PATH": os.environ["PATH"]},
    )


@pytest.mark.parametrize("number", [signals.SIGTERM, signals.SIGINT])
def test_a_run_that_is_told_to_end_takes_throttles_back_sums_up_and_resigns(
    receiver: Receiver, tmp_path: Path, new_ledger: NewLedger, number: signals.Signals
) -> None:
    ledger = throttled(new_ledger())
    process = running(ledger, live(receiver, tmp_path))
    process.send_signal(number)
    said, wrong = process.communicate(timeout=30)
    assert (process.returncode, wrong) == (0, "")
    assert [verb for verb, _ in receiver.effects] == ["revert"]
    assert "stopping" in said
    assert "summary" in said
    with closing(Ledger(ledger)) as left:
        assert left.last_beat() == 0
    began = time.monotonic()
    assert "no responder lives" in burnguard("stop", "--ledger", ledger).output
    assert time.monotonic() - began < 4, "who has resigned is not waited for"


@pytest.mark.parametrize("new_ledger", ["sqlite"], indirect=True)
def test_a_second_ctrl_c_leaves_at_once(receiver: Receiver, tmp_path: Path, new_ledger: NewLedger) -> None:
    nobody = {**live(receiver, tmp_path), "BURNGUARD_WEBHOOK_URL": "http://127.0.0.1:1/hook"}
    process = running(throttled(new_ledger()), nobody)
    process.send_signal(signals.SIGINT)
    assert process.stdout is not None
    until(lambda: "stopping" in process.stdout.readline())  # type: ignore[union-attr]  # a pipe, see above
    began = time.monotonic()
    process.send_signal(signals.SIGINT)
    _, wrong = process.communicate(timeout=30)
    assert process.returncode == 130
    assert wrong == "left at once\n"
    assert time.monotonic() - began < 10


def test_who_still_reads_a_history_is_not_on_duty_and_outlives_a_stop(tmp_path: Path, new_ledger: NewLedger) -> None:
    name, past = new_ledger(), tmp_path / "past.ndjson"
    os.mkfifo(past)
    process = subprocess.Popen(
        [*COMMAND, "run", "--history", str(past), "--ledger", name, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with past.open("w") as history:
        ledger = Ledger(name)
        assert ledger.last_beat() is None
        assert "no responder lives" in burnguard("stop", "--ledger", name).output
        history.write("")
    until(lambda: bool(ledger.last_beat()))
    ledger.close()
    said, _ = process.communicate("")
    assert process.returncode == 0
    assert "STOPPED" in said


def test_a_stop_is_written_down_though_it_cannot_be_delivered(story: Story) -> None:
    story.hear(signal(story.now))
    said = burnguard("stop", "--ledger", story.name, BURNGUARD_WEBHOOK_ALLOW_NETWORKS="10.0.0.0/8")
    assert said.exit_code == 1
    assert "stopped, but cannot deliver: BURNGUARD_WEBHOOK_ALLOW_NETWORKS must be a JSON list" in said.output
    assert story.ledger.newest_happening() == "stop"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Another program keeps the ledger to itself."""
    with closing(Ledger(name)) as other, other._database.transaction() as connection:
        connection.execute(select(rows.epochs).with_for_update())  # SQLite's lock is the transaction itself
        yield


@pytest.fixture
def patient(new_story: NewStory) -> Story:
    """A story whose responder waits for no lock."""
    story = new_story()
    story.ledger.close()
    story.ledger = Ledger(story.name, wait_s=0.02)
    story.responder._ledger = story.ledger
    story.responder._patient = True
    story.responder._ledger.take_epoch(story.now)
    return story


def count(story: Story, table: Table) -> int | None:
    with story.ledger._database.transaction(reads=True) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar()


def test_while_the_ledger_is_locked_it_hears_and_sends_nothing_and_then_writes_all_once(patient: Story) -> None:
    said = signal(patient.now)
    with locked(patient.name):
        for _ in range(3):
            patient.hear(said)
            patient.play(5)
    assert not patient.hook.posts
    assert patient.whats() == ["incident_opened", "notified", "paused"]
    patient.play(3)
    assert [verb for _, verb, _ in patient.hook.posts] == ["apply"]
    assert patient.whats()[3:] == ["resumed", "throttle_applied"]
    assert count(patient, rows.signals) == 1
    assert count(patient, rows.receipts) == 1
    patient.restart()
    patient.hear(said)
    assert len(patient.hook.posts) == 1


def test_a_lock_between_an_attempt_and_its_receipt_loses_no_receipt(patient: Story) -> None:
    patient.responder.hear([signal(patient.now)], patient.now)
    (delivery,) = patient.responder.due(patient.now)
    assert patient.responder.claim(delivery, patient.now)
    with locked(patient.name):
        patient.responder.settle(patient.hook.post(delivery, patient.now + 60_000, patient.now))
        patient.play(3)
    patient.play(70)
    assert [verb for verb, _ in patient.hook.effects] == ["apply", "revert"]
    assert count(patient, rows.receipts) == 2


@pytest.mark.parametrize("new_ledger", ["sqlite"], indirect=True)
def test_a_full_disk_pauses_orders_and_not_the_stream(patient: Story) -> None:
    story = patient
    with story.ledger._database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    keys = [("acme", f"key-{n}") for n in range(200)]
    story.hear(*(signal(story.now, key=key) for key in keys))
    story.play(3)
    assert story.whats()[-1] == "paused"
    assert not story.hook.posts
    with story.ledger._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    story.play(10)
    assert len({order for _, order in story.hook.effects}) == 200
    assert story.whats().count("paused") == story.whats().count("resumed") == 1


def test_an_impatient_responder_says_that_the_ledger_is_busy(patient: Story) -> None:
    patient.responder._patient = False
    with locked(patient.name), pytest.raises(Busy):
        patient.hear(signal(patient.now))
    assert KEY not in patient.hook.throttled
