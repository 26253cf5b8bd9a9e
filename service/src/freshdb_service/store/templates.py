"""Statements over templates: register, take over a build, finish it, retire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Double,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.lifecycle import TemplateState
from freshdb_service.store.rows import TemplateRow, template_row
from freshdb_service.store.tables import databases, leases, pools, templates

_OVERDUE = and_(
    templates.c.state == TemplateState.BUILDING.value, templates.c.build_deadline_at <= func.clock_timestamp()
)
_LIVE = templates.alias("live")
_OUTDATED: Final = and_(
    templates.c.state == TemplateState.RETIRED.value,
    templates.c.error.has_key("outdated"),
    ~select(_LIVE.c.id)
    .where(
        _LIVE.c.name == templates.c.name,
        _LIVE.c.state != TemplateState.RETIRED.value,
        or_(_LIVE.c.fingerprint == templates.c.fingerprint, _LIVE.c.ready_at > templates.c.ready_at),
    )
    .correlate(templates)
    .exists(),
)
"""Templates that ``retire_outdated`` retired, and that callers have not built again since, nor replaced by a newer one."""
_REBUILDING: Final = and_(
    templates.c.state == TemplateState.BUILDING.value, templates.c.ready_at.is_not(None)
)
_COLUMNS = [
    *(templates.c[one.name] for one in fields(TemplateRow) if one.name in templates.c),
    func.coalesce(_OVERDUE, literal(False)).label("build_overdue"),
]


_NEW_ATTEMPT: Final = {
    "attempt": templates.c.attempt + 1,
    "database_name": None,
    "log": None,
    "warnings": list[str](),
}


@dataclass(frozen=True, slots=True)
class Registration:
    """A caller's registration of a template."""

    name: str
    fingerprint: str
    extensions: Sequence[str | Mapping[str, str]]
    sql: Sequence[str] | None
    content: str | None
    build_seconds: float
    build_token: str
    server: str
    token_id: UUID | None = None


def _deadline(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


async def register(connection: AsyncConnection, wanted: Registration) -> tuple[TemplateRow, bool]:
    """Insert a template, or find it. The lock on its row decides which caller builds it. Runs inside a transaction.

    Returns:
        The template, and ``True`` if the caller must build it: it is new, its last build failed, or the deadline of its
        builder has passed.
    """
    values = {
        "extensions": list(wanted.extensions),
        "sql": list(wanted.sql) if wanted.sql is not None else None,
        "content": wanted.content,
        "build_seconds": wanted.build_seconds,
        "build_token": wanted.build_token,
        "build_deadline_at": _deadline(wanted.build_seconds),
        "state": TemplateState.BUILDING.value,
        "token_id": wanted.token_id,
    }
    new = await connection.execute(
        insert(templates)
        .values(id=uuid4(), name=wanted.name, fingerprint=wanted.fingerprint, server=wanted.server, **values)
        .on_conflict_do_nothing(
            index_elements=["name", "fingerprint"],
            index_where=text("state <> 'retired'"),  # the same text as the condition of the index
        )
        .returning(*_COLUMNS)
    )
    row = new.one_or_none()
    if row is not None:
        return template_row(row), True
    live = and_(
        templates.c.name == wanted.name,
        templates.c.fingerprint == wanted.fingerprint,
        templates.c.state != TemplateState.RETIRED.value,
    )
    there = (await connection.execute(select(*_COLUMNS).where(live).with_for_update())).one_or_none()
    if there is None:  # retired between the two statements
        return await register(connection, wanted)
    template = template_row(there)
    if template.state is not TemplateState.FAILED and not template.build_overdue:
        return template, False
    taken = await connection.execute(
        update(templates)
        .where(templates.c.id == template.id)
        .values(**values, **_NEW_ATTEMPT, error=None)
        .returning(*_COLUMNS)
    )
    return template_row(taken.one()), True


async def take_over_sql_build(connection: AsyncConnection, *, claim_seconds: float) -> TemplateRow | None:
    """Take over one build from SQL whose replica died. Its SQL is in the row, so that every replica can repeat it."""
    one = select(templates.c.id).where(_OVERDUE, templates.c.sql.is_not(None)).limit(1)
    taken = await connection.execute(
        update(templates)
        .where(templates.c.id == one.with_for_update(skip_locked=True).scalar_subquery())
        .values(build_deadline_at=_deadline(claim_seconds), **_NEW_ATTEMPT)
        .returning(*_COLUMNS)
    )
    row = taken.one_or_none()
    return template_row(row) if row else None


async def extend(
    connection: AsyncConnection, template_id: UUID, attempt: int, seconds: float
) -> datetime | None:
    """Move a build's deadline to ``seconds`` from now. ``None`` if another attempt has replaced this one."""
    done = await connection.execute(
        update(templates)
        .where(*_building(template_id, attempt))
        .values(build_deadline_at=_deadline(seconds))
        .returning(templates.c.build_deadline_at)
    )
    deadline: datetime | None = done.scalar_one_or_none()
    return deadline


async def make_ready(
    connection: AsyncConnection,
    template_id: UUID,
    attempt: int,
    *,
    database_name: str,
    size_bytes: int,
    log: str | None,
    warnings: Sequence[str],
) -> TemplateRow | None:
    """``building`` → ``ready``. ``None`` if another attempt has replaced this one."""
    done = await connection.execute(
        update(templates)
        .where(*_building(template_id, attempt))
        .values(
            state=TemplateState.READY.value,
            database_name=database_name,
            size_bytes=size_bytes,
            error=None,
            log=log,
            warnings=list(warnings),
            build_token=None,
            build_deadline_at=None,
            ready_at=func.coalesce(templates.c.ready_at, func.clock_timestamp()),
            last_used_at=func.clock_timestamp(),
        )
        .returning(*_COLUMNS)
    )
    row = done.one_or_none()
    return template_row(row) if row else None


async def make_failed(
    connection: AsyncConnection,
    template_id: UUID,
    attempt: int,
    error: Mapping[str, object],
    *,
    log: str | None,
) -> TemplateRow | None:
    """``building`` → ``failed``, with its error. ``None`` if another attempt has replaced this one."""
    done = await connection.execute(
        update(templates)
        .where(*_building(template_id, attempt))
        .values(
            state=TemplateState.FAILED.value,
            error=dict(error),
            log=log,
            build_token=None,
            build_deadline_at=None,
        )
        .returning(*_COLUMNS)
    )
    row = done.one_or_none()
    return template_row(row) if row else None


async def retire(connection: AsyncConnection, template_id: UUID, *, even_leased: bool) -> TemplateRow | None:
    """Retire a ready or failed template. ``None`` if it is neither, or has live leases and not ``even_leased``."""
    leased = (
        select(leases.c.id)
        .where(leases.c.template_id == template_id, leases.c.state.in_(["active", "kept"]))
        .exists()
    )
    condition = [
        templates.c.id == template_id,
        templates.c.state.in_([TemplateState.READY.value, TemplateState.FAILED.value]),
    ]
    if not even_leased:
        condition.append(~leased)
    done = await connection.execute(
        update(templates).where(*condition).values(state=TemplateState.RETIRED.value).returning(*_COLUMNS)
    )
    row = done.one_or_none()
    return template_row(row) if row else None


async def retire_outdated(
    connection: AsyncConnection, template_id: UUID, error: Mapping[str, object]
) -> TemplateRow | None:
    """Retire a ready template whose database PostgreSQL no longer clones. ``None`` if it is not ready any more.

    A template whose ``error`` has the member ``outdated`` must be built again by a caller (``_OUTDATED``).
    """
    done = await connection.execute(
        update(templates)
        .where(templates.c.id == template_id, templates.c.state == TemplateState.READY.value)
        .values(state=TemplateState.RETIRED.value, error=dict(error))
        .returning(*_COLUMNS)
    )
    row = done.one_or_none()
    return template_row(row) if row else None


async def register_again(connection: AsyncConnection, retired: UUID, build_seconds: float) -> TemplateRow:
    """Register a retired template again, with the sizes of its pools. Runs in the transaction that retired it.

    The new template keeps the time when the old one became ready. So a name still means the newest of its templates.
    """
    again = uuid4()
    await connection.execute(_REGISTER_AGAIN, {"id": again, "old": retired, "build_seconds": build_seconds})
    return template_row((await connection.execute(select(*_COLUMNS).where(templates.c.id == again))).one())


async def retire_unused(connection: AsyncConnection, unused_seconds: float) -> list[TemplateRow]:
    """Retire templates that were not used for ``unused_seconds`` and have no live lease."""
    live = (
        select(leases.c.id)
        .where(leases.c.template_id == templates.c.id, leases.c.state.in_(["active", "kept"]))
        .exists()
    )
    done = await connection.execute(
        update(templates)
        .where(
            templates.c.state.in_([TemplateState.READY.value, TemplateState.FAILED.value]),
            templates.c.last_used_at
            <= func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, unused_seconds),
            ~live,
        )
        .values(state=TemplateState.RETIRED.value)
        .returning(*_COLUMNS)
    )
    return [template_row(row) for row in done]


async def get(connection: AsyncConnection, template_id: UUID) -> TemplateRow | None:
    """Return one template."""
    row = (await connection.execute(select(*_COLUMNS).where(templates.c.id == template_id))).one_or_none()
    return template_row(row) if row else None


async def build_log(connection: AsyncConnection, template_id: UUID) -> str | None:
    """Return the log of a template's last build, which ``TemplateRow`` leaves out. ``None`` without a log."""
    found: str | None = await connection.scalar(select(templates.c.log).where(templates.c.id == template_id))
    return found


async def with_warnings(connection: AsyncConnection, *, limit: int) -> list[TemplateRow]:
    """Return ready templates whose build has warnings, if they are the newest ones of their names."""
    newer = templates.alias()
    replaced = select(newer.c.id).where(
        newer.c.name == templates.c.name,
        newer.c.state == TemplateState.READY.value,
        newer.c.ready_at > templates.c.ready_at,
    )
    query = select(*_COLUMNS).where(
        templates.c.state == TemplateState.READY.value,
        func.jsonb_array_length(templates.c.warnings) > 0,
        ~replaced.exists(),
    )
    found = await connection.execute(query.order_by(templates.c.last_used_at.desc()).limit(limit))
    return [template_row(row) for row in found]


async def find(connection: AsyncConnection, name: str, fingerprint: str | None) -> TemplateRow | None:
    """Find a template by name and fingerprint. Without a fingerprint: the newest that was ready, else the newest of all.

    A retired template is found only if it is outdated and must be built again.
    """
    query = select(*_COLUMNS).where(
        templates.c.name == name, or_(templates.c.state != TemplateState.RETIRED.value, _OUTDATED)
    )
    if fingerprint is not None:
        query = query.where(templates.c.fingerprint == fingerprint)
    newest = (templates.c.ready_at.desc().nulls_last(), templates.c.created_at.desc())
    row = (await connection.execute(query.order_by(*newest).limit(1))).one_or_none()
    return template_row(row) if row else None


async def listing(
    connection: AsyncConnection,
    *,
    name: str | None,
    state: TemplateState | None,
    limit: int,
    after: tuple[datetime, UUID] | None,
) -> list[TemplateRow]:
    """Return templates in the order of their registration, after ``after``."""
    query = select(*_COLUMNS).order_by(templates.c.created_at, templates.c.id).limit(limit)
    if name is not None:
        query = query.where(templates.c.name == name)
    if state is not None:
        query = query.where(templates.c.state == state.value)
    if after:
        query = query.where(tuple_(templates.c.created_at, templates.c.id) > after)
    return [template_row(row) for row in await connection.execute(query)]


async def outdated(connection: AsyncConnection, *, limit: int) -> list[TemplateRow]:
    """Return templates that are outdated and must be built again, or are being built again."""
    query = select(*_COLUMNS).where(or_(_OUTDATED, _REBUILDING)).order_by(templates.c.created_at).limit(limit)
    return [template_row(row) for row in await connection.execute(query)]


async def all_of_server(connection: AsyncConnection, server: str) -> list[TemplateRow]:
    """Return every template on a server, including retired ones."""
    return [
        template_row(row)
        for row in await connection.execute(select(*_COLUMNS).where(templates.c.server == server))
    ]


async def retired_without_databases(connection: AsyncConnection, kept_seconds: float) -> list[TemplateRow]:
    """Return retired templates without databases. Their remains on the server can be dropped.

    Outdated templates whose remains were dropped (``database_name`` is null) are returned again when their row is to be
    deleted: ``kept_seconds`` after their last use, or when they were built again.
    """
    in_use = (
        select(databases.c.id)
        .join(pools, pools.c.id == databases.c.pool_id)
        .where(pools.c.template_id == templates.c.id)
    )
    kept = and_(
        _OUTDATED,
        templates.c.database_name.is_(None),
        templates.c.last_used_at
        > func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, kept_seconds),
    )
    query = select(*_COLUMNS).where(templates.c.state == TemplateState.RETIRED.value, ~in_use.exists(), ~kept)
    return [template_row(row) for row in await connection.execute(query)]


async def keep_outdated(connection: AsyncConnection, template_id: UUID) -> bool:
    """Keep the row of an outdated template after its database was dropped, without its pools. The row says what to do.

    Returns:
        ``False`` if the template is not outdated, or its row was kept before.
    """
    kept = await connection.execute(
        update(templates)
        .where(templates.c.id == template_id, _OUTDATED, templates.c.database_name.is_not(None))
        .values(database_name=None, size_bytes=None, disk_bytes=0)
    )
    if kept.rowcount:
        await connection.execute(delete(pools).where(pools.c.template_id == template_id))
    return bool(kept.rowcount)


async def delete_row(connection: AsyncConnection, template_id: UUID) -> None:
    """Delete the row of a retired template and the rows of its pools."""
    await connection.execute(
        delete(templates).where(
            templates.c.id == template_id, templates.c.state == TemplateState.RETIRED.value
        )
    )


def _building(template_id: UUID, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return (
        templates.c.id == template_id,
        templates.c.attempt == attempt,
        templates.c.state == TemplateState.BUILDING.value,
    )


async def note_disk(connection: AsyncConnection, disk_bytes: Mapping[UUID, int]) -> None:
    """Store the disk usage of templates, including their databases."""
    await connection.execute(
        _NOTE_DISK, {"ids": list(disk_bytes), "sizes": [int(size) for size in disk_bytes.values()]}
    )


_NOTE_DISK = text(
    """
    UPDATE templates t SET disk_bytes = measured.disk_bytes
    FROM unnest(CAST(:ids AS uuid[]), CAST(:sizes AS bigint[])) AS measured (id, disk_bytes)
    WHERE t.id = measured.id AND t.disk_bytes IS DISTINCT FROM measured.disk_bytes
    """
)

_REGISTER_AGAIN = text(
    """
    WITH again AS (
        INSERT INTO templates (id, state, name, fingerprint, server, extensions, sql, content, token_id, ready_at,
                               last_used_at, build_seconds, build_deadline_at)
        SELECT :id, 'building', name, fingerprint, server, extensions, sql, content, token_id, ready_at, last_used_at,
               CAST(:build_seconds AS float8), clock_timestamp() + make_interval(secs => :build_seconds)
        FROM templates WHERE id = :old
        RETURNING id
    )
    INSERT INTO pools (id, template_id, isolation, server, min_ready, max_size, idle_seconds)
    SELECT gen_random_uuid(), again.id, isolation, server, min_ready, max_size, idle_seconds
    FROM pools, again WHERE template_id = :old
    """
).bindparams(
    bindparam("id", type_=Uuid()),
    bindparam("old", type_=Uuid()),
    bindparam("build_seconds", type_=Double()),
)
