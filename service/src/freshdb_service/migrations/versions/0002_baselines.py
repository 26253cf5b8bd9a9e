"""store the state of clean databases, for cheaper resets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "databases",
        sa.Column(
            "mark",
            postgresql.JSONB(astext_type=sa.Text()),
            comment="when it was last clean; none if that was not noted",
        ),
    )
    op.create_table(
        "baselines",
        sa.Column("database_id", sa.Uuid(), nullable=False),
        sa.Column(
            "baseline",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="what it was like when it was made",
        ),
        sa.ForeignKeyConstraint(
            ["database_id"],
            ["databases.id"],
            name=op.f("fk_baselines_database_id_databases"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("database_id", name=op.f("pk_baselines")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("baselines")
    op.drop_column("databases", "mark")
