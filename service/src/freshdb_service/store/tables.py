"""The schema of the control plane. ``migrations`` creates it, and a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from freshdb_service.lifecycle import DatabaseState, Isolation, LeaseState, TemplateState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    },
)

INSTANT = DateTime(timezone=True)


def _one_of(
    column: str, states: type[DatabaseState | LeaseState | TemplateState | Isolation]
) -> CheckConstraint:
    words = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({words})", name=column)


installation = Table(
    "installation",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("created_at", INSTANT, nullable=False, server_default=func.now()),
    CheckConstraint("singleton", name="singleton"),
)

servers = Table(
    "servers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("adopted", Boolean, nullable=False, server_default=text("false")),
    Column("seen_at", INSTANT, nullable=False, server_default=func.now()),
)

templates = Table(
    "templates",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("server", Text, ForeignKey("servers.name"), nullable=False),
    Column("extensions", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("sql", JSONB(none_as_null=True)),
    Column("content", Text, comment="hash of sql and extensions, when built from sql"),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("build_token", Text, comment="hash of the builder's token"),
    Column("build_seconds", Double, nullable=False),
    Column("build_deadline_at", INSTANT),
    Column("database_name", Text),
    Column("size_bytes", BigInteger),
    Column("error", JSONB(none_as_null=True)),
    Column("log", Text, comment="output of the build command, or PostgreSQL's messages to the SQL"),
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("created_at", INSTANT, nullable=False, server_default=func.now()),
    Column("ready_at", INSTANT),
    Column("last_used_at", INSTANT, nullable=False, server_default=func.now()),
    Column("token_id", Uuid, comment="whose quotas its databases count for: who got its build"),
    Column("disk_bytes", BigInteger, comment="what it and its databases take, as last measured"),
    _one_of("state", TemplateState),
    Index(
        "uq_templates_live", "name", "fingerprint", unique=True, postgresql_where=text("state <> 'retired'")
    ),
    Index("ix_templates_ready", "name", text("ready_at DESC"), postgresql_where=text("state = 'ready'")),
)

pools = Table(
    "pools",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), nullable=False),
    Column("isolation", Text, nullable=False),
    Column("server", Text, ForeignKey("servers.name"), nullable=False),
    Column("min_ready", Integer, nullable=False),
    Column("max_size", Integer, nullable=False),
    Column("idle_seconds", Double, nullable=False),
    Column("blueprint", JSONB(none_as_null=True), comment="how a schema is made; isolation 'schema' only"),
    Column(
        "refusal", JSONB(none_as_null=True), comment="why the template cannot be leased with this isolation"
    ),
    Column("claimed_until", INSTANT, comment="somebody prepares the blueprint"),
    Column("last_error", Text),
    Column("last_acquired_at", INSTANT, nullable=False, server_default=func.now()),
    Column("created_at", INSTANT, nullable=False, server_default=func.now()),
    _one_of("isolation", Isolation),
    CheckConstraint("min_ready >= 0 AND max_size >= 1 AND min_ready <= max_size", name="sizes"),
    Index("uq_pools_template_isolation", "template_id", "isolation", unique=True),
)

databases = Table(
    "databases",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("pool_id", Uuid, ForeignKey("pools.id"), nullable=False),
    Column("server", Text, ForeignKey("servers.name"), nullable=False),
    Column("state", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("database_name", Text),
    Column("schema_name", Text),
    Column("login", Text),
    Column("password", Text),
    Column("lease_id", Uuid),
    Column("state_changed_at", INSTANT, nullable=False, server_default=func.now()),
    Column("claimed_until", INSTANT, comment="a worker is at it; after this somebody else may"),
    Column("not_before", INSTANT, comment="a failed attempt is not repeated before"),
    Column("error", Text),
    Column("mark", JSONB(none_as_null=True), comment="when it was last clean; none if that was not noted"),
    _one_of("state", DatabaseState),
    Index(
        "ix_databases_ready",
        "pool_id",
        text("state_changed_at DESC"),
        postgresql_where=text("state = 'ready'"),
    ),
    Index(
        "ix_databases_work",
        "state",
        "state_changed_at",
        postgresql_where=text("state NOT IN ('ready', 'leased')"),
    ),
    Index("ix_databases_pool_id", "pool_id", "state"),
    Index("ix_databases_server", "server"),
    postgresql_with={"fillfactor": "70"},
)

baselines = Table(
    "baselines",
    metadata,
    Column("database_id", Uuid, ForeignKey("databases.id", ondelete="CASCADE"), primary_key=True),
    Column("baseline", JSONB, nullable=False, comment="what it was like when it was made"),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("pool_id", Uuid, nullable=False),
    Column("database_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("template_id", Uuid, nullable=False),
    Column("template", Text, nullable=False, comment="name@fingerprint"),
    Column("isolation", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("database_name", Text, nullable=False),
    Column("schema_name", Text),
    Column("login", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("holder", JSONB, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("ttl_seconds", Double, nullable=False),
    Column("granted_at", INSTANT, nullable=False, server_default=func.now()),
    Column("max_expires_at", INSTANT, nullable=False),
    Column("ended_at", INSTANT),
    Column("end_reason", Text),
    Column("idempotency_key", Text),
    Column("idempotency_index", Integer, nullable=False, server_default=text("0")),
    Column("request_hash", Text),
    _one_of("state", LeaseState),
    Index(
        "uq_leases_idempotency",
        "principal",
        "idempotency_key",
        "idempotency_index",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index("ix_leases_live", "granted_at", "id", postgresql_where=text("state IN ('active', 'kept')")),
    Index("ix_leases_held", "principal", postgresql_where=text("state IN ('active', 'kept')")),
    Index("ix_leases_granted_at", "granted_at", "id"),
    Index("ix_leases_database_id", "database_id", "generation"),
    postgresql_with={"fillfactor": "80"},
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, comment="the principal"),
    Column("scopes", JSONB, nullable=False),
    Column("hint", Text, nullable=False, comment="how the secret begins; to find the row by, and to show"),
    Column(
        "digest", LargeBinary, nullable=False, comment="of the secret, which is random and stored nowhere"
    ),
    Column("previous_hint", Text, comment="of the secret before the last rotation"),
    Column("previous_digest", LargeBinary),
    Column("previous_until", INSTANT),
    Column("max_leases", Integer),
    Column("max_databases", Integer),
    Column("max_ttl_seconds", Double),
    Column("max_disk_bytes", BigInteger),
    Column("created_at", INSTANT, nullable=False, server_default=func.now()),
    Column("created_by", Text),
    Column("expires_at", INSTANT),
    Column("rotated_at", INSTANT),
    Column("revoked_at", INSTANT),
    Column("revoked_by", Text),
    Column("last_used_at", INSTANT),
    Index("uq_tokens_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
    Index("ix_tokens_created_at", "created_at", "id"),
)

trail = Table(
    "trail",
    metadata,
    Column("at", INSTANT, nullable=False, server_default=func.clock_timestamp()),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("action", Text, nullable=False),
    Column("principal", Text, comment="none: freshdb itself"),
    Column("address", Text),
    Column("subject", Uuid, comment="of the lease, template, pool or token"),
    Column("label", Text, comment="its name"),
    Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    PrimaryKeyConstraint("at", "id"),
    Index("ix_trail_subject", "subject", postgresql_where=text("subject IS NOT NULL")),
)

pool_minutes = Table(
    "pool_minutes",
    metadata,
    Column("at", INSTANT, nullable=False),
    Column("pool_id", Uuid, nullable=False),
    Column("databases", JSONB(none_as_null=True), comment="how many in each state, as last seen"),
    Column("waiting", Integer, nullable=False, comment="at most"),
    Column(
        "waits",
        ARRAY(Integer),
        nullable=False,
        comment="grants by their duration, for each bucket of durations.BOUNDS",
    ),
    Column("resets", ARRAY(Integer), nullable=False, comment="resets, likewise"),
    Column("paths", JSONB, nullable=False, comment="resets by their path"),
    Column("failures", Integer, nullable=False),
    PrimaryKeyConstraint("at", "pool_id"),
    Index("ix_pool_minutes_pool_id", "pool_id", "at"),
)

resets = Table(
    "resets",
    metadata,
    Column("at", INSTANT, nullable=False),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("database_id", Uuid, nullable=False),
    Column("pool_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("lease_id", Uuid, comment="whose leavings it removed"),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("leftovers", JSONB(none_as_null=True)),
    PrimaryKeyConstraint("at", "id"),
    Index("ix_resets_database_id", "database_id", "at"),
    Index("ix_resets_left_behind", "at", "id", postgresql_where=text("leftovers IS NOT NULL")),
)
