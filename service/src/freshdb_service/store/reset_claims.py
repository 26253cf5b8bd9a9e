"""Claim databases for a reset, and return them clean: the statements of every turnover beside ``grant`` and ``leases``.

They run on the driver's own connection, for the reason given in ``grant``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store.connection import Store
from freshdb_service.store.rows import DatabaseRow, Json

_LONG_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ClaimedReset:
    """A claimed database, with the recorded state that its reset starts from. ``None`` if none was recorded."""

    row: DatabaseRow
    baseline: Json | None = field(repr=False)
    mark: Json | None


@dataclass(frozen=True, slots=True)
class ResetResult:
    """A database that is clean, and its next login.

    Attributes:
        baseline: only if it is new.
        mark: only if there is a baseline.
    """

    database_name: str
    schema_name: str | None
    login: str
    password: str = field(repr=False)
    baseline: Json | None = field(default=None, repr=False)
    mark: Json | None = None


async def claim_dirty(
    store: Store, server_names: Sequence[str], most: int, *, claim_seconds: float
) -> list[ClaimedReset]:
    """Claim up to ``most`` dirty databases: ``dirty`` → ``resetting``, with the next generation.

    The databases that became dirty last come first, because the service most likely still has a session open in them. Those
    that have waited for more than ``_LONG_SECONDS`` come before all others.
    """
    async with store.driver("claim") as driver:
        rows = await driver.fetch(_CLAIM, list(server_names), most, claim_seconds, _LONG_SECONDS)
    return [_claimed(row) for row in rows]


async def make_ready(store: Store, row: DatabaseRow, clean: ResetResult) -> bool:
    """``creating`` or ``resetting`` → ``ready``, with the next login. ``False`` if the caller has lost the claim."""
    async with store.driver("ready") as driver:
        done: bool = await driver.fetchval(
            _READY,
            row.id,
            row.state.value,
            row.generation,
            *_columns(clean),
        )
    return done


async def claim_leased(
    store: Store, lease_id: UUID, principal: str, *, claim_seconds: float, address: str | None = None
) -> ClaimedReset | None:
    """Claim the database of an active lease: ``leased`` → ``resetting``, with the next generation. The lease keeps it.

    Returns:
        ``None`` if the lease is not active, belongs to another principal, or its database is being reset already.
    """
    async with store.driver("claim leased") as driver:
        row = await driver.fetchrow(_CLAIM_LEASED, lease_id, principal, claim_seconds, address)
    return None if row is None else _claimed(row)


async def return_claim(store: Store, row: DatabaseRow, clean: ResetResult | None) -> bool:
    """``resetting`` → ``leased``, with the next login if clean. Without ``clean`` the reset failed, and can be repeated.

    If the lease has ended in the meantime, the database becomes ``ready`` if it is clean, ``dirty`` otherwise.

    Returns:
        ``True`` if the lease has its database again.
    """
    async with store.driver("give back") as driver:
        leased: bool = await driver.fetchval(
            _RETURN,
            row.id,
            row.generation,
            row.lease_id,
            clean is not None,
            *(() if clean is None else _columns(clean)),
            *((None,) * 6 if clean is None else ()),
        )
    return leased


def _columns(clean: ResetResult) -> tuple[str | None, ...]:
    return (
        clean.database_name,
        clean.schema_name,
        clean.login,
        clean.password,
        None if clean.mark is None else json.dumps(clean.mark),
        None if clean.baseline is None else json.dumps(clean.baseline),
    )


def _claimed(row: Any) -> ClaimedReset:  # noqa: ANN401 - the driver's row
    database = DatabaseRow(
        id=row["id"],
        pool_id=row["pool_id"],
        server=row["server"],
        state=DatabaseState.RESETTING,
        generation=row["generation"],
        database_name=row["database_name"],
        schema_name=row["schema_name"],
        login=row["login"],
        password=None,
        lease_id=row["lease_id"],
        error=row["error"],
    )
    return ClaimedReset(database, from_json(row["baseline"]), from_json(row["mark"]))


def from_json(stored: str | None) -> Json | None:
    """Parse a JSON column, which the driver returns as text."""
    if stored is None:
        return None
    value: Json = json.loads(stored)
    return value


_CLAIM: Final = """
WITH claimed AS (
    UPDATE databases d
    SET state = 'resetting', generation = generation + 1, state_changed_at = now(), password = NULL,
        claimed_until = clock_timestamp() + make_interval(secs => $3::float8)
    WHERE d.id IN (
        SELECT c.id FROM databases c
        JOIN pools p ON p.id = c.pool_id JOIN templates t ON t.id = p.template_id
        WHERE c.state = 'dirty' AND t.state = 'ready' AND c.server = ANY ($1::text[])
          AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
        ORDER BY c.state_changed_at < clock_timestamp() - make_interval(secs => $4::float8) DESC, c.state_changed_at DESC
        LIMIT $2::bigint
        FOR UPDATE OF c SKIP LOCKED)
    RETURNING d.*
)
SELECT claimed.id, claimed.pool_id, claimed.server, claimed.generation, claimed.database_name, claimed.schema_name,
       claimed.login, claimed.lease_id, claimed.error, claimed.mark::text AS mark, b.baseline::text AS baseline
FROM claimed LEFT JOIN baselines b ON b.database_id = claimed.id
"""

_CLAIM_LEASED: Final = """
WITH holding AS (  -- the lease is locked before its database, as everywhere
    SELECT id, database_id, template FROM leases
    WHERE id = $1::uuid AND state = 'active' AND principal = $2::text FOR UPDATE
), claimed AS (
    UPDATE databases d
    SET state = 'resetting', generation = d.generation + 1, state_changed_at = now(), password = NULL,
        claimed_until = clock_timestamp() + make_interval(secs => $3::float8)
    FROM holding
    WHERE d.id = holding.database_id AND d.lease_id = holding.id AND d.state = 'leased'
    RETURNING d.*
), recorded AS (
    INSERT INTO trail (action, principal, address, subject, label, details)
    SELECT 'lease.reset', $2::text, $4::text, holding.id, holding.template,
           jsonb_build_object('generation', claimed.generation)
    FROM holding JOIN claimed ON claimed.lease_id = holding.id
)
SELECT claimed.id, claimed.pool_id, claimed.server, claimed.generation, claimed.database_name, claimed.schema_name,
       claimed.login, claimed.lease_id, claimed.error, claimed.mark::text AS mark, b.baseline::text AS baseline
FROM claimed LEFT JOIN baselines b ON b.database_id = claimed.id
"""

_RETURN: Final = """
WITH holding AS (
    SELECT id FROM leases WHERE id = $3::uuid AND state IN ('active', 'kept') FOR UPDATE
), done AS (
    UPDATE databases
    SET state = CASE WHEN EXISTS (SELECT FROM holding) THEN 'leased' WHEN $4::bool THEN 'ready' ELSE 'dirty' END,
        lease_id = (SELECT id FROM holding),
        database_name = coalesce($5::text, database_name), schema_name = coalesce($6::text, schema_name),
        login = coalesce($7::text, login), password = $8::text, mark = CASE WHEN $4::bool THEN $9::jsonb ELSE mark END,
        claimed_until = NULL, not_before = NULL, state_changed_at = clock_timestamp()
    WHERE id = $1::uuid AND state = 'resetting' AND generation = $2::int
    RETURNING *
), noted AS (
    INSERT INTO baselines (database_id, baseline)
    SELECT id, $10::jsonb FROM done WHERE $10::jsonb IS NOT NULL
    ON CONFLICT (database_id) DO UPDATE SET baseline = excluded.baseline
), updated AS (
    UPDATE leases l
    SET generation = done.generation, database_name = done.database_name, schema_name = done.schema_name,
        login = done.login
    FROM done WHERE l.id = done.lease_id
    RETURNING l.id
)
SELECT EXISTS (SELECT FROM updated)
"""

_READY: Final = """
WITH done AS (
    UPDATE databases
    SET state = 'ready', database_name = $4::text, schema_name = $5::text, login = $6::text, password = $7::text,
        mark = $8::jsonb, error = NULL, claimed_until = NULL, not_before = NULL, state_changed_at = clock_timestamp()
    WHERE id = $1::uuid AND state = $2::text AND generation = $3::int
    RETURNING id, pool_id
), noted AS (
    INSERT INTO baselines (database_id, baseline)
    SELECT id, $9::jsonb FROM done WHERE $9::jsonb IS NOT NULL
    ON CONFLICT (database_id) DO UPDATE SET baseline = excluded.baseline
), recovered AS (
    UPDATE pools SET last_error = NULL FROM done WHERE pools.id = done.pool_id AND pools.last_error IS NOT NULL
)
SELECT EXISTS (SELECT FROM done)
"""
