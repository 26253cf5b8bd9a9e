"""Statements over pools, servers and the installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from uuid import UUID, uuid4

from sqlalchemy import ScalarSelect, and_, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.lifecycle import Isolation, TemplateState
from freshdb_service.store.rows import PoolRow, TemplateRow, pool_row
from freshdb_service.store.tables import databases, installation, pools, servers, templates

_QUERY = select(
    *(pools.c[one.name] for one in fields(PoolRow) if one.name in pools.c),
    (templates.c.name + "@" + templates.c.fingerprint).label("template"),
    templates.c.state.label("template_state"),
    templates.c.database_name.label("template_database"),
    (
        pools.c.last_acquired_at
        <= func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, pools.c.idle_seconds)
    ).label("idle"),
).join(templates, templates.c.id == pools.c.template_id)


async def ensure(
    connection: AsyncConnection,
    template: TemplateRow,
    isolation: Isolation,
    *,
    min_ready: int,
    max_size: int,
    idle_seconds: float,
) -> PoolRow:
    """Return the pool of a template and isolation. Create it if there is none."""
    await connection.execute(
        insert(pools)
        .values(
            id=uuid4(),
            template_id=template.id,
            isolation=isolation.value,
            server=template.server,
            min_ready=min_ready,
            max_size=max_size,
            idle_seconds=idle_seconds,
        )
        .on_conflict_do_nothing(index_elements=["template_id", "isolation"])
    )
    query = _QUERY.where(pools.c.template_id == template.id, pools.c.isolation == isolation.value)
    return pool_row((await connection.execute(query)).one())


async def get(connection: AsyncConnection, pool_id: UUID) -> PoolRow | None:
    """Return one pool."""
    row = (await connection.execute(_QUERY.where(pools.c.id == pool_id))).one_or_none()
    return pool_row(row) if row else None


async def listing(
    connection: AsyncConnection, *, limit: int | None = None, after: UUID | None = None
) -> list[PoolRow]:
    """Return pools in the order of their ids, at most ``limit``."""
    query = _QUERY.order_by(pools.c.id).limit(limit)
    if after is not None:
        query = query.where(pools.c.id > after)
    return [pool_row(row) for row in await connection.execute(query)]


async def all_of_server(connection: AsyncConnection, server: str) -> list[PoolRow]:
    """Return every pool on a server."""
    return [pool_row(row) for row in await connection.execute(_QUERY.where(pools.c.server == server))]


async def resize(
    connection: AsyncConnection, pool_id: UUID, sizes: Mapping[str, float | int]
) -> PoolRow | None:
    """Change ``min_ready``, ``max_size`` or ``idle_seconds``.

    Raises:
        ConstraintViolated: if ``min_ready`` would be larger than ``max_size``.
    """
    await connection.execute(update(pools).where(pools.c.id == pool_id).values(**sizes))
    return await get(connection, pool_id)


async def note_acquired(connection: AsyncConnection, pool_ids: Sequence[UUID]) -> None:
    """Set the last use of pools and of their templates to now."""
    await connection.execute(
        update(pools).where(pools.c.id.in_(pool_ids)).values(last_acquired_at=func.clock_timestamp())
    )
    used = select(pools.c.template_id).where(pools.c.id.in_(pool_ids))
    await connection.execute(
        update(templates).where(templates.c.id.in_(used)).values(last_used_at=func.clock_timestamp())
    )


async def note_error(connection: AsyncConnection, pool_id: UUID, error: str | None) -> None:
    """Store the last error of provisioning or resetting a database of the pool."""
    await connection.execute(update(pools).where(pools.c.id == pool_id).values(last_error=error))


async def claim_preparation(connection: AsyncConnection, claim_seconds: float) -> PoolRow | None:
    """Claim one schema pool that has no blueprint yet."""
    one = (
        select(pools.c.id)
        .join(templates, templates.c.id == pools.c.template_id)
        .where(
            pools.c.isolation == Isolation.SCHEMA.value,
            pools.c.blueprint.is_(None),
            pools.c.refusal.is_(None),
            templates.c.state == TemplateState.READY.value,
            or_(pools.c.claimed_until.is_(None), pools.c.claimed_until <= func.clock_timestamp()),
        )
        .limit(1)
        .with_for_update(of=pools, skip_locked=True)
        .scalar_subquery()
    )
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, claim_seconds)
    taken = (
        await connection.execute(
            update(pools).where(pools.c.id == one).values(claimed_until=until).returning(pools.c.id)
        )
    ).scalar_one_or_none()
    return await get(connection, taken) if taken else None


async def extend_preparation(connection: AsyncConnection, pool_id: UUID, claim_seconds: float) -> bool:
    """Extend the claim on a pool that is being prepared. ``False`` if its preparation has ended."""
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, claim_seconds)
    extended = await connection.execute(
        update(pools)
        .where(pools.c.id == pool_id, pools.c.blueprint.is_(None), pools.c.refusal.is_(None))
        .values(claimed_until=until)
    )
    return bool(extended.rowcount)


async def prepared(
    connection: AsyncConnection,
    pool_id: UUID,
    *,
    blueprint: Mapping[str, object] | None = None,
    refusal: Sequence[str] | None = None,
    error: str | None = None,
    retry_seconds: float | None = None,
) -> None:
    """Store the blueprint of a pool's schemas, or the refusal. With neither, the next attempt is in ``retry_seconds``."""
    retry = (
        None
        if retry_seconds is None
        else func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, retry_seconds)
    )
    await connection.execute(
        update(pools)
        .where(pools.c.id == pool_id, and_(pools.c.blueprint.is_(None), pools.c.refusal.is_(None)))
        .values(
            blueprint=dict(blueprint) if blueprint is not None else None,
            refusal=list(refusal) if refusal is not None else None,
            last_error=error,
            claimed_until=retry,
        )
    )


async def installation_id(connection: AsyncConnection) -> UUID:
    """Return the id of this installation, which marks all of its objects. The first replica creates it."""
    await connection.execute(insert(installation).values(singleton=True).on_conflict_do_nothing())
    found: UUID = (await connection.execute(select(installation.c.id))).scalar_one()
    return found


async def note_server(
    connection: AsyncConnection, name: str, *, host: str, port: int, version: int, adopted: bool
) -> bool:
    """Insert or update a server. Return whether it was ever adopted at this address."""
    row = insert(servers).values(name=name, host=host, port=port, version=version, adopted=adopted)
    done = await connection.execute(
        row.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "host": host,
                "port": port,
                "version": version,
                "adopted": or_(
                    and_(servers.c.adopted, servers.c.host == host, servers.c.port == port), literal(adopted)
                ),
                "seen_at": func.now(),
            },
        ).returning(servers.c.adopted)
    )
    return bool(done.scalar_one())


async def adopted(connection: AsyncConnection, name: str, *, host: str, port: int) -> bool:
    """Return whether this server was adopted before, at the same address."""
    query = select(servers.c.adopted).where(
        servers.c.name == name, servers.c.host == host, servers.c.port == port
    )
    return bool((await connection.execute(query)).scalar_one_or_none())


async def note_disk(connection: AsyncConnection, name: str, disk_bytes: int) -> None:
    """Store the disk usage of our databases on a server."""
    await connection.execute(
        update(servers).where(servers.c.name == name).values(disk_bytes=disk_bytes, seen_at=func.now())
    )


def templates_held() -> ScalarSelect[int]:
    """Return a subquery: the number of templates on the server of the outer query that have a database."""
    there = or_(templates.c.state == TemplateState.BUILDING.value, templates.c.database_name.is_not(None))
    return select(func.count()).where(templates.c.server == servers.c.name, there).scalar_subquery()


async def load(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    """Return for each server the number of its databases and templates, and their bytes as last measured."""
    held = select(func.count()).where(databases.c.server == servers.c.name).scalar_subquery()
    rows = await connection.execute(select(servers.c.name, held + templates_held(), servers.c.disk_bytes))
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}
