"""How a ledger of an earlier version is brought to today's tables: Alembic's scripts, run in the transaction of who calls."""

from __future__ import annotations

import itertools
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect

from actions.database import BadLedger
from actions.migrations.versions import r0001_first

HERE = Path(__file__).parent


def check(connection: Connection, name: str) -> None:
    """Raises BadLedger, which begins with this name, where `upgrade` could not begin."""
    revision = _context(connection).get_current_revision()
    _missing(revision, name)
    if revision is None:
        _check_first(connection, name)


def upgrade(connection: Connection, name: str) -> None:
    """Bring the tables to the newest revision, in the caller's transaction. Raises BadLedger as `check` does."""
    check(connection, name)
    context = _context(connection)
    with Operations.context(context):
        for script in _missing(context.get_current_revision(), name):
            script.module.upgrade()
            context.stamp(_scripts(), script.revision)


def newest() -> str | None:
    """The newest revision."""
    return _scripts().get_current_head()


def _missing(revision: str | None, name: str) -> list[Script]:
    """The scripts after this revision, oldest first."""
    scripts = list(_scripts().walk_revisions())
    if revision is not None and revision not in [script.revision for script in scripts]:
        why = f"its tables are of revision {revision}, this Burnguard knows up to {newest()}: a newer one wrote them"
        raise BadLedger(f"{name}: {why}")
    return list(itertools.takewhile(lambda script: script.revision != revision, scripts))[::-1]


def _check_first(connection: Connection, name: str) -> None:
    """A ledger without a revision is one of before there were any, with the tables of the first."""
    found = inspect(connection)
    for table in r0001_first.tables.sorted_tables:
        if found.has_table(table.name):
            columns = {column["name"] for column in found.get_columns(table.name)}
            if columns != set(table.columns.keys()):
                why = f"its table {table.name} is none that a Burnguard since 0.1 made"
                raise BadLedger(f"{name}: {why}; give the ledger a place of its own")


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"transactional_ddl": True})


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(HERE)
