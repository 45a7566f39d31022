"""The ledger: incidents, orders, deliveries, receipts and happenings, durable in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.pool import StaticPool

from actions.incidents import Changes
from schemas.batch import Ms
from schemas.incidents import Incident, IncidentState
from schemas.orders import Delivery, Order, Receipt

Thing = TypeVar("Thing", Incident, Order, Delivery)
tables = MetaData()
epochs = Table("epoch", tables, Column("id", Integer, primary_key=True), Column("epoch", Integer), Column("beat", BigInteger))
signals = Table(
    "signals",
    tables,
    Column("id", String(16), primary_key=True),
    Column("at", BigInteger),
    Column("incident", String(16)),
    Column("fate", String(16)),
)
incidents = Table(
    "incidents",
    tables,
    Column("id", String(16), primary_key=True),
    Column("state", String(16), index=True),
    Column("at", BigInteger),
    Column("row", Text),
)
orders = Table(
    "orders",
    tables,
    Column("id", String(16), primary_key=True),
    Column("incident", String(16), index=True),
    Column("state", String(16)),
    Column("row", Text),
)
deliveries = Table(
    "deliveries",
    tables,
    Column("webhook_id", String(16), primary_key=True),
    Column("order", String(16), index=True),
    Column("sequence", BigInteger),
    Column("row", Text),
)
receipts = Table(
    "receipts", tables, Column("id", Integer, primary_key=True), Column("webhook_id", String(16)), Column("row", Text)
)
happenings = Table(
    "happenings", tables, Column("id", Integer, primary_key=True), Column("at", BigInteger), Column("verb", String(16))
)
positions = Table("positions", tables, Column("id", Integer, primary_key=True), Column("next", BigInteger))
folds = Table(
    "folds", tables, Column("id", Integer, primary_key=True), Column("next", BigInteger), Column("blob", LargeBinary)
)

BUSY_S = 5
"""Shorter than the session of the responders' group: waiting for the ledger must not cost the election."""
Fate = Literal["decided", "stale"]
Happening = Literal["stop", "release"]


class Deposed(Exception):
    """Another responder has taken the ledger; this one writes nothing any more."""


class Busy(Exception):
    """The ledger cannot be written now (another process keeps it locked, its disk is full); what was to be was not."""


class BadLedger(Exception):
    """The file is no ledger, or may not be read or written."""


class Ledger:
    """One file (or `sqlite://` in memory). Every write checks that the epoch is still ours, in its own transaction.

    Every method may raise BadLedger, and Busy after having waited for `wait_s`. What others keep locked can still be read.
    """

    def __init__(self, url: str, wait_s: float = BUSY_S) -> None:
        options: dict[str, Any] = {"poolclass": StaticPool} if url == "sqlite://" else {}
        self._engine: Engine = create_engine(url, connect_args={"timeout": wait_s, "check_same_thread": False}, **options)
        event.listen(self._engine, "connect", _durable)
        event.listen(self._engine, "begin", _begin)
        self._epoch = 0
        with self._transaction() as connection:
            tables.create_all(connection)

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    @property
    def epoch(self) -> int:
        """Our epoch; 0 before `take_epoch`."""
        return self._epoch

    def take_epoch(self, now: Ms) -> None:
        """Become the one responder that may write."""
        with self._transaction() as connection:
            held = connection.execute(select(epochs.c.epoch)).scalar()
            self._epoch = (held or 0) + 1
            if held is None:
                connection.execute(insert(epochs).values(id=1, epoch=self._epoch, beat=now))
            else:
                connection.execute(update(epochs).values(epoch=self._epoch, beat=now))

    def beat(self, now: Ms, position: int | None = None) -> None:
        """Say that we live, and how far we have read. Raises Deposed."""
        with self._transaction() as connection:
            self._hold(connection, now)
            _keep_position(connection, position)

    def resign(self) -> None:
        """Say that nobody lives here any more. Raises Deposed."""
        self.beat(0)

    def last_beat(self) -> Ms | None:
        """When a responder last said that it lives; 0 where it has resigned, None where there never was one."""
        with self._transaction(reads=True) as connection:
            return connection.execute(select(epochs.c.beat)).scalar()

    def write(
        self,
        changes: Changes,
        decided: Iterable[tuple[str, Ms, str | None, Fate]] = (),
        settled: Iterable[Receipt] = (),
        now: Ms | None = None,
        position: int | None = None,
    ) -> None:
        """All that one step changed, and the offset after what it heard, in one transaction.

        Raises Deposed and writes nothing if the epoch is not ours.
        """
        with self._transaction() as connection:
            self._hold(connection, now)
            _keep_position(connection, position)
            for signal in decided:
                _put(connection, signals, dict(zip(("id", "at", "incident", "fate"), signal, strict=True)))
            for i in changes.incidents.values():
                _put(connection, incidents, {"id": i.id, "state": i.state.value, "at": i.opened_at, "row": _row(i)})
            for o in changes.orders.values():
                _put(connection, orders, {"id": o.id, "incident": o.incident, "state": o.state.value, "row": _row(o)})
            for d in changes.deliveries.values():
                values = {"webhook_id": d.webhook_id, "order": d.order, "sequence": d.sequence, "row": _row(d)}
                _put(connection, deliveries, values)
            for r in settled:
                connection.execute(insert(receipts).values(webhook_id=r.webhook_id, row=_row(r)))

    def position(self) -> int | None:
        """The offset after the last record of signals and pulses that was taken in; None before the first."""
        with self._transaction(reads=True) as connection:
            return connection.execute(select(positions.c.next)).scalar()

    def keep_fold(self, after: int, blob: bytes, position: int | None) -> None:
        """What was folded of the pulses before the offset `after`. Raises Deposed."""
        with self._transaction() as connection:
            self._hold(connection, None)
            _keep_position(connection, position)
            _put(connection, folds, {"id": 1, "next": after, "blob": blob})

    def fold(self) -> tuple[int, bytes] | None:
        """What `keep_fold` was given last."""
        with self._transaction(reads=True) as connection:
            row = connection.execute(select(folds.c.next, folds.c.blob)).first()
            return None if row is None else (row[0], row[1])

    def knows(self, ids: Sequence[str]) -> set[str]:
        """Which of these signals were decided before."""
        with self._transaction(reads=True) as connection:
            return set(connection.execute(select(signals.c.id).where(signals.c.id.in_(ids))).scalars())

    def load(self, resolved_since: Ms) -> tuple[list[Incident], list[Order], list[Delivery]]:
        """Incidents that live (or resolved lately), with their orders and deliveries."""
        with self._transaction() as connection:
            rows = connection.execute(select(incidents.c.row)).scalars().all()
            live = [i for i in _read(rows, Incident) if _matters(i, resolved_since)]
            mine = {i.id for i in live}
            kept = [o for o in _read(connection.execute(select(orders.c.row)).scalars().all(), Order) if o.incident in mine]
            sent = _read(
                connection.execute(select(deliveries.c.row).order_by(deliveries.c.sequence)).scalars().all(), Delivery
            )
            wanted = {o.id for o in kept}
            return live, kept, [d for d in sent if d.order in wanted or d is sent[-1]]

    def happen(self, verb: Happening, now: Ms) -> None:
        """What a person says; any process may."""
        with self._transaction() as connection:
            connection.execute(insert(happenings).values(at=now, verb=verb))

    def newest_happening(self) -> Happening | None:
        """The last thing that a person said."""
        with self._transaction(reads=True) as connection:
            newest = select(happenings.c.verb).order_by(happenings.c.id.desc()).limit(1)
            found: Happening | None = connection.execute(newest).scalar()
            return found

    @contextmanager
    def _transaction(self, reads: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(reads=reads) as connection, connection.begin():
                yield connection
        except IntegrityError:
            raise
        except (DatabaseError, sqlite3.DatabaseError) as error:
            said = str(error.orig if isinstance(error, DatabaseError) else error)
            kind = Busy if "locked" in said or "disk" in said else BadLedger
            raise kind(f"{self._engine.url.database}: {said}") from error

    def _hold(self, connection: Connection, now: Ms | None) -> None:
        beat = {} if now is None else {"beat": now}
        mine = update(epochs).where(epochs.c.epoch == self._epoch).values(epoch=self._epoch, **beat)
        if connection.execute(mine).rowcount != 1:
            raise Deposed(f"epoch {self._epoch} is over: another responder has taken the ledger")


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _durable(connection: Any, record: Any) -> None:
    """WAL, synchronous=FULL: what was written survives a power cut; we begin transactions ourselves."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _keep_position(connection: Connection, position: int | None) -> None:
    if position is not None:
        _put(connection, positions, {"id": 1, "next": position})


def _put(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    connection.execute(
        upsert(table).values(values).on_conflict_do_update(index_elements=table.primary_key.columns, set_=values)
    )


def _row(thing: object) -> str:
    return msgspec.json.encode(thing).decode()


def _read(rows: Sequence[str], kind: type[Thing]) -> list[Thing]:
    return [msgspec.json.decode(row, type=kind) for row in rows]


def _matters(incident: Incident, resolved_since: Ms) -> bool:
    return incident.state is not IncidentState.RESOLVED or (incident.resolved_at or 0) >= resolved_since
