"""Responders on a real broker: they act once, whoever of them dies, freezes or comes back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from actions.ledger import Ledger
from examples.kafka.broker import Broker
from stream.duty import wall
from stream.responder import ALIVE
from tests.conftest import Reachable
from tests.postgres import Postgres
from tests.responders import UNGUARDED, Stage, figure
from tests.topic import Said, burn

OTHER = ("globex", "key-7")
ONCE = ["apply", "revert"]


@pytest.fixture
def stage(tmp_path: Path, broker: Reachable, topic_prefix: str, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """With the ledger in a file, unless the test says "postgresql"."""
    ledger = str(tmp_path / "ledger.sqlite")
    if getattr(request, "param", "sqlite") == "postgresql":
        ledger = request.getfixturevalue("postgres").ledger()
    made = Stage(tmp_path, broker.bootstrap, topic_prefix, ledger, partitions=2)
    yield made
    made.close()


def ledger(stage: Stage) -> Ledger:
    return Ledger(stage.ledger)


def test_a_burn_is_throttled_and_released_over_a_graceful_restart(stage: Stage) -> None:
    member = stage.join()
    stage.active()
    stage.worker.say([Said(b"signal", b"{"), Said(b"else", b"")])
    stage.worker.burn()
    noticed = stage.worker.quiet_until(lambda: bool(stage.receiver.throttled()), 10)
    seconds = member.stop()
    figure(f"signal to throttle {noticed:.2f} s, stopped in {seconds:.2f} s")
    assert seconds < 5
    assert stage.receiver.verbs() == ["apply"], "another responder takes it back, not one that stops"
    assert ledger(stage).last_beat() == 0
    again = stage.join()
    stage.worker.quiet_until(stage.reverted(), 40)
    stage.worker.quiet_until(lambda: "RESOLVED" in again.out.read_text(), 30)
    stage.worker.quiet_until(lambda: ledger(stage).position() == len(stage.worker.said), 10)
    again.stop()
    assert stage.receiver.verbs() == ONCE
    assert len(member.events("unreadable record skipped, more are only counted")) == 1
    assert [e["epoch"] for m in (member, again) for e in m.events("elected")] == [1, 2]


def throttle_two(stage: Stage) -> None:
    """A key of either partition burns and is throttled, and the receipts are in the ledger."""
    stage.worker.burn()
    stage.worker.burn(OTHER, partition=1)
    stage.worker.quiet_until(lambda: sum(m.out.read_text().count("THROTTLE") for m in stage.members) == 2, 10)


def had_one_effect(stage: Stage) -> bool:
    """Every order had its effect once and was taken back once."""
    return all(verbs == ONCE for verbs in stage.receiver.counts().values())


def sent_once(stage: Stage) -> bool:
    """Not even the wire has seen a webhook twice."""
    return len(stage.receiver.posts) == len(set(stage.receiver.posts))


@pytest.mark.chaos
def test_a_killed_responder_is_replaced_within_15_seconds_and_every_order_has_one_effect(stage: Stage) -> None:
    stage.join(), stage.join()
    for round in range(3):
        first = stage.active()
        stage.worker.say([burn(wall(), key=("acme", f"key-{round}-{n}"), partition=n) for n in (0, 1)])
        stage.worker.quiet_until(lambda: len(stage.receiver.throttled()) == 2, 10)
        first.kill()
        second = next(m for m in stage.members if m.process.poll() is None)
        takeover = stage.worker.quiet_until(second.active, 30)
        stage.worker.say(list(stage.worker.said))
        stage.join()
        stage.worker.quiet_until(stage.reverted(2 * (round + 1)), 60)
        posts = stage.receiver.posts
        figure(f"SIGKILL: taken over after {takeover:.1f} s; {len(posts)} posts of {len(set(posts))} webhooks so far")
        assert takeover <= 15
    assert len(stage.receiver.counts()) == 6
    assert len(set(stage.receiver.posts)) == 12
    assert had_one_effect(stage), stage.receiver.effects


@pytest.mark.chaos
def test_a_frozen_responder_wakes_up_deposed_sends_nothing_and_stands_by(stage: Stage) -> None:
    frozen = stage.join()
    stage.active()
    throttle_two(stage)
    stage.freeze(frozen)
    other = stage.join()
    takeover = stage.worker.quiet_until(other.active, 30)
    stage.worker.quiet_until(stage.reverted(2), 60)
    sent = len(stage.receiver.posts)
    frozen.thaw()
    stage.worker.quiet_until(lambda: bool(frozen.events("deposed")), 10)
    stage.worker.quiet_until(lambda: len(frozen.events("standby")) >= 2, 20)
    assert len(stage.receiver.posts) == sent
    stage.active()
    stage.worker.burn(("acme", "key-9"))
    stage.worker.quiet_until(stage.reverted(3), 60)
    figure(f"SIGSTOP: taken over after {takeover:.1f} s, {len(stage.receiver.posts)} webhooks for 3 orders")
    assert had_one_effect(stage) and sent_once(stage), stage.receiver.effects
    assert frozen.process.poll() is None
    assert other.events("elected")[0]["epoch"] == 2


@pytest.mark.chaos
@pytest.mark.parametrize("stage", ["postgresql"], indirect=True)
def test_a_responder_frozen_within_a_transaction_on_a_server_keeps_nobody_waiting(stage: Stage, postgres: Postgres) -> None:
    """It is made to wait for a table, with the epoch in its hand, and frozen; then the table is free."""
    stage.join(), stage.join()
    frozen = stage.active()
    (other,) = (member for member in stage.members if member is not frozen)
    with closing(psycopg.connect(stage.ledger)) as locker:
        locker.execute("LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE")
        stage.worker.burn()
        stage.worker.burn(OTHER, partition=1)
        while not postgres.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            time.sleep(0.02)
        frozen.freeze()
    begun = time.monotonic()
    stage.worker.quiet_until(lambda: bool(stage.receiver.throttled()), 30)
    took = time.monotonic() - begun
    frozen.thaw()
    stage.worker.quiet_until(lambda: bool(frozen.events("deposed")), 10)
    stage.worker.quiet_until(stage.reverted(2), 60)
    reason = frozen.events("deposed")[0]["reason"]
    figure(f"SIGSTOP within a transaction: both keys throttled by the other after {took:.1f} s; the frozen one: {reason}")
    assert other.events("elected")
    assert had_one_effect(stage) and sent_once(stage), stage.receiver.effects


@pytest.mark.chaos
@pytest.mark.parametrize("stage", ["postgresql"], indirect=True)
def test_a_server_that_is_away_for_a_while_costs_nothing_but_the_while(stage: Stage, postgres: Postgres) -> None:
    member = stage.join()
    stage.active()
    throttle_two(stage)
    postgres.kill()
    stage.worker.burn(("acme", "key-9"))
    time.sleep(5)
    assert len(stage.receiver.throttled()) == 2
    postgres.start()
    back = stage.worker.quiet_until(lambda: len(stage.receiver.throttled()) == 3, 30)
    figure(f"server killed for 5 s: the burn of meanwhile is throttled {back:.1f} s after it is back")
    assert member.process.poll() is None
    assert stage.receiver.verbs() == ["apply"] * 3 and sent_once(stage)


@pytest.mark.chaos
def test_without_the_epoch_check_a_frozen_responder_wakes_up_and_writes(stage: Stage) -> None:
    frozen = stage.join(UNGUARDED)
    stage.active()
    throttle_two(stage)
    stage.freeze(frozen)
    other = stage.join()
    stage.worker.quiet_until(other.active, 30)
    stage.worker.quiet_until(stage.reverted(2), 60)
    sent = len(stage.receiver.posts)
    frozen.thaw()
    stage.worker.quiet_until(lambda: len(stage.receiver.posts) > sent, 10)
    writes = len(frozen.events("a zombie wrote"))
    assert writes
    figure(f"epoch check off: {writes} writes and {len(stage.receiver.posts) - sent} posts by the zombie")


@pytest.mark.chaos
def test_a_stop_that_deposes_a_frozen_responder_is_obeyed_by_it_and_so_is_the_release(stage: Stage) -> None:
    member = stage.join()
    stage.active()
    throttle_two(stage)
    stage.freeze(member)
    time.sleep(ALIVE / 1000 + 0.5)
    said = stage.command("stop")
    assert "took back 2 of 2 throttles itself" in said
    member.thaw()
    stage.worker.quiet_until(lambda: len(member.events("elected")) == 2, 30)
    stage.worker.burn(("acme", "key-8"))
    stage.worker.quiet_until(lambda: "acme/key-8" in member.out.read_text(), 10)
    assert not stage.receiver.throttled()
    assert "released" in stage.command("stop", "--release")
    time.sleep(2)
    stage.worker.burn(("acme", "key-9"))
    stage.worker.quiet_until(lambda: len(stage.receiver.throttled()) == 1, 10)
    assert sorted(stage.receiver.counts().values()) == [["apply"], ONCE, ONCE]


@pytest.mark.chaos
def test_throttles_are_taken_back_although_the_broker_is_down(stage: Stage, own_broker: Broker) -> None:
    if own_broker.bootstrap != stage.bootstrap:
        pytest.skip("the broker is the user's: it is not ours to stop")
    member = stage.join()
    stage.active()
    throttle_two(stage)
    own_broker.kill()
    try:
        until = time.monotonic() + 40
        while stage.receiver.throttled() and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        own_broker.start()
    assert not stage.receiver.throttled()
    stage.worker.quiet_until(member.active, 30)
    stage.worker.burn(("acme", "key-9"))
    back = stage.worker.quiet_until(lambda: len(stage.receiver.throttled()) == 1, 30)
    figure(f"broker killed: throttles taken back meanwhile, a burn acted on {back:.1f} s after it was back")


def test_nothing_is_lost_or_done_again_when_the_group_is_deleted(stage: Stage) -> None:
    killed = stage.join()
    stage.active()
    throttle_two(stage)
    time.sleep(1.5)  # a heartbeat of the ledger, which carries the position
    killed.kill()
    stage.worker.quiet_until(lambda: stage.deleted_group(), 30)
    stage.worker.say(list(stage.worker.said))
    again = stage.join()
    stage.worker.quiet_until(stage.reverted(2), 60)
    assert again.events("elected")[0]["position"] > 0
    assert had_one_effect(stage) and sent_once(stage), stage.receiver.effects


@pytest.mark.chaos
def test_a_ledger_that_another_program_keeps_locked_stops_no_responder_for_good(stage: Stage) -> None:
    member = stage.join()
    stage.active()
    throttle_two(stage)
    with closing(stage.locker()) as other:
        stage.worker.quiet_until(lambda: locked(other), 5)
        until = time.monotonic() + 12
        stage.worker.quiet_until(lambda: time.monotonic() > until, 13)
    assert "database is locked" in member.events("deposed")[0]["reason"]
    stage.worker.quiet_until(stage.reverted(2), 60)
    assert had_one_effect(stage), stage.receiver.effects


def locked(connection: sqlite3.Connection) -> bool:
    """Whether we have the lock."""
    with suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
        return True
    return False
