"""The control plane's rows as values. The store returns these, never a driver's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from freshdb_service.lifecycle import DatabaseState, Isolation, LeaseState, TemplateState

Json = Mapping[str, object]
AnyRow = Row[*tuple[Any, ...]]
"""A driver's row, with untyped columns. The functions below convert it."""


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A template."""

    id: UUID
    name: str
    fingerprint: str
    state: TemplateState
    server: str
    extensions: list[str | dict[str, str]]
    sql: list[str] | None = field(repr=False)
    content: str | None
    attempt: int
    build_token: str | None = field(repr=False)
    build_seconds: float
    build_deadline_at: datetime | None
    build_overdue: bool
    database_name: str | None
    size_bytes: int | None
    error: Json | None
    warnings: list[str]
    created_at: datetime
    ready_at: datetime | None
    last_used_at: datetime

    @property
    def label(self) -> str:
        """``name@fingerprint``."""
        return f"{self.name}@{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool, with some columns of its template."""

    id: UUID
    template_id: UUID
    template: str
    template_state: TemplateState
    template_database: str | None
    isolation: Isolation
    server: str
    min_ready: int
    max_size: int
    idle_seconds: float
    blueprint: Json | None = field(repr=False)
    refusal: list[str] | None
    last_error: str | None
    last_acquired_at: datetime
    idle: bool


@dataclass(frozen=True, slots=True)
class DatabaseRow:
    """A database and its current login."""

    id: UUID
    pool_id: UUID
    server: str
    state: DatabaseState
    generation: int
    database_name: str | None
    schema_name: str | None
    login: str | None
    password: str | None = field(repr=False)
    lease_id: UUID | None
    error: str | None


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease. ``password`` is set only by functions that document it."""

    id: UUID
    state: LeaseState
    pool_id: UUID
    database_id: UUID
    generation: int
    template_id: UUID
    template: str
    isolation: Isolation
    server: str
    database_name: str
    schema_name: str | None
    login: str
    principal: str
    holder: Mapping[str, str]
    labels: Mapping[str, str]
    ttl_seconds: float
    granted_at: datetime
    max_expires_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    idempotency_key: str | None
    idempotency_index: int
    request_hash: str | None
    password: str | None = field(default=None, repr=False)


def template_row(row: AnyRow) -> TemplateRow:
    """Convert a template."""
    return TemplateRow(**values_of(row, state=TemplateState))


def pool_row(row: AnyRow) -> PoolRow:
    """Convert a pool."""
    return PoolRow(**values_of(row, isolation=Isolation, template_state=TemplateState))


def database_row(row: AnyRow) -> DatabaseRow:
    """Convert a database."""
    return DatabaseRow(**values_of(row, state=DatabaseState))


def lease_row(row: AnyRow) -> LeaseRow:
    """Convert a lease."""
    return LeaseRow(**values_of(row, state=LeaseState, isolation=Isolation))


def values_of(row: AnyRow, **kinds: type[StrEnum]) -> dict[str, Any]:
    """Return a row's values by column, those of the columns in ``kinds`` as enums."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return {**values, **{name: kind(values[name]) for name, kind in kinds.items()}}
