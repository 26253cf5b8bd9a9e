"""add the history: minutes of pools, and resets of databases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    instant = sa.DateTime(timezone=True)
    json = postgresql.JSONB(astext_type=sa.Text())
    op.create_table(
        "pool_minutes",
        sa.Column("at", instant, nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("databases", json, comment="how many in each state, as last seen"),
        sa.Column("waiting", sa.Integer(), nullable=False, comment="at most"),
        sa.Column(
            "waits",
            postgresql.ARRAY(sa.Integer()),
            nullable=False,
            comment="grants by their duration, for each bucket of durations.BOUNDS",
        ),
        sa.Column("resets", postgresql.ARRAY(sa.Integer()), nullable=False, comment="resets, likewise"),
        sa.Column("paths", json, nullable=False, comment="resets by their path"),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("at", "pool_id", name=op.f("pk_pool_minutes")),
    )
    op.create_index("ix_pool_minutes_pool_id", "pool_minutes", ["pool_id", "at"])
    op.create_table(
        "resets",
        sa.Column("at", instant, nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("database_id", sa.Uuid(), nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.Uuid(), comment="whose leavings it removed"),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("leftovers", json),
        sa.PrimaryKeyConstraint("at", "id", name=op.f("pk_resets")),
    )
    op.create_index("ix_resets_database_id", "resets", ["database_id", "at"])
    op.create_index(
        "ix_resets_left_behind",
        "resets",
        ["at", "id"],
        postgresql_where=sa.text("leftovers IS NOT NULL"),
    )
    op.create_index("ix_leases_database_id", "leases", ["database_id", "generation"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_leases_database_id", table_name="leases")
    op.drop_table("resets")
    op.drop_table("pool_minutes")
