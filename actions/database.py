"""Where a ledger's tables are, a SQLite file or a PostgreSQL database: names, transactions, and what their failures mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError
from sqlalchemy.pool import StaticPool

BUSY_S = 5.0
"""Shorter than the session of the responders' group: waiting for the ledger must not cost the election."""
FROZEN_S = 5.0
"""A PostgreSQL server ends a transaction whose process has said nothing for so long, so that another can go on. Shorter
than that session, too: when another is elected, the lock of one that froze in a transaction is gone."""
LEAST_CONNECT_S = 2
"""PostgreSQL's clients wait no less for a connection."""
PASSES = ("08", "25", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that say nothing against the ledger: connection, read only or idle for too long, deadlock, out of
resources, locked, shut down or cancelled, disk."""


class Busy(Exception):
    """The ledger cannot be written now (another process keeps it locked, its disk is full, its server is away); what was to
    be written was not, or is written again by who writes it again."""


class BadLedger(Exception):
    """There is no ledger of this name, or it may not be read or written."""


def located(name: str) -> URL:
    """A ledger's URL, from a file's path or a URL. Raises BadLedger, which never repeats a URL that may hold a password."""
    if "://" not in name:
        return URL.create("sqlite", database=name)
    try:
        url = make_url(name)
    except (ArgumentError, ValueError):
        url = URL.create("unreadable")
    if url.drivername == "sqlite":
        return url
    if url.drivername not in ("postgresql", "postgresql+psycopg") or not url.database or "@" in (url.host or ""):
        raise BadLedger(
            "a ledger is a file's path or postgresql://user@host/database (in a password, %40 stands for @ and %2F for /)"
        ) from None
    return url.set(drivername="postgresql+psycopg")


class Database:
    """One file (or `sqlite://` in memory), or one PostgreSQL database. `wait_s` is how long it waits for another's lock."""

    def __init__(self, url: URL, wait_s: float) -> None:
        self.engine: Engine = _sqlite(url, wait_s) if url.drivername == "sqlite" else _postgresql(url, wait_s)
        self.name = _name(url)

    @property
    def path(self) -> Path:
        """The file; for what has none, one of its name in the working folder."""
        url = self.engine.url
        return Path(url.database or "burnguard") if url.drivername == "sqlite" else Path(f"{url.database}.postgresql")

    @property
    def may_be_there(self) -> bool:
        """False where there is not even a file: asking would make it."""
        return self.engine.dialect.name == "postgresql" or self.path.exists()

    @contextmanager
    def transaction(self, reads: bool = False) -> Iterator[Connection]:
        """May raise Busy, after having waited, and BadLedger; then nothing is written. What it reads is of one moment."""
        options: dict[str, Any] = {"reads": reads}
        if reads and self.engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        try:
            with self.engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except IntegrityError:
            raise
        except (DatabaseError, sqlite3.DatabaseError) as error:
            kind = Busy if _passes(error) else BadLedger
            raise kind(f"{self.name}: {_said(error)}") from error


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that may say what to do on conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def alone(connection: Connection) -> None:
    """Whoever else is alone in a transaction waits for the end of this one. In SQLite every writer is alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('burnguard ledger'))"))


def take_your_time(connection: Connection) -> None:
    """A statement of this transaction may last."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))


def _name(url: URL) -> str:
    if url.drivername == "sqlite":
        return str(url.database)
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()


def _sqlite(url: URL, wait_s: float) -> Engine:
    options: dict[str, Any] = {} if url.database else {"poolclass": StaticPool}
    engine = create_engine(url, connect_args={"timeout": wait_s, "check_same_thread": False}, **options)
    event.listen(engine, "connect", _durable)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _durable(connection: Any, record: Any) -> None:
    """WAL, synchronous=FULL: what was written survives a power cut; we begin transactions ourselves."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _postgresql(url: URL, wait_s: float) -> Engine:
    """What the URL says of the connection goes over what we say."""
    ours = {
        "application_name": "burnguard",
        "connect_timeout": max(LEAST_CONNECT_S, round(wait_s)),
        "keepalives_idle": 2,  # a server that has vanished is noticed within BUSY_S
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": round(BUSY_S * 1000),
    }
    arguments = {name: value for name, value in ours.items() if name not in url.query}
    engine = create_engine(url, connect_args=arguments, isolation_level="READ COMMITTED", pool_pre_ping=True)

    def limited(connection: Any, record: Any) -> None:
        """No lock, statement or silence within a transaction lasts; what was committed survives a power cut."""
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise BadLedger(f"{_name(url)}: the database's encoding is {encoding}; a ledger needs UTF8")
        limits = {
            "lock_timeout": wait_s,
            "statement_timeout": BUSY_S,
            "idle_in_transaction_session_timeout": FROZEN_S,
        }
        chosen = ", ".join(f"set_config('{name}', '{round(seconds * 1000)}', false)" for name, seconds in limits.items())
        connection.autocommit = True
        connection.execute(f"SELECT {chosen}")
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.autocommit = False

    event.listen(engine, "connect", limited)
    return engine


def _passes(error: DatabaseError | sqlite3.DatabaseError) -> bool:
    """Whether it may pass, and the ledger be as good as ever."""
    wrong = error.orig if isinstance(error, DatabaseError) else error
    if isinstance(wrong, sqlite3.Error):
        return "locked" in str(wrong) or "disk" in str(wrong)
    state = getattr(wrong, "sqlstate", None)
    return state is None or state.startswith(PASSES)  # None: there was nobody to say one


def _said(error: DatabaseError | sqlite3.DatabaseError) -> str:
    """One line, without the values of the statement."""
    wrong = error.orig if isinstance(error, DatabaseError) else error
    primary = getattr(getattr(wrong, "diag", None), "message_primary", None)
    return " ".join((primary or str(wrong)).split())
