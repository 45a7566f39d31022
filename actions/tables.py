"""The ledger's tables as this version writes them; `actions/migrations` brings older ledgers here."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from actions.usage import DIMENSIONS
from schemas.rollup import MEASURES, UNKNOWN

REVISION = "0004"
"""What these tables are called in `versions`: the newest script of `actions/migrations`."""
tables = MetaData()


def _one_row() -> Column[int]:
    """The key of a table that has the one row 1."""
    return Column("id", Integer, primary_key=True, autoincrement=False)


versions = Table(
    "alembic_version",
    tables,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
epochs = Table("epoch", tables, _one_row(), Column("epoch", Integer), Column("beat", BigInteger))
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
    "receipts",
    tables,
    Column("id", Integer, primary_key=True),
    Column("webhook_id", String(16)),
    Column("row", Text),
    Column("at", BigInteger),
    Index("ix_receipts_attempt", "webhook_id", "at", unique=True),
)
happenings = Table(
    "happenings", tables, Column("id", Integer, primary_key=True), Column("at", BigInteger), Column("verb", String(16))
)
positions = Table("positions", tables, _one_row(), Column("next", BigInteger))
folds = Table("folds", tables, _one_row(), Column("next", BigInteger), Column("blob", LargeBinary))
usage = Table(
    "usage",
    tables,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("cell", String(32), primary_key=True),
    Column("source", Text, nullable=False),
    Column("counted", Integer, nullable=False),
    *(Column(name, Text, nullable=False) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in MEASURES),
    Column("price_version", Text, nullable=False, server_default=UNKNOWN),
    sqlite_with_rowid=False,
)
"""By epoch hour; `cell` is the hash of everything else that tells a row apart: where its calls come from, too."""
