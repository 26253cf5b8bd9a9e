"""create the control plane's first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_INSTANT = sa.DateTime(timezone=True)
_JSON = postgresql.JSONB()
_NOW = sa.text("now()")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "installation",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("created_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.CheckConstraint("singleton", name=op.f("ck_installation_singleton")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_installation")),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("database_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False, comment="name@fingerprint"),
        sa.Column("isolation", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("database_name", sa.Text(), nullable=False),
        sa.Column("schema_name", sa.Text()),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("holder", _JSON, nullable=False),
        sa.Column("labels", _JSON, nullable=False),
        sa.Column("ttl_seconds", sa.Double(), nullable=False),
        sa.Column("granted_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("max_expires_at", _INSTANT, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.Column("end_reason", sa.Text()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("idempotency_index", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("request_hash", sa.Text()),
        sa.CheckConstraint(
            "state IN ('active', 'kept', 'released', 'expired', 'revoked')", name=op.f("ck_leases_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index("ix_leases_granted_at", "leases", ["granted_at", "id"])
    op.create_index(
        "ix_leases_live",
        "leases",
        ["granted_at", "id"],
        postgresql_where=sa.text("state IN ('active', 'kept')"),
    )
    op.create_index(
        "uq_leases_idempotency",
        "leases",
        ["principal", "idempotency_key", "idempotency_index"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "servers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("adopted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("seen_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_servers")),
    )
    op.create_table(
        "templates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column(
            "extensions",
            _JSON,
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("sql", _JSON),
        sa.Column("content", sa.Text(), comment="hash of sql and extensions, when built from sql"),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("build_token", sa.Text(), comment="hash of the builder's token"),
        sa.Column("build_seconds", sa.Double(), nullable=False),
        sa.Column("build_deadline_at", _INSTANT),
        sa.Column("database_name", sa.Text()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("error", _JSON),
        sa.Column("created_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("ready_at", _INSTANT),
        sa.Column("last_used_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "state IN ('building', 'ready', 'retired', 'failed')", name=op.f("ck_templates_state")
        ),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name=op.f("fk_templates_server_servers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    op.create_index(
        "ix_templates_ready",
        "templates",
        ["name", sa.literal_column("ready_at DESC")],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "uq_templates_live",
        "templates",
        ["name", "fingerprint"],
        unique=True,
        postgresql_where=sa.text("state <> 'retired'"),
    )
    op.create_table(
        "pools",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("isolation", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("min_ready", sa.Integer(), nullable=False),
        sa.Column("max_size", sa.Integer(), nullable=False),
        sa.Column("idle_seconds", sa.Double(), nullable=False),
        sa.Column(
            "blueprint",
            _JSON,
            comment="how a schema is made; isolation 'schema' only",
        ),
        sa.Column(
            "refusal",
            _JSON,
            comment="why the template cannot be leased with this isolation",
        ),
        sa.Column(
            "claimed_until",
            _INSTANT,
            comment="somebody prepares the blueprint",
        ),
        sa.Column("last_error", sa.Text()),
        sa.Column("last_acquired_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("created_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.CheckConstraint("isolation IN ('database', 'schema')", name=op.f("ck_pools_isolation")),
        sa.CheckConstraint(
            "min_ready >= 0 AND max_size >= 1 AND min_ready <= max_size", name=op.f("ck_pools_sizes")
        ),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name=op.f("fk_pools_server_servers")),
        sa.ForeignKeyConstraint(
            ["template_id"], ["templates.id"], name=op.f("fk_pools_template_id_templates"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pools")),
    )
    op.create_index("uq_pools_template_isolation", "pools", ["template_id", "isolation"], unique=True)
    op.create_table(
        "databases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("database_name", sa.Text()),
        sa.Column("schema_name", sa.Text()),
        sa.Column("login", sa.Text()),
        sa.Column("password", sa.Text()),
        sa.Column("lease_id", sa.Uuid()),
        sa.Column("state_changed_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column(
            "claimed_until",
            _INSTANT,
            comment="a worker is at it; after this somebody else may",
        ),
        sa.Column(
            "not_before",
            _INSTANT,
            comment="a failed attempt is not repeated before",
        ),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint(
            "state IN ('creating', 'ready', 'leased', 'dirty', 'resetting', 'kept', 'failed', 'dropping')",
            name=op.f("ck_databases_state"),
        ),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_databases_pool_id_pools")),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name=op.f("fk_databases_server_servers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_databases")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_databases_pool_id", "databases", ["pool_id", "state"])
    op.create_index(
        "ix_databases_ready",
        "databases",
        ["pool_id", sa.literal_column("state_changed_at DESC")],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_databases_work",
        "databases",
        ["state", "state_changed_at"],
        postgresql_where=sa.text("state NOT IN ('ready', 'leased')"),
    )


def downgrade() -> None:
    """Undo. The indexes are dropped with their tables."""
    for table in ("databases", "pools", "templates", "servers", "leases", "installation"):
        op.drop_table(table)
