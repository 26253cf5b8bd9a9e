"""add an index that finds the databases of a server."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_databases_server", "databases", ["server"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_databases_server", table_name="databases")
