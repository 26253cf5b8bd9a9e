"""Statements over databases: claim work, finish it, give it up. Each names the state and generation that it expects.

The statements of every turnover are in ``grant``, ``leases`` and ``reset_claims``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Integer, bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.lifecycle import DatabaseState
from freshdb_service.store.rows import DatabaseRow, database_row
from freshdb_service.store.tables import databases, pools, servers, templates
from freshdb_service.store.tokens import room_of
from freshdb_service.store.worker_locks import LockedDatabase, arrays

_COLUMNS = [databases.c[one.name] for one in fields(DatabaseRow)]

SUPPLY: Final = (
    DatabaseState.READY,
    DatabaseState.CREATING,
    DatabaseState.RESETTING,
    DatabaseState.DIRTY,
    DatabaseState.DROPPING,
)
"""The states that count as supply of a pool: ready now or soon. A database that is being dropped counts, too, as it must
make room first. While its server is unavailable, nothing can be dropped, and so no databases accumulate."""


def _seconds(value: float) -> ColumnElement[timedelta]:
    return func.make_interval(0, 0, 0, 0, 0, 0, value)


async def plan(
    connection: AsyncConnection,
    pool_id: UUID,
    wanted: int,
    *,
    enough: int,
    max_databases: int,
    claim_seconds: float,
) -> list[DatabaseRow]:
    """Insert up to ``wanted`` new databases as ``creating``, claimed by the caller, within every limit.

    The limits are those of the pool and of the server, the quotas of the token that registered the template, and ``enough``,
    the supply (``SUPPLY``) that the pool needs. A pool with a failed database gets no new ones. Runs inside a transaction.
    The locks on the rows of the server, the pool and the token enforce the limits across replicas.
    """
    server = (
        await connection.execute(select(pools.c.server).where(pools.c.id == pool_id))
    ).scalar_one_or_none()
    if server is None:
        return []
    await connection.execute(select(servers.c.name).where(servers.c.name == server).with_for_update())
    row = (
        await connection.execute(
            select(pools.c.max_size)
            .join(templates, templates.c.id == pools.c.template_id)
            .where(pools.c.id == pool_id, templates.c.state == "ready")
            .with_for_update(of=pools)
        )
    ).one_or_none()
    if row is None:
        return []
    on_server = select(func.count()).where(databases.c.server == server).correlate(None).scalar_subquery()
    found = (
        await connection.execute(
            select(
                func.count().label("have"),
                func.count().filter(databases.c.state == DatabaseState.FAILED).label("failed"),
                func.count().filter(databases.c.state.in_(SUPPLY)).label("supply"),
                on_server.label("on_server"),
            ).where(databases.c.pool_id == pool_id)
        )
    ).one()
    if found.failed:
        return []
    room = min(wanted, row.max_size - found.have, enough - found.supply, max_databases - found.on_server)
    if room > 0:
        room = await room_of(connection, pool_id, room)
    if room <= 0:
        return []
    rows = await connection.execute(
        insert(databases)
        .values(
            [
                {
                    "id": uuid4(),
                    "pool_id": pool_id,
                    "server": server,
                    "state": DatabaseState.CREATING.value,
                    "generation": 1,
                    "claimed_until": func.clock_timestamp() + _seconds(claim_seconds),
                }
                for _ in range(room)
            ]
        )
        .returning(*_COLUMNS)
    )
    return [database_row(one) for one in rows]


_CLAIM_DROPPING = text(
    """
    UPDATE databases d
    SET state = 'dropping', generation = generation + 1, password = NULL,
        claimed_until = clock_timestamp() + make_interval(secs => :claim_seconds),
        state_changed_at = CASE WHEN d.state = 'dropping' THEN d.state_changed_at ELSE now() END
    WHERE d.id IN (
        SELECT c.id FROM databases c
        JOIN pools p ON p.id = c.pool_id JOIN templates t ON t.id = p.template_id
        WHERE c.id = ANY (ARRAY(  -- candidates by index: nearly all databases are ready and stay so
              SELECT id FROM databases WHERE state IN ('dropping', 'failed')
              UNION ALL
              SELECT unwanted.id FROM templates gone JOIN pools ON pools.template_id = gone.id
              JOIN databases unwanted ON unwanted.pool_id = pools.id
              WHERE gone.state <> 'ready' AND unwanted.state IN ('ready', 'dirty')))
          AND c.server = ANY (:servers)
          AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
          AND ((c.state = 'dropping' AND (c.claimed_until IS NULL OR c.claimed_until <= clock_timestamp()))
            OR (c.state IN ('ready', 'dirty') AND t.state <> 'ready')
            OR (c.state = 'failed' AND (c.not_before IS NOT NULL
                OR c.state_changed_at <= clock_timestamp() - make_interval(secs => :failed_seconds))))
        ORDER BY c.state_changed_at
        LIMIT :most
        FOR UPDATE OF c SKIP LOCKED)
    RETURNING d.id, d.pool_id, d.server, d.state, d.generation, d.database_name, d.schema_name, d.login, d.password,
              d.lease_id, d.error
    """
)


async def claim_dropping(
    connection: AsyncConnection,
    server_names: Sequence[str],
    most: int,
    *,
    claim_seconds: float,
    failed_seconds: float,
) -> list[DatabaseRow]:
    """Claim up to ``most`` databases to drop: marked for it, failed for ``failed_seconds``, or of a retired template."""
    rows = await connection.execute(
        _CLAIM_DROPPING,
        {
            "servers": list(server_names),
            "most": most,
            "claim_seconds": claim_seconds,
            "failed_seconds": failed_seconds,
        },
    )
    return [database_row(row) for row in rows]


async def extend_claim(connection: AsyncConnection, row: DatabaseRow, claim_seconds: float) -> bool:
    """Extend a claim while the work goes on. ``False`` if the caller has lost it."""
    done = await connection.execute(
        update(databases)
        .where(*_unchanged(row))
        .values(claimed_until=func.clock_timestamp() + _seconds(claim_seconds))
    )
    return done.rowcount == 1


async def move(
    connection: AsyncConnection,
    row: DatabaseRow,
    new_state: DatabaseState,
    *,
    error: str | None = None,
    backoff_seconds: float | None = None,
) -> bool:
    """Change the state of a row. ``False`` if its state or generation is no longer the one that was read."""
    done = await connection.execute(
        update(databases)
        .where(*_unchanged(row))
        .values(
            state=new_state.value,
            error=error,
            claimed_until=None,
            not_before=None
            if backoff_seconds is None
            else func.clock_timestamp() + _seconds(backoff_seconds),
            state_changed_at=func.clock_timestamp(),
        )
    )
    return done.rowcount == 1


async def postpone(connection: AsyncConnection, row: DatabaseRow, seconds: float) -> bool:
    """Give up a claim. The next attempt is possible after ``seconds``."""
    done = await connection.execute(
        update(databases)
        .where(*_unchanged(row))
        .values(claimed_until=None, not_before=func.clock_timestamp() + _seconds(seconds))
    )
    return done.rowcount == 1


async def delete_row(connection: AsyncConnection, row: DatabaseRow) -> bool:
    """Delete the row of a database that has been dropped."""
    done = await connection.execute(delete(databases).where(*_unchanged(row)))
    return done.rowcount == 1


async def release_claims(connection: AsyncConnection, gone: Sequence[LockedDatabase]) -> list[DatabaseRow]:
    """Release the claims of dead workers: those past their deadline, and those in ``gone``.

    ``resetting`` becomes ``dirty`` and ``creating`` becomes ``dropping``. A database that was being reset for its live lease
    becomes ``leased`` again, and its holder can ask for the reset again. A ``dropping`` one stays ``dropping``, and another
    worker claims it.
    """
    return [database_row(row) for row in await connection.execute(_RELEASE, arrays(gone))]


_DEAD = """
    d.state IN ('creating', 'resetting') AND d.claimed_until <= statement_timestamp()
    OR d.state IN ('creating', 'resetting', 'dropping') AND d.claimed_until IS NOT NULL AND (d.id, d.generation) IN (
        SELECT * FROM unnest(CAST(:gone_ids AS uuid[]), CAST(:gone_generations AS integer[])))
"""

# One statement: between two, another claim may become overdue. Leases are locked before their databases, as everywhere.
_RELEASE = text(
    f"""
    WITH held AS (
        SELECT l.id FROM leases l JOIN databases d ON d.lease_id = l.id
        WHERE d.state = 'resetting' AND l.state IN ('active', 'kept') AND ({_DEAD})
        ORDER BY l.id
        FOR UPDATE OF l
    ), released AS (
        UPDATE databases d
        SET state = CASE WHEN d.state IN ('creating', 'dropping') THEN 'dropping'
                         WHEN d.lease_id IN (SELECT id FROM held) THEN 'leased' ELSE 'dirty' END,
            claimed_until = NULL, not_before = NULL, state_changed_at = clock_timestamp()
        WHERE {_DEAD}
        RETURNING d.id, d.pool_id, d.server, d.state, d.generation, d.database_name, d.schema_name, d.login, d.password,
                  d.lease_id, d.error
    ), updated AS (
        UPDATE leases l SET generation = released.generation FROM released
        WHERE l.id = released.lease_id AND released.state = 'leased'
    )
    SELECT * FROM released
    """  # noqa: S608 - composed of our own text alone
)

_SHRINK = text(
    """
    UPDATE databases d SET state = 'dropping', claimed_until = NULL, state_changed_at = now()
    WHERE d.state = 'ready' AND d.id IN (
        SELECT c.id FROM databases c
        WHERE c.pool_id = :pool_id AND c.state = 'ready'
          AND c.state_changed_at <= clock_timestamp() - make_interval(secs => :idle_seconds)
        ORDER BY c.state_changed_at
        LIMIT :surplus
        FOR UPDATE SKIP LOCKED)
    """
).bindparams(bindparam("surplus", type_=Integer()), bindparam("pool_id"))


async def shrink(connection: AsyncConnection, pool_id: UUID, surplus: int, *, idle_seconds: float) -> int:
    """Mark up to ``surplus`` databases that were ready for ``idle_seconds`` for dropping. Return their number."""
    done = await connection.execute(
        _SHRINK, {"pool_id": pool_id, "surplus": surplus, "idle_seconds": idle_seconds}
    )
    return int(done.rowcount)


async def counts(connection: AsyncConnection) -> dict[UUID, dict[DatabaseState, int]]:
    """Count the databases of each pool by state."""
    query = select(databases.c.pool_id, databases.c.state, func.count()).group_by(
        databases.c.pool_id, databases.c.state
    )
    found: dict[UUID, dict[DatabaseState, int]] = {}
    for pool_id, state, number in await connection.execute(query):
        found.setdefault(pool_id, {})[DatabaseState(state)] = number
    return found


async def listing(connection: AsyncConnection, server: str) -> list[DatabaseRow]:
    """Every database on a server."""
    rows = await connection.execute(select(*_COLUMNS).where(databases.c.server == server))
    return [database_row(row) for row in rows]


_STRAYS = text(
    """
    UPDATE databases d SET state = 'dirty', lease_id = NULL, state_changed_at = now()
    WHERE d.state IN ('leased', 'kept')
      AND NOT EXISTS (SELECT FROM leases l WHERE l.id = d.lease_id AND l.state IN ('active', 'kept'))
    RETURNING d.id
    """
)


async def recover_strays(connection: AsyncConnection) -> int:
    """Mark databases as dirty that are leased or kept without a live lease. Return their number."""
    return len((await connection.execute(_STRAYS)).all())


def _unchanged(row: DatabaseRow) -> tuple[ColumnElement[bool], ...]:
    return (
        databases.c.id == row.id,
        databases.c.state == row.state.value,
        databases.c.generation == row.generation,
    )
