"""keep the log and the warnings of a template's build."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply."""
    comment = "output of the build command, or PostgreSQL's messages to the SQL"
    op.add_column("templates", sa.Column("log", sa.Text, comment=comment))
    op.add_column(
        "templates", sa.Column("warnings", JSONB, nullable=False, server_default=sa.text("'[]'::jsonb"))
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("templates", "warnings")
    op.drop_column("templates", "log")
