"""Grant leases, in one statement.

It runs on the driver's own connection. SQLAlchemy's work around a statement (compiling, types, rows by name and position)
would cost more than the statement itself, which PostgreSQL plans once per connection and runs in a fifth of a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from freshdb_service.lifecycle import Isolation, LeaseState
from freshdb_service.store.connection import Store
from freshdb_service.store.rows import LeaseRow


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """The part of a request that all its leases share."""

    principal: str
    max_ttl_seconds: float
    idempotency_key: str | None = None
    request_hash: str | None = None
    token_id: UUID | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class GrantShare:
    """Leases of one pool that one statement grants.

    Attributes:
        pool_id: the pool.
        lease_ids: the ids of the new leases.
        pinned: the caller named the template's fingerprint. Otherwise the pool must belong to the newest ready template of
            its name.
        first_index: index of the first lease among those of its idempotency key.
        ttl_seconds: time to live of each lease.
        holder: holder of each lease.
        labels: labels of each lease.
    """

    pool_id: UUID
    lease_ids: tuple[UUID, ...]
    pinned: bool
    first_index: int
    ttl_seconds: float
    holder: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class OutOfDate(Exception):
    """The pool is no longer the right one: its template was retired, or a newer one of the same name is ready."""


class TokenEnded(Exception):
    """The caller's token was revoked or has expired since it was authenticated. Nothing was granted."""


class OverQuota(Exception):
    """The caller's token would hold more leases than its quota allows. Nothing was granted."""

    def __init__(self, held: int, limit: int) -> None:
        super().__init__(f"{held} of {limit}")
        self.held = held
        self.limit = limit


class _TooFew(Exception):
    """Roll back the shares that were granted before."""


async def grant(store: Store, terms: GrantTerms, shares: Sequence[GrantShare]) -> list[LeaseRow] | None:
    """Grant every share, with passwords, or none. One share is one round trip.

    Returns:
        The leases in the order of the shares. ``None`` if too few databases are ready.

    Raises:
        OutOfDate: the caller must look up the pool again. Nothing was granted.
        TokenEnded: the token was revoked or has expired. Nothing was granted.
        OverQuota: the token's quota is exhausted. Nothing was granted.
        ConstraintViolated: the idempotency key has a lease already. Nothing was granted.
        BackendUnavailable: the control plane is unavailable. The leases may have been granted.
    """
    async with store.driver("grant") as driver:
        try:
            if len(shares) == 1:
                return await _grant(driver, terms, shares[0])
            async with driver.transaction():
                return [row for share in shares for row in await _grant(driver, terms, share)]
        except _TooFew:
            return None


async def check_token(store: Store, token_id: UUID, wanted: int) -> None:
    """Check that a token may hold ``wanted`` more leases.

    Raises:
        TokenEnded: the token was revoked or has expired.
        OverQuota: the token's quota is exhausted.
        BackendUnavailable: the control plane is unavailable.
    """
    async with store.driver("quota") as driver:
        hold = await driver.fetchval("SELECT token_hold($1::uuid)", token_id)
    if (refusal := _refused_token(hold, wanted)) is not None:
        raise refusal


async def _grant(driver: Any, terms: GrantTerms, share: GrantShare) -> list[LeaseRow]:  # noqa: ANN401 - the driver's connection
    rows = await driver.fetch(
        _GRANT,
        share.pool_id,
        share.pinned,
        len(share.lease_ids),
        share.lease_ids,
        terms.principal,
        json.dumps(dict(share.holder)),
        json.dumps(dict(share.labels)),
        share.ttl_seconds,
        terms.max_ttl_seconds,
        terms.idempotency_key,
        share.first_index,
        terms.request_hash,
        terms.token_id,
        terms.address,
    )
    if rows[0]["lease_id"] is None:
        raise _refusal(rows[0], len(share.lease_ids))
    return [_lease(row, terms, share, nth) for nth, row in enumerate(rows)]


def _refusal(row: Mapping[str, Any], wanted: int) -> Exception:
    if (refused := _refused_token(row["hold"], wanted)) is not None:
        return refused
    return _TooFew() if row["pool_id"] is not None else OutOfDate()


def _refused_token(hold: Sequence[str | None] | None, wanted: int) -> TokenEnded | OverQuota | None:
    """Compare the result of ``token_hold``, {leases held, limit}, with the number of leases wanted.

    Its values are texts, because asyncpg would look up the type of an integer array on each new connection.
    """
    if hold is None:
        return TokenEnded()
    held, limit = int(hold[0] or 0), hold[1]
    return OverQuota(held, int(limit)) if limit is not None and held + wanted > int(limit) else None


def _lease(row: Mapping[str, Any], terms: GrantTerms, share: GrantShare, nth: int) -> LeaseRow:
    return LeaseRow(
        id=row["lease_id"],
        state=LeaseState.ACTIVE,
        pool_id=share.pool_id,
        database_id=row["database_id"],
        generation=row["generation"],
        template_id=row["template_id"],
        template=row["template"],
        isolation=Isolation(row["isolation"]),
        server=row["server"],
        database_name=row["database_name"],
        schema_name=row["schema_name"],
        login=row["login"],
        principal=terms.principal,
        holder=share.holder,
        labels=share.labels,
        ttl_seconds=share.ttl_seconds,
        granted_at=row["granted_at"],
        max_expires_at=row["max_expires_at"],
        ended_at=None,
        end_reason=None,
        idempotency_key=terms.idempotency_key,
        idempotency_index=share.first_index + nth,
        request_hash=terms.request_hash,
        password=row["password"],
    )


_GRANT: Final = """
WITH token AS MATERIALIZED (  -- {leases held, limit}, or null if the token has ended. A token with a limit stays locked
    SELECT CASE WHEN $13::uuid IS NULL THEN ARRAY['0', NULL] ELSE token_hold($13::uuid) END AS hold
), pool AS (
    SELECT p.id, p.isolation, p.template_id, t.name || '@' || t.fingerprint AS template
    FROM pools p JOIN templates t ON t.id = p.template_id
    WHERE p.id = $1::uuid AND p.refusal IS NULL AND t.state = 'ready'
      AND ($2::bool OR NOT EXISTS (
            SELECT FROM templates newer
            WHERE newer.name = t.name AND newer.state = 'ready' AND newer.ready_at > t.ready_at))
), picked AS (
    SELECT d.id, d.generation
    FROM databases d
    WHERE d.pool_id = $1::uuid AND d.state = 'ready' AND EXISTS (SELECT FROM pool)
      AND (SELECT hold IS NOT NULL AND (hold[2] IS NULL OR hold[1]::bigint + $3::bigint <= hold[2]::bigint) FROM token)
    ORDER BY d.state_changed_at DESC
    LIMIT $3::bigint
    FOR UPDATE OF d SKIP LOCKED
), matched AS (
    SELECT picked.id, picked.generation, asked.lease_id, asked.nth
    FROM (SELECT id, generation, row_number() OVER () AS nth FROM picked) picked
    JOIN unnest($4::uuid[]) WITH ORDINALITY AS asked (lease_id, nth) USING (nth)
    WHERE (SELECT count(*) FROM picked) = $3::bigint
), taken AS (
    UPDATE databases d
    SET state = 'leased', lease_id = matched.lease_id, state_changed_at = now()
    FROM matched
    WHERE d.id = matched.id AND d.generation = matched.generation AND d.state = 'ready'
    RETURNING d.*, matched.nth
), granted AS (
    INSERT INTO leases (id, state, pool_id, database_id, generation, template_id, template, isolation, server,
                        database_name, schema_name, login, principal, holder, labels, ttl_seconds, max_expires_at,
                        idempotency_key, idempotency_index, request_hash)
    SELECT taken.lease_id, 'active', taken.pool_id, taken.id, taken.generation, pool.template_id, pool.template,
           pool.isolation, taken.server, taken.database_name, taken.schema_name, taken.login, $5::text,
           $6::jsonb, $7::jsonb, $8::float8, now() + make_interval(secs => $9::float8),
           $10::text, $11::int + taken.nth - 1, $12::text
    FROM taken, pool
    RETURNING *
), recorded AS (
    INSERT INTO trail (action, principal, address, subject, label, details)
    SELECT 'lease.acquired', principal, $14::text, id, template, jsonb_build_object(
        'isolation', isolation, 'server', server, 'database', database_name, 'schema', schema_name, 'login', login,
        'generation', generation, 'ttl_seconds', ttl_seconds, 'holder', holder)
    FROM granted
)
SELECT granted.id AS lease_id, granted.granted_at, granted.max_expires_at, granted.template_id, granted.template,
       granted.isolation, taken.id AS database_id, taken.generation, taken.server, taken.database_name, taken.schema_name,
       taken.login, taken.password, pool.id AS pool_id, token.hold
FROM token LEFT JOIN pool ON true LEFT JOIN (granted JOIN taken ON taken.lease_id = granted.id) ON true
ORDER BY taken.nth
"""
