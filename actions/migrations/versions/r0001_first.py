"""The tables of before there were revisions. A ledger that has them already is left as it is, and is of this revision."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, String, Table, Text

revision = "0001"
down_revision = None

tables = MetaData()
Table("epoch", tables, Column("id", Integer, primary_key=True), Column("epoch", Integer), Column("beat", BigInteger))
Table(
    "signals",
    tables,
    Column("id", String(16), primary_key=True),
    Column("at", BigInteger),
    Column("incident", String(16)),
    Column("fate", String(16)),
)
Table(
    "incidents",
    tables,
    Column("id", String(16), primary_key=True),
    Column("state", String(16), index=True),
    Column("at", BigInteger),
    Column("resolved_at", BigInteger, index=True),
    Column("row", Text),
)
Table(
    "orders",
    tables,
    Column("id", String(16), primary_key=True),
    Column("incident", String(16), index=True),
    Column("state", String(16)),
    Column("row", Text),
)
Table(
    "deliveries",
    tables,
    Column("webhook_id", String(16), primary_key=True),
    Column("order", String(16), index=True),
    Column("sequence", BigInteger, index=True),
    Column("done", Boolean, index=True),
    Column("row", Text),
)
Table("receipts", tables, Column("id", Integer, primary_key=True), Column("webhook_id", String(16)), Column("row", Text))
Table("happenings", tables, Column("id", Integer, primary_key=True), Column("at", BigInteger), Column("verb", String(16)))
Table("positions", tables, Column("id", Integer, primary_key=True), Column("next", BigInteger))
Table("folds", tables, Column("id", Integer, primary_key=True), Column("next", BigInteger), Column("blob", LargeBinary))


def upgrade() -> None:
    """What is missing is made."""
    tables.create_all(op.get_bind())
