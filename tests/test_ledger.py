"""The ledger in either database: who writes, who waits, what is refused, and how an older one comes to today's tables."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text

from actions import migrations
from actions.incidents import Changes
from actions.ledger import BadLedger, Busy, Deposed, Ledger
from actions.tables import REVISION, epochs, receipts, tables, versions
from schemas.batch import Ms
from schemas.orders import Receipt
from schemas.rollup import USAGE
from tests.conftest import NewLedger
from tests.postgres import Postgres
from tests.story import T0, Story, signal
from tests.test_hearing import ROLLUP, Term
from tests.test_run import burnguard
from tests.topic import Said, logged

OLD = Path(__file__).parent / "ledgers"
OLD_NOW = T0 + 103_000
"""When the old ledger was left: key-1's incident is over, globex's key is throttled, key-3's throttle is on its way."""
GLOBEX = ("globex", "clé-2")


@pytest.fixture
def name(new_ledger: NewLedger) -> str:
    return new_ledger()


@pytest.fixture
def old(name: str) -> str:
    """A ledger that was written before there were revisions."""
    if name.startswith("postgresql"):
        script = (OLD / "before-alembic.postgresql.sql").read_text()
        schema = name.rpartition("%3D")[2]
        with closing(psycopg.connect(name)) as server, server:
            server.execute(script.replace("public.", f"{schema}.").encode())
    else:
        with closing(sqlite3.connect(name)) as file:
            file.executescript((OLD / "before-alembic.sqlite.sql").read_text())
    return name


@pytest.fixture
def ledger(name: str) -> Iterator[Ledger]:
    with closing(Ledger(name)) as made:
        yield made


def ask(name: str, statement: str) -> list[tuple[object, ...]]:
    """What the database answers to whoever looks into it."""
    with closing(Ledger(name)) as looked, looked._database.transaction() as connection:
        found = connection.execute(text(statement))
        return [tuple(row) for row in found] if found.returns_rows else []


def test_a_new_ledger_has_the_tables_that_the_migrations_make(ledger: Ledger, new_ledger: NewLedger) -> None:
    assert migrations.newest() == REVISION
    with closing(Ledger(new_ledger())) as other, other._database.transaction() as connection:
        tables.drop_all(connection)
        migrations.upgrade(connection, "other")
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), tables) == []
        migrated = shape(connection)
    with ledger._database.transaction() as connection:
        assert shape(connection) == migrated


def shape(connection: Connection) -> object:
    """Columns and indexes, by table."""
    found = inspect(connection)
    return {
        name: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)),
            sorted((str(i["name"]), i["column_names"], i["unique"]) for i in found.get_indexes(name)),
        )
        for name in found.get_table_names()
    }


def test_an_old_ledger_with_data_in_it_is_gone_on_with(old: str) -> None:
    signals_before = ask(old, "SELECT * FROM signals")
    with closing(Story(old, now=OLD_NOW)) as story:
        assert story.ledger.epoch == 2
        assert story.ledger.position() == 42
        assert story.ledger.fold() == (41, b"\x00fold\xff")
        assert story.ledger.newest_happening() == "release"
        assert {order.key_id for order in story.responder.out()} == {"key-3", GLOBEX[1]}
        story.hear(signal(T0))
        assert not story.told, "the old ledger knew this signal"
        story.hook.throttled[GLOBEX] = 0
        story.play(80)
        assert not story.hook.throttled
        assert not story.responder.out()
    assert ask(old, "SELECT version_num FROM alembic_version") == [(REVISION,)]
    assert ask(old, "SELECT * FROM signals") == signals_before
    (kept,) = ask(old, "SELECT count(*), count(at), count(DISTINCT at) FROM receipts WHERE id <= 5")
    assert kept == (5, 5, 4)


def test_usage_of_before_prices_were_kept_has_unknown_ones_until_a_worker_says_more(name: str) -> None:
    first = Term(name)
    first.take(logged([Said(USAGE, part) for part in ROLLUP.parts()]))
    first.ledger.close()
    ask(name, "ALTER TABLE usage DROP COLUMN price_version")
    ask(name, "UPDATE alembic_version SET version_num = '0003'")
    later = Term(name)
    assert ask(name, "SELECT price_version, calls FROM usage") == [("unknown", 0)]
    more = replace(ROLLUP, values=ROLLUP.values + 1, books=(("0.2.3,unknown",),))
    later.duty.responder.count(more, "usage", T0)
    later.ledger.close()
    assert ask(name, "SELECT price_version, calls FROM usage") == [("0.2.3,unknown", 1)]
    assert "0.2.3,unknown" in burnguard("usage", "--ledger", name, "--by", "prices").output


def test_only_who_takes_the_epoch_upgrades_and_who_held_it_is_deposed_in_the_same_step(old: str) -> None:
    with closing(Ledger(old)) as earlier:
        earlier._epoch = 1  # as of the build that wrote it
        earlier.happen("stop", OLD_NOW)
        assert earlier.last_beat() == OLD_NOW
        earlier.beat(OLD_NOW + 1)
        assert not ask(old, "SELECT 1 FROM epoch WHERE epoch <> 1")
        with closing(Ledger(old)) as later:
            later.take_epoch(OLD_NOW + 2)
        with pytest.raises(Deposed):
            earlier.beat(OLD_NOW + 3)
    assert ask(old, "SELECT epoch, beat FROM epoch") == [(2, OLD_NOW + 2)]


def test_a_receipt_that_stands_twice_is_kept_once_by_the_upgrade(old: str) -> None:
    ask(old, 'INSERT INTO receipts (webhook_id, "row") SELECT webhook_id, "row" FROM receipts')
    with closing(Ledger(old)) as later:
        later.take_epoch(OLD_NOW)
    assert ask(old, "SELECT count(*), max(id) FROM receipts") == [(5, 5)]


def test_an_upgrade_that_fails_changes_nothing(old: str) -> None:
    ask(old, "INSERT INTO receipts (webhook_id, \"row\") VALUES ('x', 'no JSON')")
    with closing(Ledger(old)) as later, pytest.raises(BadLedger):
        later.take_epoch(OLD_NOW)
    assert ask(old, "SELECT epoch FROM epoch") == [(1,)]
    with closing(Ledger(old)) as looked, looked._database.transaction() as connection:
        assert not inspect(connection).has_table(versions.name)
        assert {c["name"] for c in inspect(connection).get_columns("receipts")} == {"id", "webhook_id", "row"}


def test_a_newer_ledger_is_refused_with_a_sentence(ledger: Ledger, name: str) -> None:
    ask(name, "UPDATE alembic_version SET version_num = '9999'")
    said = burnguard("stop", "--ledger", name)
    assert said.exit_code == 1
    assert re.search(r"are of revision 9999, this Burnguard knows up to \d+: a newer one wrote them", said.output)
    with pytest.raises(BadLedger):
        ledger.take_epoch(T0)
    assert ledger.last_beat() is None


def test_another_programs_tables_are_left_alone(name: str) -> None:
    with closing(Ledger(name)) as made, made._database.transaction() as connection:
        tables.drop_all(connection)
        connection.execute(text("CREATE TABLE orders (id INTEGER, customer TEXT)"))
    with pytest.raises(BadLedger, match="its table orders is none that a Burnguard"):
        Ledger(name)


def test_who_only_looks_makes_no_ledger(name: str) -> None:
    said = burnguard("stop", "--ledger", name)
    assert said.exit_code == 1
    assert "no such ledger; name the one that" in said.output
    said = burnguard("stop", "--ledger", name)
    assert "no such ledger" in said.output


def test_many_start_at_once_on_a_new_ledger_and_on_an_old_one(name: str, new_ledger: NewLedger, old: str) -> None:
    for at in (new_ledger(), old):
        before = 0 if at != old else 1
        taken: list[int] = []

        def start(at: str = at, taken: list[int] = taken) -> None:
            try:
                with closing(Ledger(at)) as mine:
                    mine.take_epoch(T0)
                    taken.append(mine.epoch)
            except Busy:  # SQLite does not wait while another turns the file to its write-ahead log
                start()

        starts = [threading.Thread(target=start) for _ in range(6)]
        for each in starts:
            each.start()
        for each in starts:
            each.join()
        assert sorted(taken) == list(range(before + 1, before + 7))


class Unguarded(Ledger):
    """Looks at the epoch, and does not hold it."""

    def _hold(self, connection: Connection, now: Ms | None) -> None:
        if connection.execute(select(epochs.c.epoch)).scalar() != self.epoch:
            raise Deposed


def rivals(name: str, kind: type[Ledger], seconds: float) -> list[int]:
    """Four responders take the ledger from one another as fast as they can; the epochs in the order of what was written."""
    until = time.monotonic() + seconds

    def rule(me: int) -> None:
        with closing(kind(name)) as mine:
            n = 0
            while time.monotonic() < until:
                with suppress(Deposed, Busy):
                    mine.take_epoch(T0)
                    while time.monotonic() < until:
                        n += 1
                        row = Receipt(f"{me}-{n}", mine.epoch, True, False, "")
                        mine.write(Changes(), settled=[row])

    rivals = [threading.Thread(target=rule, args=(me,)) for me in range(4)]
    for each in rivals:
        each.start()
    for each in rivals:
        each.join()
    return [int(str(at)) for (at,) in ask(name, "SELECT at FROM receipts ORDER BY id")]


def test_a_responder_never_writes_after_another_has_taken_the_ledger(name: str) -> None:
    wrote = rivals(name, Ledger, 2)
    assert len(set(wrote)) > 1, "they did take it from one another"
    assert wrote == sorted(wrote)


@pytest.mark.parametrize("new_ledger", ["postgresql"], indirect=True)
def test_looking_at_the_epoch_without_holding_it_lets_a_zombie_write(name: str) -> None:
    """In SQLite every writer is alone."""
    assert any(wrote != sorted(wrote) for wrote in (rivals(name, Unguarded, 2) for _ in range(10)))


def test_a_commit_whose_answer_was_lost_is_written_again_and_stands_once(ledger: Ledger) -> None:
    ledger.take_epoch(T0)
    row = Receipt("a", T0, True, False, "HTTP 200")
    for _ in range(2):
        ledger.write(Changes(), decided=[("0" * 16, T0, None, "decided")], settled=[row])
    with ledger._database.transaction() as connection:
        assert len(connection.execute(select(receipts)).all()) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/db", "postgresql://u@127.0.0.1:1/db: connection failed"),
        ("postgresql://u@127.0.0.1:1/db?password=s3cret", "postgresql://u@127.0.0.1:1/db: connection failed"),
        ("postgresql://u:p@s3cret@127.0.0.1/db", "a ledger is a file's path or postgresql://"),
        ("postgresql://u:s3cret@127.0.0.1:x3cret/db", "a ledger is a file's path or postgresql://"),
        ("postgresql://u:s3cret@127.0.0.1", "a ledger is a file's path or postgresql://"),
        ("mysql://u:s3cret@127.0.0.1/db", "a ledger is a file's path or postgresql://"),
    ],
)
@pytest.mark.parametrize("command", ["stop", "run", "responder"])
def test_a_ledger_that_cannot_be_is_said_without_its_password(command: str, name: str, said: str) -> None:
    given = burnguard(command, "--ledger", name)
    assert given.exit_code == 1
    assert said in given.output
    assert "3cret" not in given.output
    assert isinstance(given.exception, SystemExit)


def test_a_wrong_password_and_a_database_that_is_not_utf8_are_said(postgres: Postgres) -> None:
    said = burnguard("stop", "--ledger", postgres.url().replace(postgres.password, "s3cret")).output
    assert 'password authentication failed for user "burnguard"' in said
    assert "s3cret" not in said
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert (
        "the database's encoding is LATIN1; a ledger needs UTF8" in burnguard("run", "--ledger", postgres.url("latin")).output
    )
