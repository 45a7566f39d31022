"""The ledger: incidents, orders, deliveries, receipts and happenings, durable in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.pool import StaticPool

from actions.incidents import Changes
from actions.usage import DIMENSIONS, HOUR, Anew, Used
from schemas.batch import Ms
from schemas.incidents import Incident, IncidentState
from schemas.orders import Delivery, Order, Receipt
from schemas.rollup import MEASURES

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
    Column("resolved_at", BigInteger, index=True),
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
    Column("sequence", BigInteger, index=True),
    Column("done", Boolean, index=True),
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
usage = Table(
    "usage",
    tables,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("cell", String(32), primary_key=True),
    Column("source", Text, nullable=False),
    Column("counted", Integer, nullable=False),
    *(Column(name, Text, nullable=False) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in MEASURES),
    sqlite_with_rowid=False,
)
"""By epoch hour; `cell` is the hash of everything else that tells a row apart: where its calls come from, too."""

MOST_VALUES = 10_000
"""In one statement; SQLite takes 32,766."""
BUSY_S = 5
"""Shorter than the session of the responders' group: waiting for the ledger must not cost the election."""
SIGNAL = ("id", "at", "incident", "fate")
Fate = Literal["decided", "stale"]
Happening = Literal["stop", "release"]
DAY = 24
"""Hours"""


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

    def __init__(self, url: str, wait_s: float = BUSY_S) -> None:  # a ledger that has its tables is only read
        options: dict[str, Any] = {"poolclass": StaticPool} if url == "sqlite://" else {}
        self._engine: Engine = create_engine(url, connect_args={"timeout": wait_s, "check_same_thread": False}, **options)
        event.listen(self._engine, "connect", _durable)
        event.listen(self._engine, "begin", _begin)
        self._epoch = 0
        with self._transaction(reads=True) as connection:
            missing = tables.tables.keys() - set(inspect(connection).get_table_names())
        if missing:
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
        used: Sequence[Used] = (),
        anew: Anew | None = None,
        now: Ms | None = None,
        position: int | None = None,
    ) -> None:
        """All that one step changed, and the offset after what it heard, in one transaction.

        Usage is only ever raised, but for that of a source that is counted `anew`. Raises Deposed and writes nothing if the
        epoch is not ours.
        """
        with self._transaction() as connection:
            self._hold(connection, now)
            _keep_position(connection, position)
            _put(connection, signals, [dict(zip(SIGNAL, signal, strict=True)) for signal in decided])
            _put(connection, incidents, [_incident(i) for i in changes.incidents.values()])
            _put(connection, orders, [_order(o) for o in changes.orders.values()])
            _put(connection, deliveries, [_delivery(d) for d in changes.deliveries.values()])
            rows = [{"webhook_id": r.webhook_id, "row": _row(r)} for r in settled]
            if rows:
                connection.execute(insert(receipts), rows)
            if anew is not None:
                connection.execute(delete(usage).where(usage.c.source == anew[0], usage.c.counted >= anew[1]))
            if used:
                _execute_plainly(connection, _raise_usage(), used)

    def position(self) -> int | None:
        """The offset after the last record of signals and pulses that was taken in; None before the first."""
        with self._transaction(reads=True) as connection:
            return connection.execute(select(positions.c.next)).scalar()

    def keep_fold(self, after: int, blob: bytes, position: int | None) -> None:
        """What was folded of the pulses before the offset `after`. Raises Deposed."""
        with self._transaction() as connection:
            self._hold(connection, None)
            _keep_position(connection, position)
            _put(connection, folds, [{"id": 1, "next": after, "blob": blob}])

    def fold(self) -> tuple[int, bytes] | None:
        """What `keep_fold` was given last."""
        with self._transaction(reads=True) as connection:
            row = connection.execute(select(folds.c.next, folds.c.blob)).first()
            return None if row is None else (row[0], row[1])

    def usage(self, by: Sequence[str], hours: range, only: Mapping[str, Collection[str]]) -> list[tuple[Any, ...]]:
        """The sums of MEASURES in the epoch hours `hours`, grouped by DIMENSIONS, `hour` or `day` (epoch days); only what
        has one of the values of every dimension in `only`."""
        day = usage.c.hour // literal_column(
            str(DAY), Integer
        )  # no parameter: PostgreSQL would take two for different groups
        keys = [day if name == "day" else usage.c[name] for name in by]
        wanted = [usage.c.hour >= hours.start, usage.c.hour < hours.stop, *(usage.c[d].in_(v) for d, v in only.items())]
        sums = [func.sum(usage.c[name]) for name in MEASURES]
        with self._transaction(reads=True) as connection:
            found = connection.execute(select(*keys, *sums).where(*wanted).group_by(*keys)).all()
        return [(*row[: len(by)], *(int(value) for value in row[len(by) :])) for row in found if row[-1] is not None]

    def forget_usage(self, days: int, now: Ms) -> None:
        """Delete what is older than so many days before the newest hour, at most one day of it. Raises Deposed.

        Calls of a file may be old: what counts is the newest hour that there is, unless that is yet to come.
        """
        with self._transaction(reads=True) as connection:
            oldest, newest = connection.execute(select(func.min(usage.c.hour), func.max(usage.c.hour))).one()
        keep = None if newest is None else min(newest, now // HOUR) - days * DAY
        if keep is not None and oldest < keep:
            with self._transaction() as connection:
                self._hold(connection, None)
                connection.execute(delete(usage).where(usage.c.hour < min(keep, oldest + DAY)))

    def knows(self, ids: Sequence[str]) -> set[str]:
        """Which of these signals were decided before."""
        known: set[str] = set()
        with self._transaction(reads=True) as connection:
            for at in range(0, len(ids), MOST_VALUES):
                few = ids[at : at + MOST_VALUES]
                known |= set(connection.execute(select(signals.c.id).where(signals.c.id.in_(few))).scalars())
        return known

    def load(self, resolved_since: Ms) -> tuple[list[Incident], list[Order], list[Delivery], int]:
        """Incidents that live, resolved lately or have something on its way; their orders, what is on its way, and the
        highest sequence ever given."""
        waiting = deliveries.c.done.is_(False)
        on_its_way = select(orders.c.incident).join(deliveries, deliveries.c.order == orders.c.id).where(waiting)
        matters = or_(
            incidents.c.state != IncidentState.RESOLVED.value,
            incidents.c.resolved_at >= resolved_since,
            incidents.c.id.in_(on_its_way),
        )
        with self._transaction(reads=True) as connection:
            found = connection.execute(select(incidents.c.row).where(matters)).scalars().all()
            mine = select(incidents.c.id).where(matters)
            given = connection.execute(select(orders.c.row).where(orders.c.incident.in_(mine))).scalars().all()
            left = select(deliveries.c.row).where(waiting).order_by(deliveries.c.sequence)
            sent = connection.execute(left).scalars().all()
            newest = connection.execute(select(func.max(deliveries.c.sequence))).scalar()
        return _read(found, Incident), _read(given, Order), _read(sent, Delivery), newest or 0

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
        _put(connection, positions, [{"id": 1, "next": position}])


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert whole rows, or put them in the place of those with the same key."""
    if rows:
        fresh = upsert(table)
        values = {column.name: column for column in fresh.excluded}
        connection.execute(fresh.on_conflict_do_update(index_elements=table.primary_key.columns, set_=values), rows)


def _execute_plainly(connection: Connection, statement: Insert, rows: Sequence[Used]) -> None:
    """Numbers and texts go to the driver as they are: what SQLAlchemy does for each takes longer than the database."""
    compiled = statement.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    order = compiled.positiontup
    values = list(rows) if order is None else [tuple(row[name] for name in order) for row in rows]
    connection.exec_driver_sql(str(compiled), values)


def _raise_usage() -> Insert:
    """Insert rows of usage, or put those in that hold more than what is there: a cell's values only grow, and the calls
    are their age. Where both have as many (priced anew by a replay), the dearer holds, whoever says it last."""
    fresh = upsert(usage)
    new, old = fresh.excluded, usage.c
    later = or_(new.calls > old.calls, and_(new.calls == old.calls, new.usd > old.usd))
    values = {name: new[name] for name in MEASURES}
    return fresh.on_conflict_do_update(index_elements=usage.primary_key.columns, set_=values, where=later)


def _incident(i: Incident) -> dict[str, Any]:
    return {"id": i.id, "state": i.state.value, "at": i.opened_at, "resolved_at": i.resolved_at, "row": _row(i)}


def _order(o: Order) -> dict[str, Any]:
    return {"id": o.id, "incident": o.incident, "state": o.state.value, "row": _row(o)}


def _delivery(d: Delivery) -> dict[str, Any]:
    return {"webhook_id": d.webhook_id, "order": d.order, "sequence": d.sequence, "done": d.done, "row": _row(d)}


def _row(thing: object) -> str:
    return msgspec.json.encode(thing).decode()


def _read(rows: Sequence[str], kind: type[Thing]) -> list[Thing]:
    return [msgspec.json.decode(row, type=kind) for row in rows]
