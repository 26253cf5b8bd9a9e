"""Statements over the audit log: actions with their actor, address, subject and instant.

The statement or transaction that changes something also records it. Therefore no change is without its entry, no entry is
without its change, whatever process dies, and recording costs no round trip. Actions that change no row of the control plane
(heartbeats, refusals) are collected first (:mod:`freshdb_service.auth.audit_log`).

The instant of an entry is by the control plane's clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.store.rows import Json
from freshdb_service.store.tables import trail

_PRUNED_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of an action: principal and address. Without a principal it is freshdb itself."""

    principal: str | None = None
    address: str | None = None


FRESHDB: Final = Actor()


@dataclass(frozen=True, slots=True)
class AuditAction:
    """An action. ``label`` is the name of its subject."""

    action: str
    by: Actor
    subject: UUID | None = None
    label: str | None = None
    details: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepeatedActions:
    """Equal actions on one replica: their number, and the age of the first and the last."""

    deed: AuditAction
    count: int
    first_seconds: float
    last_seconds: float


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry."""

    at: datetime
    id: UUID
    action: str
    principal: str | None
    address: str | None
    subject: UUID | None
    label: str | None
    details: Json


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filter for entries. ``None`` matches all. An action that ends in ``.*`` matches all of its kind."""

    action: str | None = None
    principal: str | None = None
    address: str | None = None
    subject: UUID | None = None
    label: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def record(connection: AsyncConnection, *deeds: AuditAction) -> None:
    """Insert entries for actions, in the transaction that performs them."""
    await connection.execute(insert(trail), [_columns(one) for one in deeds])


async def record_seen(connection: AsyncConnection, seen: Sequence[RepeatedActions]) -> None:
    """Insert one entry for each group of equal actions, at the instant of the last one."""
    rows = [
        {
            **_columns(one.deed),
            "subject": None if one.deed.subject is None else str(one.deed.subject),
            "count": one.count,
            "first_seconds": one.first_seconds,
            "last_seconds": one.last_seconds,
        }
        for one in seen
    ]
    if rows:
        await connection.execute(_RECORD_SEEN, {"rows": json.dumps(rows)})


async def listing(
    connection: AsyncConnection, wanted: AuditFilter, *, limit: int, before: tuple[datetime, UUID] | None
) -> list[AuditRow]:
    """Records, the newest first, from ``before`` on."""
    query = select(trail).order_by(trail.c.at.desc(), trail.c.id.desc()).limit(limit)
    if wanted.action is not None:
        kind = wanted.action.removesuffix("*")
        query = query.where(
            trail.c.action == wanted.action
            if kind == wanted.action
            else func.starts_with(trail.c.action, kind)
        )
    for column in ("principal", "address", "subject", "label"):
        if (value := getattr(wanted, column)) is not None:
            query = query.where(trail.c[column] == value)
    if wanted.since is not None:
        query = query.where(trail.c.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(trail.c.at < wanted.until)
    if before is not None:
        query = query.where(tuple_(trail.c.at, trail.c.id) < before)
    return [AuditRow(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - its public name


async def prune(connection: AsyncConnection, older_than_seconds: float) -> int:
    """Delete entries older than this, up to ``_PRUNED_AT_ONCE`` per call. Return their number."""
    age = func.make_interval(0, 0, 0, 0, 0, 0, older_than_seconds)
    some = (
        select(trail.c.at, trail.c.id)
        .where(trail.c.at < func.clock_timestamp() - age)
        .order_by(trail.c.at)
        .limit(_PRUNED_AT_ONCE)
    )
    done = await connection.execute(delete(trail).where(tuple_(trail.c.at, trail.c.id).in_(some)))
    return done.rowcount


def _columns(deed: AuditAction) -> dict[str, object]:
    return {
        "action": deed.action,
        "principal": deed.by.principal,
        "address": deed.by.address,
        "subject": deed.subject,
        "label": deed.label,
        "details": dict(deed.details),
    }


_RECORD_SEEN = text(
    """
    INSERT INTO trail (at, action, principal, address, subject, label, details)
    SELECT now - make_interval(secs => seen.last_seconds), seen.action, seen.principal, seen.address, seen.subject,
           seen.label, seen.details || jsonb_build_object(
               'count', seen.count, 'first_at', now - make_interval(secs => seen.first_seconds))
    FROM (SELECT clock_timestamp() AS now) clock, jsonb_to_recordset(CAST(:rows AS jsonb)) AS seen (
        action text, principal text, address text, subject uuid, label text, details jsonb, count integer,
        first_seconds float8, last_seconds float8)
    """
)
