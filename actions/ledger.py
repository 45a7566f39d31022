"""The ledger: incidents, orders, deliveries, receipts and happenings, durable in SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from sqlalchemy import Connection, Integer, Table, and_, delete, func, insert, inspect, literal_column, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from actions.database import BUSY_S, Database, alone, insert_into, located, take_your_time
from actions.database import BadLedger as BadLedger
from actions.database import Busy as Busy
from actions.incidents import Changes
from actions.tables import (
    REVISION,
    deliveries,
    epochs,
    folds,
    happenings,
    incidents,
    orders,
    positions,
    receipts,
    signals,
    tables,
    usage,
    versions,
)
from actions.usage import HOUR, Anew, Used
from schemas.batch import Ms
from schemas.incidents import Incident, IncidentState
from schemas.orders import Delivery, Order, Receipt
from schemas.rollup import MEASURES

Thing = TypeVar("Thing", Incident, Order, Delivery)
MOST_VALUES = 10_000
"""In one statement; SQLite takes 32,766."""
SIGNAL = ("id", "at", "incident", "fate")
Fate = Literal["decided", "stale"]
Happening = Literal["stop", "release"]
Upsert: TypeAlias = sqlite.Insert | postgresql.Insert
DAY = 24
"""Hours"""


class Deposed(Exception):
    """Another responder has taken the ledger; this one writes nothing any more."""


class Ledger:
    """A file, by its path (or `sqlite://`, in memory), or a PostgreSQL database, by its URL; made where it is not there.

    Every write checks that the epoch is still ours, in its own transaction. An update of the epoch's row begins it, so
    that writers are one after the other in both databases. Every method may raise BadLedger, and Busy after having waited
    for `wait_s`. What others keep locked can still be read.
    """

    def __init__(self, name: str, wait_s: float = BUSY_S, must_exist: bool = False) -> None:
        self._database = Database(located(name), wait_s)
        self._epoch = 0
        try:
            self._open(must_exist)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the database back."""
        self._database.engine.dispose()

    @property
    def path(self) -> Path:
        """Whoever keeps files of its own keeps them beside this one; where there is none, it is in the working folder."""
        return self._database.path

    @property
    def epoch(self) -> int:
        """Our epoch; 0 before `take_epoch`."""
        return self._epoch

    def take_epoch(self, now: Ms) -> None:
        """Become the one responder that may write. In the same transaction an older ledger is brought to our tables, so
        that whoever wrote it until now is deposed before it could meet tables that it does not know."""
        with self._database.transaction() as connection:
            first = insert_into(connection, epochs).values(id=1, epoch=1, beat=now)
            next_one = {"epoch": epochs.c.epoch + 1, "beat": now}
            taken = first.on_conflict_do_update(index_elements=[epochs.c.id], set_=next_one).returning(epochs.c.epoch)
            epoch = connection.execute(taken).scalar_one()
            if _revision(connection) != REVISION:
                from actions.migrations import upgrade  # Alembic is slow to import, and `stop` must be fast

                take_your_time(connection)
                upgrade(connection, self._database.name)
        self._epoch = epoch

    def beat(self, now: Ms, position: int | None = None) -> None:
        """Say that we live, and how far we have read. Raises Deposed."""
        with self._database.transaction() as connection:
            self._hold(connection, now)
            _keep_position(connection, position)

    def resign(self) -> None:
        """Say that nobody lives here any more. Raises Deposed."""
        self.beat(0)

    def last_beat(self) -> Ms | None:
        """When a responder last said that it lives; 0 where it has resigned, None where there never was one."""
        with self._database.transaction(reads=True) as connection:
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
        with self._database.transaction() as connection:
            self._hold(connection, now)
            _keep_position(connection, position)
            _put(connection, signals, [dict(zip(SIGNAL, signal, strict=True)) for signal in decided])
            _put(connection, incidents, [_incident(i) for i in changes.incidents.values()])
            _put(connection, orders, [_order(o) for o in changes.orders.values()])
            _put(connection, deliveries, [_delivery(d) for d in changes.deliveries.values()])
            _put_receipts(connection, settled)
            if anew is not None:
                connection.execute(delete(usage).where(usage.c.source == anew[0], usage.c.counted >= anew[1]))
            if used:
                _execute_plainly(connection, _raise_usage(connection), used)

    def position(self) -> int | None:
        """The offset after the last record of signals and pulses that was taken in; None before the first."""
        with self._database.transaction(reads=True) as connection:
            return connection.execute(select(positions.c.next)).scalar()

    def keep_fold(self, after: int, blob: bytes, position: int | None) -> None:
        """What was folded of the pulses before the offset `after`. Raises Deposed."""
        with self._database.transaction() as connection:
            self._hold(connection, None)
            _keep_position(connection, position)
            _put(connection, folds, [{"id": 1, "next": after, "blob": blob}])

    def fold(self) -> tuple[int, bytes] | None:
        """What `keep_fold` was given last."""
        with self._database.transaction(reads=True) as connection:
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
        with self._database.transaction(reads=True) as connection:
            found = connection.execute(select(*keys, *sums).where(*wanted).group_by(*keys)).all()
        return [(*row[: len(by)], *(int(value) for value in row[len(by) :])) for row in found if row[-1] is not None]

    def forget_usage(self, days: int, now: Ms) -> None:
        """Delete what is older than so many days before the newest hour, at most one day of it. Raises Deposed.

        Calls of a file may be old: what counts is the newest hour that there is, unless that is yet to come.
        """
        with self._database.transaction(reads=True) as connection:
            oldest, newest = connection.execute(select(func.min(usage.c.hour), func.max(usage.c.hour))).one()
        keep = None if newest is None else min(newest, now // HOUR) - days * DAY
        if keep is not None and oldest < keep:
            with self._database.transaction() as connection:
                self._hold(connection, None)
                connection.execute(delete(usage).where(usage.c.hour < min(keep, oldest + DAY)))

    def knows(self, ids: Sequence[str]) -> set[str]:
        """Which of these signals were decided before."""
        known: set[str] = set()
        with self._database.transaction(reads=True) as connection:
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
        with self._database.transaction(reads=True) as connection:
            found = connection.execute(select(incidents.c.row).where(matters)).scalars().all()
            mine = select(incidents.c.id).where(matters)
            given = connection.execute(select(orders.c.row).where(orders.c.incident.in_(mine))).scalars().all()
            left = select(deliveries.c.row).where(waiting).order_by(deliveries.c.sequence)
            sent = connection.execute(left).scalars().all()
            newest = connection.execute(select(func.max(deliveries.c.sequence))).scalar()
        return _read(found, Incident), _read(given, Order), _read(sent, Delivery), newest or 0

    def happen(self, verb: Happening, now: Ms) -> None:
        """What a person says; any process may."""
        with self._database.transaction() as connection:
            alone(connection)  # so that the newest by number is the last that was written
            connection.execute(insert(happenings).values(at=now, verb=verb))

    def newest_happening(self) -> Happening | None:
        """The last thing that a person said."""
        with self._database.transaction(reads=True) as connection:
            newest = select(happenings.c.verb).order_by(happenings.c.id.desc()).limit(1)
            found: Happening | None = connection.execute(newest).scalar()
            return found

    def _open(self, must_exist: bool) -> None:
        if self._database.may_be_there and self._is_there():
            return
        if must_exist:
            raise BadLedger(f"{self._database.name}: no such ledger; name the one that the responder uses with --ledger")
        self._make()

    def _is_there(self) -> bool:
        """Whether somebody made it before. Raises BadLedger where it was made by a newer version, or is another program's."""
        with self._database.transaction(reads=True) as connection:
            found = set(inspect(connection).get_table_names()) & set(tables.tables)
            if found and _revision(connection) != REVISION:
                from actions.migrations import check  # see take_epoch

                check(connection, self._database.name)
            return bool(found)

    def _make(self) -> None:
        with self._database.transaction() as connection:
            alone(connection)
            if not inspect(connection).has_table(versions.name):  # else another was faster
                tables.create_all(connection, checkfirst=False)
                connection.execute(insert(versions).values(version_num=REVISION))

    def _hold(self, connection: Connection, now: Ms | None) -> None:
        beat = {} if now is None else {"beat": now}
        mine = update(epochs).where(epochs.c.epoch == self._epoch).values(epoch=self._epoch, **beat)
        if connection.execute(mine).rowcount != 1:
            raise Deposed(f"epoch {self._epoch} is over: another responder has taken the ledger")


def _revision(connection: Connection) -> str | None:
    """Which tables it has; None where it is of before there were revisions."""
    if not inspect(connection).has_table(versions.name):
        return None
    return connection.execute(select(versions.c.version_num)).scalar()


def _keep_position(connection: Connection, position: int | None) -> None:
    if position is not None:
        _put(connection, positions, [{"id": 1, "next": position}])


def _put_receipts(connection: Connection, settled: Iterable[Receipt]) -> None:
    """Those that are not there yet: they are, if the commit before this one did succeed and only its answer was lost."""
    rows = [{"webhook_id": r.webhook_id, "at": r.at, "row": _row(r)} for r in settled]
    if rows:
        attempt = [receipts.c.webhook_id, receipts.c.at]
        connection.execute(insert_into(connection, receipts).on_conflict_do_nothing(index_elements=attempt), rows)


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert whole rows, or put them in the place of those with the same key."""
    if rows:
        fresh = insert_into(connection, table)
        values = {column.name: column for column in fresh.excluded}
        connection.execute(fresh.on_conflict_do_update(index_elements=table.primary_key.columns, set_=values), rows)


def _execute_plainly(connection: Connection, statement: Upsert, rows: Sequence[Used]) -> None:
    """Numbers and texts go to the driver as they are: what SQLAlchemy does for each takes longer than the database."""
    compiled = statement.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    order = compiled.positiontup
    values = list(rows) if order is None else [tuple(row[name] for name in order) for row in rows]
    connection.exec_driver_sql(str(compiled), values)


def _raise_usage(connection: Connection) -> Upsert:
    """Insert rows of usage, or put those in that hold more than what is there: a cell's values only grow, and the calls
    are their age. Where both have as many (priced anew by a replay), the dearer holds, whoever says it last."""
    fresh = insert_into(connection, usage)
    new, old = fresh.excluded, usage.c
    later = or_(new.calls > old.calls, and_(new.calls == old.calls, new.usd > old.usd))
    values = {name: new[name] for name in (*MEASURES, "price_version")}
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
