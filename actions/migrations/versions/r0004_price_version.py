"""By which price book usage was priced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Of what is there nobody knows it."""
    op.add_column("usage", sa.Column("price_version", sa.Text, nullable=False, server_default="unknown"))
