"""Statements over leases: find, end, keep, list."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, and_, delete, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.lifecycle import (
    LEASE_LIVE,
    DatabaseState,
    Isolation,
    LeaseState,
)
from freshdb_service.store.audit_log import FRESHDB, Actor, AuditAction, record
from freshdb_service.store.connection import Store
from freshdb_service.store.reset_claims import ClaimedReset, from_json
from freshdb_service.store.rows import DatabaseRow, LeaseRow, lease_row
from freshdb_service.store.tables import databases, leases

_LIVE = text("state IN ('active', 'kept')")
"""The same text as the condition of the index of live leases. PostgreSQL could not match a parameter with it."""


async def by_idempotency_key(connection: AsyncConnection, principal: str, key: str) -> list[LeaseRow]:
    """Return the leases that were granted for this key, with the passwords of the live ones."""
    rows = await connection.execute(
        _with_password()
        .where(leases.c.principal == principal, leases.c.idempotency_key == key)
        .order_by(leases.c.idempotency_index)
    )
    return [lease_row(row) for row in rows]


async def get(connection: AsyncConnection, lease_id: UUID) -> LeaseRow | None:
    """Return one lease, with its password while it is live."""
    row = (await connection.execute(_with_password().where(leases.c.id == lease_id))).one_or_none()
    return lease_row(row) if row else None


def _with_password() -> Select[*tuple[Any, ...]]:
    mine = and_(
        databases.c.id == leases.c.database_id,
        databases.c.generation == leases.c.generation,
        databases.c.lease_id == leases.c.id,
    )
    return select(leases, databases.c.password).select_from(leases.outerjoin(databases, mine))


@dataclass(frozen=True, slots=True)
class EndedLease:
    """A lease that has ended, and its database if the caller has claimed it for its reset."""

    lease: LeaseRow
    used: ClaimedReset | None


@dataclass(frozen=True, slots=True)
class ResetClaim:
    """A request to claim the database for its reset: duration of the claim, and the servers that the caller can reset on."""

    seconds: float
    servers: Sequence[str]


async def end(
    store: Store,
    lease_id: UUID,
    new_state: LeaseState,
    *,
    principal: str | None,
    by: Actor = FRESHDB,
    reason: str | None = None,
    claim: ResetClaim | None = None,
) -> EndedLease | None:
    """End a live lease and take its database from it, in one statement, on the driver's own connection.

    Args:
        store: the control plane.
        lease_id: the lease.
        new_state: ``released``, ``expired`` or ``revoked``.
        principal: the required owner of the lease. ``None`` allows every owner.
        by: the actor for the audit log.
        reason: recorded in the lease.
        claim: if given, the database goes from ``leased`` to ``resetting``, with the next generation. Without a claim, or if
            the database was kept or its template is retired, it becomes ``dirty``, for the janitor.

    Returns:
        ``None`` if the lease was not live, or belongs to another principal.
    """
    async with store.driver("end") as driver:
        row = await driver.fetchrow(
            _END,
            lease_id,
            new_state.value,
            principal,
            reason,
            None if claim is None else claim.seconds,
            [] if claim is None else list(claim.servers),
            by.principal,
            by.address,
        )
    if row is None:
        return None
    lease = LeaseRow(
        **{name: row[name] for name in _LEASE_COLUMNS},
        state=LeaseState(row["state"]),
        isolation=Isolation(row["isolation"]),
        holder=json.loads(row["holder"]),
        labels=json.loads(row["labels"]),
    )
    return EndedLease(lease, None if row["claimed_generation"] is None else _used(lease, row))


def _used(lease: LeaseRow, row: Any) -> ClaimedReset:  # noqa: ANN401 - the driver's row
    database = DatabaseRow(
        id=lease.database_id,
        pool_id=lease.pool_id,
        server=lease.server,
        state=DatabaseState.RESETTING,
        generation=row["claimed_generation"],
        database_name=lease.database_name,
        schema_name=lease.schema_name,
        login=lease.login,
        password=None,
        lease_id=None,
        error=None,
    )
    return ClaimedReset(database, from_json(row["baseline"]), from_json(row["mark"]))


_PLAIN: Final = [column.name for column in leases.columns if column.name not in {"holder", "labels"}]
_LEASE_COLUMNS: Final = [name for name in _PLAIN if name not in {"state", "isolation"}]

_END: Final = f"""
WITH ended AS (
    UPDATE leases SET state = $2::text, ended_at = now(), end_reason = $4::text
    WHERE id = $1::uuid AND state IN ('active', 'kept') AND ($3::text IS NULL OR principal = $3::text)
    RETURNING *
), claim AS (
    SELECT ended.id FROM ended JOIN templates t ON t.id = ended.template_id
    WHERE t.state = 'ready' AND $5::float8 IS NOT NULL AND ended.server = ANY ($6::text[])
), returned AS (
    UPDATE databases d
    SET lease_id = NULL, state_changed_at = now(), not_before = NULL,
        (state, generation, password, claimed_until) = (
            SELECT CASE WHEN claimed THEN 'resetting' ELSE 'dirty' END, d.generation + claimed::int,
                   CASE WHEN NOT claimed THEN d.password END,
                   CASE WHEN claimed THEN clock_timestamp() + make_interval(secs => $5::float8) END
            FROM (SELECT d.state = 'leased' AND EXISTS (SELECT FROM claim) AS claimed) so)
    FROM ended
    WHERE d.id = ended.database_id AND d.generation = ended.generation
      AND d.lease_id = ended.id AND d.state IN ('leased', 'kept')
    RETURNING d.id, d.state, d.generation, d.mark
), recorded AS (
    INSERT INTO trail (action, principal, address, subject, label, details)
    SELECT 'lease.' || state, $7::text, $8::text, id, template, jsonb_strip_nulls(jsonb_build_object(
        'held_by', principal, 'database', database_name, 'generation', generation, 'reason', end_reason))
    FROM ended
)
SELECT {", ".join(f"ended.{name}" for name in _PLAIN)}, ended.holder::text AS holder, ended.labels::text AS labels,
       CASE WHEN g.state = 'resetting' THEN g.generation END AS claimed_generation, g.mark::text AS mark,
       b.baseline::text AS baseline
FROM ended LEFT JOIN returned g ON true LEFT JOIN baselines b ON b.database_id = g.id
"""  # noqa: S608 - the names of our own columns


async def keep(
    connection: AsyncConnection, lease_id: UUID, *, by: Actor, ttl_seconds: float, reason: str | None
) -> LeaseRow | None:
    """Keep a live lease and its database for inspection. Runs inside a transaction.

    The lease is locked before its database, as in every statement that changes both.

    Returns:
        ``None``, with nothing changed, if the lease has ended, belongs to another principal, or is being reset.
    """
    mine = and_(leases.c.id == lease_id, leases.c.principal == by.principal, _LIVE)
    held = (
        await connection.execute(
            select(leases.c.database_id, leases.c.generation).where(mine).with_for_update()
        )
    ).one_or_none()
    if held is None:
        return None
    kept_database = await connection.execute(
        databases.update()
        .where(
            databases.c.id == held.database_id,
            databases.c.generation == held.generation,
            databases.c.lease_id == lease_id,
            databases.c.state.in_([DatabaseState.LEASED.value, DatabaseState.KEPT.value]),
        )
        .values(state=DatabaseState.KEPT.value, state_changed_at=func.now())
    )
    if not kept_database.rowcount:
        return None
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, ttl_seconds)
    row = await connection.execute(
        leases.update()
        .where(mine)
        .values(
            state=LeaseState.KEPT.value,
            end_reason=reason,
            ttl_seconds=ttl_seconds,
            max_expires_at=func.greatest(leases.c.max_expires_at, until),
        )
        .returning(leases)
    )
    kept = lease_row(row.one())
    details = {"ttl_seconds": ttl_seconds, "reason": reason}
    await record(connection, AuditAction("lease.kept", by, lease_id, kept.template, details))
    return kept


async def extend_ttl(connection: AsyncConnection, lease_id: UUID, ttl_seconds: float) -> None:
    """Extend the TTL of a live lease."""
    await connection.execute(
        leases.update()
        .where(leases.c.id == lease_id, _LIVE)
        .values(ttl_seconds=func.greatest(leases.c.ttl_seconds, ttl_seconds))
    )


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Filter for leases. ``None`` or empty matches all."""

    states: frozenset[LeaseState]
    template: str | None = None
    isolation: Isolation | None = None
    holder: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None


async def listing(
    connection: AsyncConnection, wanted: LeaseFilter, *, limit: int, after: tuple[datetime, UUID] | None
) -> list[LeaseRow]:
    """Return leases in the order in which they were granted, after ``after``, without passwords."""
    query = select(leases).order_by(leases.c.granted_at, leases.c.id).limit(limit)
    if wanted.states == LEASE_LIVE:
        query = query.where(_LIVE)
    elif wanted.states:
        query = query.where(leases.c.state.in_([state.value for state in wanted.states]))
    if wanted.template:
        exact = "@" in wanted.template
        query = query.where(
            leases.c.template == wanted.template
            if exact
            else func.split_part(leases.c.template, "@", 1) == wanted.template
        )
    if wanted.isolation:
        query = query.where(leases.c.isolation == wanted.isolation.value)
    if wanted.holder:
        query = query.where(leases.c.holder.contains(dict(wanted.holder)))
    if wanted.labels:
        query = query.where(leases.c.labels.contains(dict(wanted.labels)))
    if after:
        query = query.where(tuple_(leases.c.granted_at, leases.c.id) > after)
    return [lease_row(row) for row in await connection.execute(query)]


@dataclass(frozen=True, slots=True)
class LiveLease:
    """The data from which Redis restores a lease's deadline."""

    id: UUID
    principal: str
    ttl_seconds: float
    remaining_seconds: float


async def live(connection: AsyncConnection, lease_id: UUID | None = None) -> list[LiveLease]:
    """Return every live lease, or the given one, with the time left until its ``max_expires_at``."""
    remaining = func.extract("epoch", leases.c.max_expires_at - func.clock_timestamp())
    query = select(leases.c.id, leases.c.principal, leases.c.ttl_seconds, remaining).where(_LIVE)
    if lease_id is not None:
        query = query.where(leases.c.id == lease_id)
    return [LiveLease(row[0], row[1], row[2], float(row[3])) for row in await connection.execute(query)]


async def count_live(connection: AsyncConnection) -> int:
    """Count the live leases."""
    query = select(func.count()).select_from(leases).where(_LIVE)
    return int((await connection.execute(query)).scalar_one())


async def prune(connection: AsyncConnection, older_than_seconds: float) -> int:
    """Delete leases that ended more than ``older_than_seconds`` ago. Return their number.

    Such leases were also granted before that instant. The condition on ``granted_at`` uses an index.
    """
    before = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, older_than_seconds)
    done = await connection.execute(
        delete(leases).where(leases.c.granted_at < before, leases.c.ended_at < before)
    )
    return done.rowcount
