"""What only a server can do to a ledger: restart, cut a connection, swallow an answer; and a responder that freezes there."""

from __future__ import annotations

import os
import select
import signal as signals
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg
import pytest

from actions import tables as rows
from actions.database import FROZEN_S
from actions.ledger import Busy, Ledger
from tests.postgres import Postgres
from tests.responders import figure
from tests.story import T0, Story, signal
from tests.test_stop import count

OURS = "FROM pg_stat_activity WHERE application_name = 'burnguard'"
CUT = f"SELECT pg_terminate_backend(pid) {OURS}"


@pytest.fixture
def story(postgres: Postgres) -> Iterator[Story]:
    """A patient responder's, as `burnguard run` has it."""
    with closing(patient(postgres.ledger())) as story:
        yield story


def patient(name: str) -> Story:
    story = Story(name)
    story.responder._patient = True
    return story


@contextmanager
def stuck(postgres: Postgres, story: Story, step: Callable[[], None]) -> Iterator[None]:
    """The step is under way, in the middle of its transaction: it holds the epoch and waits for a table."""
    with closing(psycopg.connect(story.name)) as other:
        other.execute("LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE")
        going = threading.Thread(target=step)
        going.start()
        until(lambda: bool(postgres.execute(f"SELECT 1 {OURS} AND wait_event_type = 'Lock'")))
        yield
        other.rollback()
        going.join()


def until(done: Callable[[], bool], seconds: float = 20) -> float:
    """The seconds that it took."""
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < seconds, "not in time"
        time.sleep(0.02)
    return time.monotonic() - begun


def throttles_once(story: Story) -> bool:
    """Each key was throttled, no webhook had two effects, and the ledger holds each receipt once."""
    story.play(5)
    return [verb for verb, _ in story.hook.effects] == ["apply"] * len(story.hook.throttled) and count(
        story, rows.receipts
    ) == len(story.hook.posts) == len(story.hook.throttled)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_while_the_server_restarts_orders_pause_and_then_all_is_written_once(
    story: Story, postgres: Postgres, how: str
) -> None:
    story.hear(signal(T0))
    getattr(postgres, how)()
    story.hear(signal(story.now, key=("acme", "key-2")))
    story.play(3)
    assert story.whats()[-1] == "paused"
    assert len(story.hook.posts) == 1
    postgres.start()
    assert throttles_once(story)
    assert len(story.hook.throttled) == 2
    assert story.whats().count("paused") == story.whats().count("resumed") == 1


def test_a_connection_cut_between_two_transactions_is_not_noticed(story: Story, postgres: Postgres) -> None:
    story.hear(signal(T0))
    assert postgres.execute(CUT)
    story.hear(signal(story.now, key=("acme", "key-2")))
    assert throttles_once(story)
    assert "paused" not in story.whats()


def test_a_connection_cut_within_a_transaction_leaves_nothing_of_it_and_it_is_written_again(
    story: Story, postgres: Postgres
) -> None:
    with stuck(postgres, story, lambda: story.hear(signal(T0))):
        assert postgres.execute(f"{CUT} AND wait_event_type = 'Lock'")
    assert story.whats()[-1] == "paused"
    assert not story.hook.posts
    assert count(story, rows.signals) == 0
    assert throttles_once(story)


def test_a_table_that_another_keeps_locked_is_not_waited_for_for_long(story: Story, postgres: Postgres) -> None:
    story.ledger.close()
    story.ledger = story.responder._ledger = Ledger(story.name, wait_s=0.1)
    story.ledger.take_epoch(story.now)
    begun = time.monotonic()
    with closing(psycopg.connect(story.name)) as other:
        other.execute("LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE")
        story.hear(signal(T0))
    assert time.monotonic() - begun < 2
    assert story.whats()[-1] == "paused"
    assert throttles_once(story)


class Swallower:
    """Between a client and the server; `swallow`: the next COMMIT gets through, and its answer does not."""

    def __init__(self, port: int) -> None:
        self.swallow = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._to = port
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._between, args=(client,), daemon=True).start()

    def _between(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server, suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                data = ready[0].recv(1 << 16)
                if not data:
                    return
                (server if ready[0] is client else client).sendall(data)
                if ready[0] is client and b"COMMIT\0" in data and self.swallow:
                    self.swallow = False
                    server.recv(1 << 16)  # it is committed
                    return

    def close(self) -> None:
        self._server.close()


def test_what_was_committed_although_the_answer_was_lost_stands_once(postgres: Postgres) -> None:
    name = postgres.ledger()
    with closing(Swallower(postgres.port)) as between:
        with closing(patient(name.replace(f":{postgres.port}/", f":{between.port}/"))) as story:
            story.responder.hear([signal(T0)], story.now)
            (delivery,) = story.responder.due(story.now)
            assert story.responder.claim(delivery, story.now)
            between.swallow = True
            story.responder.settle(story.hook.post(delivery, story.now + 60_000, story.now))
            assert not between.swallow
            assert not story.responder.written
            assert count(story, rows.receipts) == 1
            assert throttles_once(story)


FREEZES = """
import os, signal, sys
from actions.ledger import Busy, Deposed, Ledger
ledger = Ledger(sys.argv[1])
ledger.take_epoch(1)
try:
    with ledger._database.transaction() as connection:
        ledger._hold(connection, 2)
        os.kill(os.getpid(), signal.SIGSTOP)
except Busy as busy:
    print(busy)
try:
    ledger.beat(3)
except Deposed as deposed:
    print(deposed)
"""


def test_a_responder_that_freezes_within_a_transaction_loses_its_lock_and_writes_nothing(postgres: Postgres) -> None:
    name = postgres.ledger()
    frozen = subprocess.Popen([sys.executable, "-c", FREEZES, name], stdout=subprocess.PIPE, text=True)
    os.waitid(os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        with closing(Ledger(name, wait_s=0.2)) as other:
            seconds = until(lambda: takes(other))
            figure(f"frozen within a transaction: the ledger is free again after {seconds:.1f} s")
            assert seconds < FROZEN_S + 2
            frozen.send_signal(signals.SIGCONT)
            said, _ = frozen.communicate(timeout=20)
            assert "terminating connection due to idle-in-transaction timeout" in said
            assert "epoch 1 is over" in said
            assert (other.epoch, other.last_beat()) == (2, 7)
    finally:
        frozen.kill()


def takes(ledger: Ledger) -> bool:
    with suppress(Busy):
        ledger.take_epoch(7)
        return True
    return False
