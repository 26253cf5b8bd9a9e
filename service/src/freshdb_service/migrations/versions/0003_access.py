"""add tokens with their quotas, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_INSTANT = sa.DateTime(timezone=True)

_HOLD = """
CREATE FUNCTION token_hold(of_token uuid) RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_name text;
    its_limit integer;
BEGIN
    SELECT t.name, t.max_leases INTO its_name, its_limit FROM tokens t
    WHERE t.id = of_token AND t.revoked_at IS NULL
      AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp());
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF its_limit IS NULL THEN
        RETURN ARRAY['0', NULL];
    END IF;
    -- Grants of one token run one after the other, and the count below sees the leases that the one before has committed.
    SELECT t.max_leases INTO its_limit FROM tokens t
    WHERE t.id = of_token AND t.revoked_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY[(SELECT count(*)::text FROM leases l
                  WHERE l.principal = its_name AND l.state IN ('active', 'kept')), its_limit::text];
END
$$
"""


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="the principal"),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "hint",
            sa.Text(),
            nullable=False,
            comment="how the secret begins; to find the row by, and to show",
        ),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="of the secret, which is random and stored nowhere",
        ),
        sa.Column("previous_hint", sa.Text(), comment="of the secret before the last rotation"),
        sa.Column("previous_digest", sa.LargeBinary()),
        sa.Column("previous_until", _INSTANT),
        sa.Column("max_leases", sa.Integer()),
        sa.Column("max_databases", sa.Integer()),
        sa.Column("max_ttl_seconds", sa.Double()),
        sa.Column("max_disk_bytes", sa.BigInteger()),
        sa.Column("created_at", _INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text()),
        sa.Column("expires_at", _INSTANT),
        sa.Column("rotated_at", _INSTANT),
        sa.Column("revoked_at", _INSTANT),
        sa.Column("revoked_by", sa.Text()),
        sa.Column("last_used_at", _INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_created_at", "tokens", ["created_at", "id"])
    op.create_index(
        "uq_tokens_name", "tokens", ["name"], unique=True, postgresql_where=sa.text("revoked_at IS NULL")
    )
    op.create_table(
        "trail",
        sa.Column("at", _INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), comment="none: freshdb itself"),
        sa.Column("address", sa.Text()),
        sa.Column("subject", sa.Uuid(), comment="of the lease, template, pool or token"),
        sa.Column("label", sa.Text(), comment="its name"),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("at", "id", name=op.f("pk_trail")),
    )
    op.create_index(
        "ix_trail_subject",
        "trail",
        ["subject"],
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.add_column(
        "templates",
        sa.Column(
            "token_id",
            sa.Uuid(),
            comment="whose quotas its databases count for: who got its build",
        ),
    )
    op.add_column(
        "templates",
        sa.Column(
            "disk_bytes",
            sa.BigInteger(),
            comment="what it and its databases take, as last measured",
        ),
    )
    op.create_index(
        "ix_leases_held",
        "leases",
        ["principal"],
        postgresql_where=sa.text("state IN ('active', 'kept')"),
    )
    op.execute(_HOLD)


def downgrade() -> None:
    """Undo. The other indexes are dropped with their tables."""
    op.execute("DROP FUNCTION token_hold(uuid)")
    op.drop_index("ix_leases_held", table_name="leases")
    op.drop_column("templates", "disk_bytes")
    op.drop_column("templates", "token_id")
    op.drop_table("trail")
    op.drop_table("tokens")
