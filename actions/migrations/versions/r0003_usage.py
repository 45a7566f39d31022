"""Hourly usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAMES = ("source", "tenant", "key_id", "provider", "model", "feature", "operation", "tier")
TOKENS = ("fresh", "cached", "cache_write", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output")


def upgrade() -> None:
    """A new table, empty."""
    op.create_table(
        "usage",
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cell", sa.String(32), primary_key=True),
        sa.Column("counted", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in NAMES),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("calls", "usd", "guessed_usd", *TOKENS, "web_searches")
        ),
        sqlite_with_rowid=False,
    )
