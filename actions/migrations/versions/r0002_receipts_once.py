"""A receipt is known by its webhook and its time, so that one whose commit got no answer can be written again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

AT = {"sqlite": """json_extract("row", '$.at')""", "postgresql": """("row"::json ->> 'at')::bigint"""}
TWICE = "DELETE FROM receipts WHERE id NOT IN (SELECT min(id) FROM receipts GROUP BY webhook_id, at)"


def upgrade() -> None:
    """Every receipt gets its time; of those that stand twice the first stays."""
    op.add_column("receipts", sa.Column("at", sa.BigInteger))
    op.execute(f"UPDATE receipts SET at = {AT[op.get_bind().dialect.name]}")
    op.execute(TWICE)
    op.create_index("ix_receipts_attempt", "receipts", ["webhook_id", "at"], unique=True)
