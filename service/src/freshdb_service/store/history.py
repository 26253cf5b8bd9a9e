"""Statements over the history: minutes of pools, and resets of databases.

A *minute* of a pool has the number of databases by state, the maximum number of waiting callers, and histograms of the
durations of grants and resets (``histogram``). Every replica adds its numbers to the same row. The order of additions does
not matter, so no replica needs to be the only writer. A *reset* has the lease before it, its path, the reason for this path,
and the leftovers of the holder.

Instants are by the control plane's clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Integer, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.store.rows import Json
from freshdb_service.store.tables import INSTANT, pool_minutes, resets

_PRUNED_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Minute:
    """The numbers of one pool that one replica has collected since it last wrote them.

    Attributes:
        pool_id: the pool.
        databases: databases by state, as last counted. ``None`` without a count.
        waiting: maximum number of waiting callers.
        waits: grants by duration (one count for each bucket of ``histogram``).
        resets: resets by duration, in the same buckets.
        paths: resets by path.
        failures: failed attempts to provision, reset or drop a database.
    """

    pool_id: UUID
    databases: Mapping[str, int] | None
    waiting: int
    waits: Sequence[int]
    resets: Sequence[int]
    paths: Mapping[str, int]
    failures: int


@dataclass(frozen=True, slots=True)
class Point:
    """A step of a pool's history that begins at ``at``. Its values are those of a minute, ``databases`` as last counted."""

    at: datetime
    databases: Mapping[str, int] | None
    waiting: int
    waits: Sequence[int]
    resets: Sequence[int]
    paths: Mapping[str, int]
    failures: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A finished reset.

    Attributes:
        database_id: the database.
        pool_id: its pool.
        generation: its generation after the reset.
        lease_id: the lease that keeps the database. ``None`` if the lease has ended.
        path: see ``postgres.ResetOutcome``.
        reason: the reason for this path.
        seconds: duration of the reset.
        leftovers: objects that the holder left. Empty if there were none.
        ago_seconds: age of the reset.
    """

    database_id: UUID
    pool_id: UUID
    generation: int
    lease_id: UUID | None
    path: str
    reason: str
    seconds: float
    leftovers: Json
    ago_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ResetRow:
    """A stored reset. ``lease_id`` is the lease whose leftovers it removed, if known."""

    at: datetime
    id: UUID
    database_id: UUID
    pool_id: UUID
    generation: int
    lease_id: UUID | None
    path: str
    reason: str
    seconds: float
    leftovers: Json | None


async def add_minutes(connection: AsyncConnection, minutes: Sequence[Minute]) -> None:
    """Add numbers to the current minute of their pools."""
    rows = [
        asdict(one)
        # Sorted, so that replicas cannot deadlock.
        for one in sorted(minutes, key=lambda one: one.pool_id)
    ]
    if rows:
        await connection.execute(_ADD, {"rows": json.dumps(rows, default=str)})


async def points(
    connection: AsyncConnection, pool_id: UUID, *, seconds: float, step_seconds: int
) -> list[Point]:
    """Return the history of a pool's last ``seconds`` in steps of ``step_seconds``, oldest first, without empty steps."""
    found = await connection.execute(
        _POINTS, {"pool_id": pool_id, "seconds": float(seconds), "step_seconds": step_seconds}
    )
    minutes = [Point(**row._mapping) for row in found]  # noqa: SLF001 - its public name
    merged: dict[datetime, Point] = {}
    for minute in minutes:
        before = merged.get(minute.at)
        merged[minute.at] = minute if before is None else _merged(before, minute)
    return list(merged.values())


def _merged(first: Point, then: Point) -> Point:
    return Point(
        at=first.at,
        databases=then.databases or first.databases,
        waiting=max(first.waiting, then.waiting),
        waits=[a + b for a, b in zip(first.waits, then.waits, strict=True)],
        resets=[a + b for a, b in zip(first.resets, then.resets, strict=True)],
        paths={
            path: first.paths.get(path, 0) + then.paths.get(path, 0) for path in {*first.paths, *then.paths}
        },
        failures=first.failures + then.failures,
    )


async def add_resets(connection: AsyncConnection, done: Sequence[Reset]) -> None:
    """Insert resets, each with the lease that held the database before."""
    rows = [{**asdict(one), "leftovers": one.leftovers or None} for one in done]
    if rows:
        await connection.execute(_ADD_RESETS, {"rows": json.dumps(rows, default=str)})


@dataclass(frozen=True, slots=True)
class ResetFilter:
    """Filter for resets. ``None`` matches all."""

    database_id: UUID | None = None
    lease_id: UUID | None = None
    pool_id: UUID | None = None
    left_behind: bool = False


async def listing(
    connection: AsyncConnection, wanted: ResetFilter, *, limit: int, before: tuple[datetime, UUID] | None
) -> list[ResetRow]:
    """Return resets before ``before``, the newest first."""
    query = select(resets).order_by(resets.c.at.desc(), resets.c.id.desc()).limit(limit)
    for column in ("database_id", "lease_id", "pool_id"):
        if (value := getattr(wanted, column)) is not None:
            query = query.where(resets.c[column] == value)
    if wanted.left_behind:
        query = query.where(resets.c.leftovers.is_not(None))
    if before is not None:
        query = query.where(tuple_(resets.c.at, resets.c.id) < before)
    return [ResetRow(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - its public name


async def prune(connection: AsyncConnection, *, minutes_seconds: float, resets_seconds: float) -> None:
    """Delete older minutes and resets, up to ``_PRUNED_AT_ONCE`` of each per call."""
    for table, key, seconds in (
        (pool_minutes, (pool_minutes.c.at, pool_minutes.c.pool_id), minutes_seconds),
        (resets, (resets.c.at, resets.c.id), resets_seconds),
    ):
        age = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        old = (
            select(*key)
            .where(table.c.at < func.clock_timestamp() - age)
            .order_by(table.c.at)
            .limit(_PRUNED_AT_ONCE)
        )
        await connection.execute(delete(table).where(tuple_(*key).in_(old)))


_ADD: Final = text(
    """
    INSERT INTO pool_minutes AS had (pool_id, at, databases, waiting, waits, resets, paths, failures)
    SELECT pool_id, date_trunc('minute', clock_timestamp(), 'UTC'), databases, waiting, waits, resets, paths, failures
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS seen (
        pool_id uuid, databases jsonb, waiting integer, waits integer[], resets integer[], paths jsonb, failures integer)
    ON CONFLICT (at, pool_id) DO UPDATE SET
        databases = coalesce(excluded.databases, had.databases),
        waiting = greatest(excluded.waiting, had.waiting),
        waits = (SELECT array_agg(a + b ORDER BY nth) FROM unnest(had.waits, excluded.waits)
                 WITH ORDINALITY AS both_ (a, b, nth)),
        resets = (SELECT array_agg(a + b ORDER BY nth) FROM unnest(had.resets, excluded.resets)
                  WITH ORDINALITY AS both_ (a, b, nth)),
        paths = had.paths || (
            SELECT coalesce(jsonb_object_agg(key, value::integer + coalesce((had.paths ->> key)::integer, 0)), '{}')
            FROM jsonb_each_text(excluded.paths)),
        failures = had.failures + excluded.failures
    """
)

_POINTS: Final = text(
    """
    SELECT date_bin(make_interval(secs => :step_seconds), at, timestamptz 'epoch') AS at,
           databases, waiting, waits, resets, paths, failures
    FROM pool_minutes
    WHERE pool_id = :pool_id AND at > clock_timestamp() - make_interval(secs => :seconds)
    ORDER BY pool_minutes.at
    """
).columns(
    at=INSTANT,
    databases=JSONB,
    waiting=Integer,
    waits=ARRAY(Integer),
    resets=ARRAY(Integer),
    paths=JSONB,
    failures=Integer,
)

_ADD_RESETS: Final = text(
    """
    INSERT INTO resets (at, database_id, pool_id, generation, lease_id, path, reason, seconds, leftovers)
    SELECT clock_timestamp() - make_interval(secs => done.ago_seconds), done.database_id, done.pool_id, done.generation,
           coalesce(done.lease_id, (
               SELECT l.id FROM leases l WHERE l.database_id = done.database_id AND l.generation < done.generation
               ORDER BY l.generation DESC LIMIT 1)),
           done.path, done.reason, done.seconds, nullif(done.leftovers, 'null')
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS done (
        database_id uuid, pool_id uuid, generation integer, lease_id uuid, path text, reason text, seconds float8,
        leftovers jsonb, ago_seconds float8)
    """
)
