"""What goes over the wire, in and out. Durations in seconds, instants in UTC (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from freshdb_service.api.fields import (
    EXTENSION,
    FINGERPRINT,
    NAME,
    REFERENCE,
    Count,
    Duration,
    Pairs,
    Sql,
    Text,
)
from freshdb_service.leasing.acquire import Granted
from freshdb_service.lifecycle import LEASE_LIVE, Isolation, LeaseState, TemplateState
from freshdb_service.pooling.pools import PoolHealth
from freshdb_service.postgres import Leftovers
from freshdb_service.redis.deadlines import Renewal
from freshdb_service.store.rows import TemplateRow
from freshdb_service.templates.registry import Registered


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class RegisterIn(_In):
    """A template to find or to make."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["sql"], "properties": {"sql": {"type": "array"}}},
                {"required": ["fingerprint"], "properties": {"fingerprint": {"type": "string"}}},
            ]
        }
    )

    name: str = Field(
        pattern=NAME, description="letters, digits, `.`, `_`, `-`, `/`; at most 100", examples=["shop"]
    )
    fingerprint: str | None = Field(
        default=None, pattern=FINGERPRINT, description="a hash of what it is made from"
    )
    sql: list[Sql] | None = Field(default=None, min_length=1, description="scripts, run one after the other")
    extensions: list[
        Annotated[str, Field(pattern=EXTENSION, json_schema_extra={"format": "postgresql-extension"})]
    ] = Field(default=[], max_length=50)
    build_seconds: Duration | None = Field(
        default=None, gt=0, description="how long a build by URL may go unrenewed"
    )
    wait_seconds: Duration | None = Field(
        default=None, ge=0, description="with `sql`: how long to wait for the build"
    )


class TokenIn(_In):
    """The token of a build."""

    token: str = Field(max_length=200)


class FailedIn(TokenIn):
    """Why a build failed."""

    message: Annotated[Text, Field(max_length=10_000)] = "the builder gave no reason"


class AcquireIn(_In):
    """What to lease."""

    template: str = Field(
        pattern=REFERENCE, description="`name` for the newest, or `name@fingerprint`", examples=["shop"]
    )
    isolation: Isolation = Isolation.DATABASE
    ttl_seconds: Duration | None = Field(
        default=None, description="the lease ends so long after its last heartbeat"
    )
    wait_seconds: Duration | None = Field(default=None, ge=0, description="how long to stand in the queue")
    holder: Pairs = Field(
        default={}, description="who has it: a name, a CI run's URL, a test's node id, a worker"
    )
    labels: Pairs = Field(default={})


class BatchIn(_In):
    """Several leases, all or none."""

    leases: list[AcquireIn] = Field(min_length=1)


class RenewIn(_In):
    """A heartbeat."""

    ttl_seconds: Duration | None = None


class KeepIn(_In):
    """Hold a lease's database back for a look."""

    ttl_seconds: Duration | None = None
    reason: Annotated[Text, Field(max_length=1000)] | None = None


class ResizeIn(_In):
    """New sizes of a pool; what is left out stays."""

    min_ready: Count | None = Field(default=None, ge=0, le=10_000)
    max_size: Count | None = Field(default=None, ge=1, le=10_000)
    idle_seconds: Duration | None = Field(default=None, gt=0, le=1e9)


class BuildOut(BaseModel):
    """The right to fill a template's database; only in the answer to the caller who got it."""

    url: str
    host: str
    port: int
    database: str
    user: str
    password: str
    token: str
    deadline_at: datetime
    renew_seconds: float


class TemplateOut(BaseModel):
    """A template."""

    id: UUID
    name: str
    fingerprint: str
    state: TemplateState
    extensions: list[str]
    server: str
    size_bytes: int | None
    error: Mapping[str, object] | None
    created_at: datetime
    ready_at: datetime | None
    last_used_at: datetime
    build_deadline_at: datetime | None
    build: BuildOut | None = None

    @classmethod
    def of(cls, row: TemplateRow) -> TemplateOut:
        """From its row."""
        return cls(
            id=row.id,
            name=row.name,
            fingerprint=row.fingerprint,
            state=row.state,
            extensions=row.extensions,
            server=row.server,
            size_bytes=row.size_bytes,
            error=row.error,
            created_at=row.created_at,
            ready_at=row.ready_at,
            last_used_at=row.last_used_at,
            build_deadline_at=row.build_deadline_at,
        )

    @classmethod
    def registered(cls, answer: Registered) -> TemplateOut:
        """With the build, if this caller got it."""
        template = cls.of(answer.template)
        if (build := answer.build) is not None:
            login = build.login
            template.build = BuildOut(
                url=url(login.user, login.password, build.host, build.port, login.database),
                host=build.host,
                port=build.port,
                database=login.database,
                user=login.user,
                password=login.password,
                token=build.token,
                deadline_at=build.deadline_at,
                renew_seconds=build.renew_seconds,
            )
        return template


class LeaseOut(BaseModel):
    """A lease. ``password`` and ``url`` are there only for who acquired it, while it lives, and never in lists."""

    id: UUID
    state: LeaseState
    template: str
    template_id: UUID
    pool_id: UUID
    database_id: UUID
    isolation: Isolation
    server: str
    host: str
    port: int
    database: str
    schema_: str | None = Field(serialization_alias="schema")
    user: str
    password: str | None
    url: str | None
    generation: int
    principal: str
    holder: Mapping[str, str]
    labels: Mapping[str, str]
    ttl_seconds: float
    granted_at: datetime
    expires_at: datetime | None
    max_expires_at: datetime
    ended_at: datetime | None
    end_reason: str | None

    @classmethod
    def of(cls, granted: Granted, host: str, port: int, *, secret: bool) -> LeaseOut:
        """From its row; with the password only when ``secret``."""
        row = granted.lease
        password = row.password if secret and row.state in LEASE_LIVE else None
        return cls.model_construct(
            id=row.id,
            state=row.state,
            template=row.template,
            template_id=row.template_id,
            pool_id=row.pool_id,
            database_id=row.database_id,
            isolation=row.isolation,
            server=row.server,
            host=host,
            port=port,
            database=row.database_name,
            schema_=row.schema_name,
            user=row.login,
            password=password,
            url=None if password is None else url(row.login, password, host, port, row.database_name),
            generation=row.generation,
            principal=row.principal,
            holder=row.holder,
            labels=row.labels,
            ttl_seconds=row.ttl_seconds,
            granted_at=row.granted_at,
            expires_at=granted.expires_at,
            max_expires_at=row.max_expires_at,
            ended_at=row.ended_at,
            end_reason=row.end_reason,
        )


class LeftoversOut(BaseModel):
    """What a holder left behind. ``objects`` were created or defined in another way: the database is made anew for them."""

    connections: int
    prepared_transactions: int
    advisory_locks: int
    objects: list[str]


class ReleasedOut(LeaseOut):
    """A lease that is over. ``leftovers`` is null where it is not known, as when it had been released before."""

    leftovers: LeftoversOut | None

    @classmethod
    def after(cls, lease: LeaseOut, leftovers: Leftovers | None) -> ReleasedOut:
        """With what was left open."""
        left = None
        if leftovers is not None:
            left = LeftoversOut(
                connections=leftovers.connections,
                prepared_transactions=leftovers.prepared_transactions,
                advisory_locks=leftovers.advisory_locks,
                objects=list(leftovers.objects),
            )
        return cls.model_construct(**dict(lease), leftovers=left)


class RenewalOut(BaseModel):
    """What a heartbeat was granted."""

    id: UUID
    ttl_seconds: float
    expires_at: datetime
    max_expires_at: datetime

    @classmethod
    def of(cls, lease_id: UUID, renewal: Renewal) -> RenewalOut:
        """From what Redis said."""
        return cls(
            id=lease_id,
            ttl_seconds=renewal.ttl_seconds,
            expires_at=renewal.expires_at,
            max_expires_at=renewal.max_expires_at,
        )


class PoolOut(BaseModel):
    """A pool and its health."""

    id: UUID
    template: str
    template_id: UUID
    isolation: Isolation
    server: str
    min_ready: int
    max_size: int
    idle_seconds: float
    databases: Mapping[str, int]
    waiting: int
    refusal: list[str] | None
    last_error: str | None
    last_acquired_at: datetime

    @classmethod
    def of(cls, health: PoolHealth) -> PoolOut:
        """From the pool and what it holds."""
        pool = health.pool
        return cls(
            id=pool.id,
            template=pool.template,
            template_id=pool.template_id,
            isolation=pool.isolation,
            server=pool.server,
            min_ready=pool.min_ready,
            max_size=pool.max_size,
            idle_seconds=pool.idle_seconds,
            databases={state.value: number for state, number in health.databases.items()},
            waiting=health.place.waiting,
            refusal=pool.refusal,
            last_error=pool.last_error,
            last_acquired_at=pool.last_acquired_at,
        )


class LeasesOut(BaseModel):
    """A page of leases; ``next`` is the cursor of the page after it."""

    items: list[LeaseOut]
    next: str | None


class TemplatesOut(BaseModel):
    """A page of templates."""

    items: list[TemplateOut]
    next: str | None


class PoolsOut(BaseModel):
    """A page of pools."""

    items: list[PoolOut]
    next: str | None


class DeadlineOut(BaseModel):
    """Until when a build may go on."""

    deadline_at: datetime


class AliveOut(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ReadyOut(BaseModel):
    """Whether everything that the service works with answers: for each part ``ok``, or what is wrong."""

    status: Literal["ok", "unavailable"]
    checks: Mapping[str, str]


def url(user: str, password: str, host: str, port: int, database: str) -> str:
    """A connection URL as libpq and every driver read it."""
    where = f"[{host}]" if ":" in host else host
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{where}:{port}/{quote(database, safe='')}"
