"""Granting leases: the one statement that everything else is there for.

It runs on the driver's own connection. Most of what SQLAlchemy does around a statement (compiling, types, rows by name and
position) would cost more than the statement itself, which PostgreSQL plans once per connection and runs in a fifth of a
millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from freshdb_service.lifecycle import DatabaseState, Isolation, LeaseState, check_database
from freshdb_service.store.rows import LeaseRow
from freshdb_service.store.session import Store


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asked for, checked and complete."""

    principal: str
    holder: Mapping[str, str]
    labels: Mapping[str, str]
    ttl_seconds: float
    max_ttl_seconds: float
    idempotency_key: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Leases alike, from one pool, that one statement grants.

    Attributes:
        pool_id: which pool.
        lease_ids: the leases that there will be.
        pinned: the caller named the template's fingerprint; otherwise the pool must belong to the newest ready template of
            its name.
        first_index: place of the first in the call that its idempotency key stands for.
        terms: what they all have in common.
    """

    pool_id: UUID
    lease_ids: tuple[UUID, ...]
    pinned: bool
    first_index: int
    terms: Terms


class OutOfDate(Exception):
    """The pool is not the one to take from any longer: a newer template is ready, say, or this one was retired."""


class _TooFew(Exception):
    """Undo what was granted before."""


async def grant(store: Store, shares: Sequence[Share]) -> list[LeaseRow] | None:
    """Grant every share, with passwords, or nothing; one round trip when there is one share.

    Returns:
        The leases in the order of the shares; ``None`` if too few databases are ready.

    Raises:
        OutOfDate: somebody should look which pool to take from; nothing was granted.
        ConstraintViolated: the idempotency key has a lease already; nothing was granted.
        BackendUnavailable: the control plane is away; whether it was granted is not known.
    """
    check_database(DatabaseState.READY, DatabaseState.LEASED)
    async with store.driver() as driver:
        try:
            if len(shares) == 1:
                return await _grant(driver, shares[0])
            async with driver.transaction():
                return [row for share in shares for row in await _grant(driver, share)]
        except _TooFew:
            return None


async def _grant(driver: Any, share: Share) -> list[LeaseRow]:  # noqa: ANN401 - the driver's connection has no type of SQLAlchemy's
    terms = share.terms
    rows = await driver.fetch(
        _GRANT,
        share.pool_id,
        share.pinned,
        len(share.lease_ids),
        share.lease_ids,
        terms.principal,
        json.dumps(dict(terms.holder)),
        json.dumps(dict(terms.labels)),
        terms.ttl_seconds,
        terms.max_ttl_seconds,
        terms.idempotency_key,
        share.first_index,
        terms.request_hash,
    )
    if rows[0]["lease_id"] is None:
        raise _TooFew if rows[0]["pool_id"] is not None else OutOfDate
    return [_lease(row, share, nth) for nth, row in enumerate(rows)]


def _lease(row: Mapping[str, Any], share: Share, nth: int) -> LeaseRow:
    terms = share.terms
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
        holder=terms.holder,
        labels=terms.labels,
        ttl_seconds=terms.ttl_seconds,
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
WITH pool AS (
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
    RETURNING id, granted_at, max_expires_at, template_id, template, isolation
)
SELECT granted.id AS lease_id, granted.granted_at, granted.max_expires_at, granted.template_id, granted.template,
       granted.isolation, taken.id AS database_id, taken.generation, taken.server, taken.database_name, taken.schema_name,
       taken.login, taken.password, pool.id AS pool_id
FROM (SELECT) always LEFT JOIN pool ON true LEFT JOIN (granted JOIN taken ON taken.lease_id = granted.id) ON true
ORDER BY taken.nth
"""
