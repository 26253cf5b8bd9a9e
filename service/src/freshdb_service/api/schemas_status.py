"""Bodies about the status of the installation. Durations are in seconds, instants in UTC (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from freshdb_service.api.schemas import LeaseOut
from freshdb_service.config import Scope
from freshdb_service.lifecycle import DatabaseState, Isolation
from freshdb_service.observability.histogram import percentile
from freshdb_service.redis.events import Event
from freshdb_service.status.diagnosis import Finding, ServerLimits, ServerStatus, Severity, Status, Subject
from freshdb_service.status.overview import WaitingCaller
from freshdb_service.store.dashboard_queries import DatabaseDetails
from freshdb_service.store.history import Point, ResetRow


class CallerOut(BaseModel):
    """The caller. ``open`` is true if the service needs no token."""

    principal: str
    scopes: Sequence[Scope]
    open: bool


class FindingOut(BaseModel):
    """A problem or notice, with its reason and remedy. ``code`` is stable."""

    severity: Severity
    code: str
    subject: Subject
    id: str
    label: str
    message: str
    remedy: str

    @classmethod
    def of(cls, one: Finding) -> FindingOut:
        """Convert a finding."""
        return cls.model_validate(one, from_attributes=True)


class OverviewOut(BaseModel):
    """Status of the installation at ``at``, by the control plane's clock."""

    status: Status
    at: datetime
    version: str
    findings: Sequence[FindingOut]
    databases: Mapping[str, int]
    leases: Mapping[str, int]
    templates: Mapping[str, int]
    pools: int
    servers: int
    waiting: int
    longest_wait_seconds: float


class WaiterOut(BaseModel):
    """A caller in the queue of a pool. ``position`` counts from 1."""

    pool_id: UUID
    template: str
    isolation: Isolation
    position: int
    since: datetime
    waited_seconds: float
    wanted: int
    principal: str
    holder: Mapping[str, str]
    why: str
    remedy: str

    @classmethod
    def of(cls, one: WaitingCaller) -> WaiterOut:
        """Convert a caller of the queue."""
        return cls(
            pool_id=one.pool.id,
            template=one.pool.template,
            isolation=one.pool.isolation,
            position=one.position,
            why=one.why,
            remedy=one.remedy,
            **asdict(one.standing),
        )


class WaitersOut(BaseModel):
    """Callers in the queues, in the order of each queue."""

    items: list[WaiterOut]
    next: None = None


class SpanOut(BaseModel):
    """Count and percentiles of durations. The percentiles are null if the count is 0."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, counts: Sequence[int]) -> SpanOut:
        """Convert the counts of a histogram."""
        return cls(
            count=sum(counts),
            p50=percentile(counts, 50),
            p95=percentile(counts, 95),
            p99=percentile(counts, 99),
        )


class PointOut(BaseModel):
    """A step of a pool's history, from ``at`` on. ``databases`` is null if unknown, and ``waiting`` is the maximum."""

    at: datetime
    databases: Mapping[str, int] | None
    waiting: int
    waits: SpanOut
    resets: SpanOut
    paths: Mapping[str, int]
    failures: int

    @classmethod
    def of(cls, point: Point) -> PointOut:
        """Convert a stored point."""
        return cls(
            at=point.at,
            databases=point.databases,
            waiting=point.waiting,
            waits=SpanOut.of(point.waits),
            resets=SpanOut.of(point.resets),
            paths=point.paths,
            failures=point.failures,
        )


class HistoryOut(BaseModel):
    """A pool's history: one point per ``step_seconds`` with data, and the totals of all points."""

    seconds: float
    step_seconds: int
    waits: SpanOut
    resets: SpanOut
    paths: Mapping[str, int]
    items: list[PointOut]

    @classmethod
    def of(cls, seconds: float, step_seconds: int, points: Sequence[Point]) -> HistoryOut:
        """Convert stored points."""
        paths: dict[str, int] = {}
        for point in points:
            for path, count in point.paths.items():
                paths[path] = paths.get(path, 0) + count
        return cls(
            seconds=seconds,
            step_seconds=step_seconds,
            waits=SpanOut.of([sum(counts) for counts in zip(*(one.waits for one in points), strict=True)]),
            resets=SpanOut.of([sum(counts) for counts in zip(*(one.resets for one in points), strict=True)]),
            paths=paths,
            items=[PointOut.of(point) for point in points],
        )


class ResetOut(BaseModel):
    """A reset of a database: its path, the reason and duration, and the leftovers of the lease before it."""

    id: UUID
    at: datetime
    database_id: UUID
    pool_id: UUID
    generation: int
    lease_id: UUID | None
    path: str
    reason: str
    seconds: float
    leftovers: Mapping[str, object] | None

    @classmethod
    def of(cls, row: ResetRow) -> ResetOut:
        """Convert a row."""
        return cls.model_validate(row, from_attributes=True)


class ResetsOut(BaseModel):
    """A page of resets."""

    items: list[ResetOut]
    next: str | None


class DatabaseOut(BaseModel):
    """A database. ``error`` is the reason if the last work on it failed."""

    id: UUID
    pool_id: UUID
    template: str
    isolation: Isolation
    server: str
    state: DatabaseState
    state_changed_at: datetime
    generation: int
    database: str | None = Field(validation_alias="database_name")
    schema_: str | None = Field(validation_alias="schema_name", serialization_alias="schema")
    lease_id: UUID | None
    error: str | None

    @classmethod
    def of(cls, look: DatabaseDetails) -> DatabaseOut:
        """Convert the details of a database."""
        return cls.model_validate(look, from_attributes=True)


class DatabaseLifeOut(DatabaseOut):
    """A database, with its last leases and its last resets, newest first."""

    leases: list[LeaseOut]
    resets: list[ResetOut]

    @classmethod
    def lived(cls, look: DatabaseDetails, leases: list[LeaseOut], resets: list[ResetOut]) -> DatabaseLifeOut:
        """Convert the details of a database, with its leases and resets."""
        return cls.model_construct(**dict(DatabaseOut.of(look)), leases=leases, resets=resets)


class DatabasesOut(BaseModel):
    """A page of databases."""

    items: list[DatabaseOut]
    next: str | None


class ServerOut(BaseModel):
    """A managed server. If it is unavailable, its connections are null and ``error`` is the reason."""

    name: str
    host: str
    port: int
    version: int
    databases: int
    max_databases: int
    leased: int
    templates: int
    disk_bytes: int
    max_disk_bytes: int
    connections: int | None
    max_connections: int | None
    active: int | None
    error: str | None

    @classmethod
    def of(cls, one: ServerStatus, limits: ServerLimits) -> ServerOut:
        """Convert a server's status."""
        unknown = dict.fromkeys(("connections", "max_connections", "active"))
        return cls.model_validate(
            {
                **asdict(one.server),
                **asdict(limits),
                **(unknown if one.activity is None else asdict(one.activity)),
                "version": one.server.version // 10_000,
                "error": one.error,
            }
        )


class ServersOut(BaseModel):
    """All servers, by name."""

    items: list[ServerOut]
    next: None = None


class EventOut(BaseModel):
    """An event. ``id`` orders events, and ``since=ID`` streams the events after it."""

    id: str
    event: str
    data: Mapping[str, object]

    @classmethod
    def of(cls, event: Event) -> EventOut:
        """Convert an event of the Redis stream."""
        return cls(id=event.id, event=event.kind, data=event.data)


class EventsOut(BaseModel):
    """A page of events, newest first."""

    items: list[EventOut]
    next: str | None
