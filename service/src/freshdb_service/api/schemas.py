"""Bodies of requests and responses. Durations are in seconds, instants in UTC (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Final, Literal
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from freshdb_service.api.fields import (
    FINGERPRINT,
    NAME,
    REFERENCE,
    Count,
    Duration,
    ExtensionName,
    ExtensionSchema,
    ExtensionVersion,
    Pairs,
    Sql,
    Text,
)
from freshdb_service.leasing.acquire import Granted
from freshdb_service.lifecycle import LEASE_LIVE, Isolation, LeaseState, TemplateState
from freshdb_service.pooling.pools import PoolHealth
from freshdb_service.postgres import Leftovers
from freshdb_service.redis.deadlines import Renewal
from freshdb_service.store.rows import LeaseRow, PoolRow, TemplateRow
from freshdb_service.templates.registry import Registered


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class ExtensionIn(_In):
    """An extension, with the schema and version to install."""

    name: ExtensionName
    schema_: ExtensionSchema | None = Field(
        default=None, alias="schema", description="schema of the extension, created if it is missing"
    )
    version: ExtensionVersion | None = Field(
        default=None, description="version to install, instead of the server's default"
    )


def _kind_of_extension(value: object) -> str:
    return "<name>" if isinstance(value, str) else "<object>"


class RegisterIn(_In):
    """A template to find or to build."""

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
        default=None, pattern=FINGERPRINT, description="hash of the sources of the template"
    )
    sql: list[Sql] | None = Field(
        default=None, min_length=1, description="SQL scripts, in order, each in a new session"
    )
    extensions: list[
        Annotated[
            Annotated[ExtensionName, Tag("<name>")] | Annotated[ExtensionIn, Tag("<object>")],
            Discriminator(_kind_of_extension),
        ]
    ] = Field(default=[], max_length=50, description="extensions that the service installs before the build")
    build_seconds: Duration | None = Field(
        default=None, gt=0, description="deadline of a build by URL, from its start or last renewal"
    )
    wait_seconds: Duration | None = Field(
        default=None, ge=0, description="with `sql`: maximum wait for the build"
    )

    @property
    def extension_forms(self) -> list[str | dict[str, str]]:
        """The extensions as JSON values."""
        return [
            one if isinstance(one, str) else one.model_dump(by_alias=True, exclude_none=True)
            for one in self.extensions
        ]


class TokenIn(_In):
    """The token of a build."""

    token: str = Field(max_length=200)


class ReadyIn(TokenIn):
    """The end of a build."""

    log: Annotated[Text, Field(max_length=1_000_000)] | None = Field(
        default=None, description="output of the build, without secrets"
    )


class FailedIn(ReadyIn):
    """The reason for a failed build."""

    message: Annotated[Text, Field(max_length=10_000)] = "the builder gave no reason"


class AcquireIn(_In):
    """A request for a lease."""

    template: str = Field(
        pattern=REFERENCE, description="`name` for the newest, or `name@fingerprint`", examples=["shop"]
    )
    isolation: Isolation = Isolation.DATABASE
    ttl_seconds: Duration | None = Field(
        default=None, description="time after the last heartbeat at which the lease expires"
    )
    wait_seconds: Duration | None = Field(default=None, ge=0, description="maximum wait in the queue")
    holder: Pairs = Field(
        default={}, description="holder, for example user, URL of the CI run, node id of the test, worker"
    )
    labels: Pairs = Field(default={})


class BatchIn(_In):
    """A request for several leases: all of them or none."""

    leases: list[AcquireIn] = Field(min_length=1)


class RenewIn(_In):
    """A heartbeat."""

    ttl_seconds: Duration | None = None


class KeepIn(_In):
    """Keep a lease's database for inspection."""

    ttl_seconds: Duration | None = None
    reason: Annotated[Text, Field(max_length=1000)] | None = None


class ResizeIn(_In):
    """New sizes of a pool. Omitted ones keep their values."""

    min_ready: Count | None = Field(default=None, ge=0, le=10_000)
    max_size: Count | None = Field(default=None, ge=1, le=10_000)
    idle_seconds: Duration | None = Field(default=None, gt=0, le=1e9)


class BuildOut(BaseModel):
    """Access to the database of a template in build. Only the caller who got the build receives it."""

    url: str
    host: str
    port: int
    database: str
    user: str
    password: str
    token: str
    deadline_at: datetime
    renew_seconds: float


class ExtensionOut(BaseModel):
    """An extension of a template. Without schema and version, it is given as its name."""

    name: str
    schema_: str | None = Field(default=None, alias="schema")
    version: str | None = None


class TemplateOut(BaseModel):
    """A template."""

    id: UUID
    name: str
    fingerprint: str
    state: TemplateState
    extensions: list[str | ExtensionOut]
    server: str
    size_bytes: int | None
    error: Mapping[str, object] | None
    warnings: list[str] = Field(description="doubts about a build that succeeded")
    created_at: datetime
    ready_at: datetime | None
    last_used_at: datetime
    build_deadline_at: datetime | None
    build: BuildOut | None = None

    @classmethod
    def of(cls, row: TemplateRow) -> TemplateOut:
        """Convert a row."""
        return cls.model_validate(row, from_attributes=True)

    @classmethod
    def registered(cls, answer: Registered) -> TemplateOut:
        """Convert a registered template, with the build if this caller got it."""
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


class BuildLogOut(BaseModel):
    """The log of a template's last build that has ended. ``log`` is null if the builder sent none."""

    id: UUID
    name: str
    fingerprint: str
    state: TemplateState
    error: Mapping[str, object] | None
    warnings: list[str]
    log: str | None

    @classmethod
    def of(cls, row: TemplateRow, log: str | None) -> BuildLogOut:
        """Convert a row and its log."""
        members = {name: getattr(row, name) for name in cls.model_fields.keys() - {"log"}}
        return cls(**members, log=log)


class LeaseOut(BaseModel):
    """A lease. ``password`` and ``url`` are null in lists, for other tokens, and after its end."""

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
        """Convert a lease, with the password only if ``secret``."""
        row = granted.lease
        password = row.password if secret and row.state in LEASE_LIVE else None
        return cls.model_construct(
            **{name: getattr(row, name) for name in _OF_LEASE},
            host=host,
            port=port,
            database=row.database_name,
            schema_=row.schema_name,
            user=row.login,
            password=password,
            url=None if password is None else url(row.login, password, host, port, row.database_name),
            expires_at=granted.expires_at,
        )


_OF_LEASE: Final = LeaseOut.model_fields.keys() & {one.name for one in fields(LeaseRow)} - {"password"}


class LeftoversOut(BaseModel):
    """Leftovers of a holder. The database is rebuilt because of ``objects``, which were created or redefined."""

    connections: int
    prepared_transactions: int
    advisory_locks: int
    objects: list[str]


class ReleasedOut(LeaseOut):
    """An ended lease. ``leftovers`` is null if unknown, for example if the lease had already been released."""

    leftovers: LeftoversOut | None

    @classmethod
    def after(cls, lease: LeaseOut, leftovers: Leftovers | None) -> ReleasedOut:
        """Add the leftovers to a lease."""
        left = None if leftovers is None else LeftoversOut.model_validate(leftovers, from_attributes=True)
        return cls.model_construct(**dict(lease), leftovers=left)


class RenewalOut(BaseModel):
    """The result of a heartbeat."""

    id: UUID
    ttl_seconds: float
    expires_at: datetime
    max_expires_at: datetime

    @classmethod
    def of(cls, lease_id: UUID, renewal: Renewal) -> RenewalOut:
        """Convert the answer of Redis."""
        return cls(
            id=lease_id,
            ttl_seconds=renewal.ttl_seconds,
            expires_at=renewal.expires_at,
            max_expires_at=renewal.max_expires_at,
        )


class PoolOut(BaseModel):
    """A pool, with its sizes, databases and queue."""

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
        """Convert a pool."""
        databases = {state.value: number for state, number in health.databases.items()}
        row = {name: getattr(health.pool, name) for name in _OF_POOL}  # not the blueprint, which is large
        return cls(**row, databases=databases, waiting=health.place.waiting)


_OF_POOL: Final = PoolOut.model_fields.keys() & {one.name for one in fields(PoolRow)}


class LeasesOut(BaseModel):
    """A page of leases. ``next`` is the cursor of the next page."""

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
    """The deadline of a build."""

    deadline_at: datetime


class AliveOut(BaseModel):
    """Result of the liveness probe."""

    status: Literal["ok"]
    version: str


class ReadyOut(BaseModel):
    """Result of the readiness probe: ``ok`` or the error of each part."""

    status: Literal["ok", "unavailable"]
    checks: Mapping[str, str]


def url(user: str, password: str, host: str, port: int, database: str) -> str:
    """Return a connection URL for libpq and drivers."""
    where = f"[{host}]" if ":" in host else host
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{where}:{port}/{quote(database, safe='')}"
