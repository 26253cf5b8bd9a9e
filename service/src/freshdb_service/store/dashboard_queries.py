"""Queries for the dashboard: databases with their pools and templates, servers with their load, counts by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.lifecycle import DatabaseState, Isolation, LeaseState, TemplateState
from freshdb_service.store.pools import templates_held
from freshdb_service.store.rows import AnyRow, LeaseRow, lease_row, values_of
from freshdb_service.store.tables import databases, leases, pools, servers, templates


@dataclass(frozen=True, slots=True)
class DatabaseDetails:
    """A database with its pool and template, without its password."""

    id: UUID
    pool_id: UUID
    template: str
    isolation: Isolation
    server: str
    state: DatabaseState
    state_changed_at: datetime
    generation: int
    database_name: str | None
    schema_name: str | None
    login: str | None
    lease_id: UUID | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DatabaseFilter:
    """Filter for databases. ``None`` matches all."""

    pool_id: UUID | None = None
    state: DatabaseState | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class ServerDetails:
    """A server as recorded in the control plane, and its load."""

    name: str
    host: str
    port: int
    version: int
    disk_bytes: int
    databases: int
    templates: int
    leased: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of live leases and of templates by state, at one instant of the control plane's clock."""

    at: datetime
    leases: Mapping[LeaseState, int]
    templates: Mapping[TemplateState, int]


def _details() -> Select[tuple[object, ...]]:
    return (
        select(
            *(databases.c[one.name] for one in fields(DatabaseDetails) if one.name in databases.c),
            (templates.c.name + "@" + templates.c.fingerprint).label("template"),
            pools.c.isolation,
        )
        .select_from(databases)
        .join(pools, pools.c.id == databases.c.pool_id)
        .join(templates, templates.c.id == pools.c.template_id)
    )


async def listing(
    connection: AsyncConnection, wanted: DatabaseFilter, *, limit: int, after: UUID | None
) -> list[DatabaseDetails]:
    """Return databases in the order of their ids, after ``after``."""
    query = _details().order_by(databases.c.id).limit(limit)
    for column in ("pool_id", "state", "server"):
        if (value := getattr(wanted, column)) is not None:
            query = query.where(databases.c[column] == value)
    if after is not None:
        query = query.where(databases.c.id > after)
    return [_detail(row) for row in await connection.execute(query)]


async def get(connection: AsyncConnection, database_id: UUID) -> DatabaseDetails | None:
    """Return one database."""
    row = (await connection.execute(_details().where(databases.c.id == database_id))).one_or_none()
    return None if row is None else _detail(row)


async def leases_of(connection: AsyncConnection, database_id: UUID, *, limit: int) -> list[LeaseRow]:
    """Return the leases of a database, the last one first, without passwords."""
    query = (
        select(leases)
        .where(leases.c.database_id == database_id)
        .order_by(leases.c.generation.desc(), leases.c.granted_at.desc())
        .limit(limit)
    )
    return [lease_row(row) for row in await connection.execute(query)]


async def servers_with_load(connection: AsyncConnection) -> list[ServerDetails]:
    """Return every server that was ever managed, in the order of their names."""
    of_server = databases.c.server == servers.c.name
    query = select(
        *(servers.c[one.name] for one in fields(ServerDetails) if one.name in servers.c),
        select(func.count()).where(of_server).scalar_subquery().label("databases"),
        templates_held().label("templates"),
        select(func.count())
        .where(of_server, databases.c.state.in_(["leased", "kept"]))
        .scalar_subquery()
        .label("leased"),
    ).order_by(servers.c.name)
    return [ServerDetails(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - its public name


async def counts(connection: AsyncConnection) -> Counts:
    """Count live leases and templates, by state."""
    at = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    live = select(leases.c.state, func.count()).where(text("state IN ('active', 'kept')"))
    held = {LeaseState(state): n for state, n in await connection.execute(live.group_by(leases.c.state))}
    built = select(templates.c.state, func.count()).group_by(templates.c.state)
    return Counts(at, held, {TemplateState(state): n for state, n in await connection.execute(built)})


def _detail(row: AnyRow) -> DatabaseDetails:
    return DatabaseDetails(**values_of(row, state=DatabaseState, isolation=Isolation))
