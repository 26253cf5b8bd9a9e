"""Statements over tokens, their scopes and quotas.

The quota of leases is checked by the grant, under a lock on the token's row (``token_hold``, a function of the control
plane's schema). The quotas of databases and disk are checked under the same lock (``room_of``). Therefore concurrent
callers on several replicas cannot exceed them. The quotas of a revoked token no longer apply, because other tokens may use
its templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, and_, case, func, insert, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb_service.store.rows import AnyRow
from freshdb_service.store.tables import leases, pools, templates, tokens


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of a token. ``None``: only the limits of the service apply.

    Attributes:
        max_leases: maximum number of live leases.
        max_databases: maximum number of databases, in any state, of the templates that it registered.
        max_ttl_seconds: maximum TTL and maximum lifetime of its leases.
        max_disk_bytes: maximum disk usage of its templates and their databases.
    """

    max_leases: int | None = None
    max_databases: int | None = None
    max_ttl_seconds: float | None = None
    max_disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The current use of a token's quotas."""

    leases: int
    databases: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class NewToken:
    """The values of a new token."""

    name: str
    scopes: Sequence[str]
    quotas: Quotas
    expires_seconds: float | None
    hint: str
    digest: bytes = field(repr=False)
    created_by: str | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token. ``expires_in_seconds`` and ``previous_in_seconds`` count from the instant at which it was read."""

    id: UUID
    name: str
    scopes: frozenset[str]
    hint: str
    digest: bytes = field(repr=False)
    previous_hint: str | None
    previous_digest: bytes | None = field(repr=False)
    previous_until: datetime | None
    quotas: Quotas
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    rotated_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None
    expires_in_seconds: float | None
    previous_in_seconds: float | None

    @property
    def state(self) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_in_seconds is not None and self.expires_in_seconds <= 0 else "active"


_QUOTAS: Final = ("max_leases", "max_databases", "max_ttl_seconds", "max_disk_bytes")
_LIVE = tokens.c.revoked_at.is_(None)
_EXPIRED = and_(tokens.c.expires_at.is_not(None), tokens.c.expires_at <= func.clock_timestamp())


def _until(column: ColumnElement[datetime | None]) -> ColumnElement[int]:
    return func.extract("epoch", column - func.clock_timestamp())


_QUERY = select(
    tokens,
    _until(tokens.c.expires_at).label("expires_in_seconds"),
    _until(tokens.c.previous_until).label("previous_in_seconds"),
)


async def any_ever(connection: AsyncConnection) -> bool:
    """Return whether a token was ever created."""
    return bool(await connection.scalar(select(select(tokens.c.id).exists())))


async def usable(connection: AsyncConnection) -> list[TokenRow]:
    """Return every token that is neither revoked nor expired."""
    return [
        _row(row) for row in await connection.execute(_QUERY.where(_LIVE, ~func.coalesce(_EXPIRED, False)))
    ]


async def create(connection: AsyncConnection, new: NewToken) -> TokenRow | None:
    """Insert a token.

    Returns:
        ``None`` if a principal of this name has live leases, which would become the new token's.

    Raises:
        ConstraintViolated: a token of this name exists.
    """
    identifier = uuid4()
    until = None if new.expires_seconds is None else _from_now(new.expires_seconds)
    await connection.execute(
        insert(tokens).values(
            id=identifier,
            name=new.name,
            scopes=sorted(new.scopes),
            hint=new.hint,
            digest=new.digest,
            created_by=new.created_by,
            expires_at=until,
            **{name: getattr(new.quotas, name) for name in _QUOTAS},
        )
    )
    if await held_by(connection, new.name):
        return None
    return _row((await connection.execute(_QUERY.where(tokens.c.id == identifier))).one())


async def find(connection: AsyncConnection, reference: UUID | str) -> TokenRow | None:
    """Find a token by id or by name. By name, a live token is preferred to a revoked one."""
    if isinstance(reference, UUID):
        query = _QUERY.where(tokens.c.id == reference)
    else:
        query = _QUERY.where(tokens.c.name == reference).order_by(
            case((_LIVE, 0), else_=1), tokens.c.created_at.desc()
        )
    row = (await connection.execute(query.limit(1))).one_or_none()
    return _row(row) if row else None


async def listing(
    connection: AsyncConnection, *, states: frozenset[str], limit: int, after: tuple[datetime, UUID] | None
) -> list[TokenRow]:
    """Return tokens in these states (``active``, ``expired``, ``revoked``) by their creation, after ``after``."""
    expired = func.coalesce(_EXPIRED, False)
    state = case((~_LIVE, "revoked"), (expired, "expired"), else_="active")
    query = _QUERY.where(state.in_(sorted(states))).order_by(tokens.c.created_at, tokens.c.id).limit(limit)
    if after:
        query = query.where(tuple_(tokens.c.created_at, tokens.c.id) > after)
    return [_row(row) for row in await connection.execute(query)]


async def rotate(
    connection: AsyncConnection, token_id: UUID, *, hint: str, digest: bytes, grace_seconds: float
) -> TokenRow | None:
    """Replace a token's secret. The previous one works for ``grace_seconds`` more. ``None`` if the token is revoked."""
    done = await connection.execute(
        update(tokens)
        .where(tokens.c.id == token_id, _LIVE)
        .values(
            previous_hint=tokens.c.hint if grace_seconds > 0 else None,
            previous_digest=tokens.c.digest if grace_seconds > 0 else None,
            previous_until=_from_now(grace_seconds) if grace_seconds > 0 else None,
            hint=hint,
            digest=digest,
            rotated_at=func.clock_timestamp(),
        )
    )
    return await find(connection, token_id) if done.rowcount else None


async def change(
    connection: AsyncConnection, token_id: UUID, quotas: Mapping[str, float | int | None]
) -> TokenRow | None:
    """Change the given quotas of a token. ``None`` if the token is revoked."""
    done = await connection.execute(
        update(tokens).where(tokens.c.id == token_id, _LIVE).values({name: quotas[name] for name in quotas})
    )
    return await find(connection, token_id) if done.rowcount else None


async def revoke(connection: AsyncConnection, token_id: UUID, *, by: str | None) -> TokenRow | None:
    """Revoke a token. ``None`` if it was revoked before."""
    done = await connection.execute(
        update(tokens)
        .where(tokens.c.id == token_id, _LIVE)
        .values(revoked_at=func.clock_timestamp(), revoked_by=by, previous_digest=None, previous_hint=None)
    )
    return await find(connection, token_id) if done.rowcount else None


async def note_used(connection: AsyncConnection, seconds_ago: Mapping[UUID, float]) -> None:
    """Store the last use of tokens."""
    await connection.execute(
        _NOTE_USED, {"ids": list(seconds_ago), "ages": [float(age) for age in seconds_ago.values()]}
    )


async def held_by(connection: AsyncConnection, principal: str) -> list[UUID]:
    """Return the live leases of a principal."""
    live = text("state IN ('active', 'kept')")  # the same text as the condition of the index
    rows = await connection.execute(select(leases.c.id).where(leases.c.principal == principal, live))
    return [row.id for row in rows]


async def use_of(connection: AsyncConnection, token: TokenRow) -> TokenUsage:
    """Return the current use of a token's quotas."""
    held = len(await held_by(connection, token.name))
    made, disk = await _usage_of(connection, token.id)
    return TokenUsage(held, made, disk)


@dataclass(frozen=True, slots=True)
class ExceededQuota:
    """An exhausted quota: its token, name, limit and current use."""

    token_id: UUID
    token: str
    quota: str
    limit: int
    use: int


async def hit_by_template(connection: AsyncConnection, token_id: UUID | None) -> ExceededQuota | None:
    """Return the quota of a token that another template would exceed. Runs inside a transaction."""
    return None if token_id is None else await _hit(connection, token_id, 0)


async def hit_by_pool(connection: AsyncConnection, pool_id: UUID) -> ExceededQuota | None:
    """Return the quota that one more database of a pool would exceed, of the token that registered its template."""
    row = (await connection.execute(_template_of(pool_id))).one_or_none()
    if row is None or row.token_id is None:
        return None
    return await _hit(connection, row.token_id, row.size_bytes or 0)


async def room_of(connection: AsyncConnection, pool_id: UUID, wanted: int) -> int:
    """Reduce ``wanted`` databases of a pool to the number that the quotas of its template's token allow.

    Runs inside a transaction, which holds the lock on the token's row until its end.
    """
    template = (await connection.execute(_template_of(pool_id))).one()
    if template.token_id is None:
        return wanted
    quotas = await _locked(connection, template.token_id)
    if quotas is None or (quotas.max_databases is None and quotas.max_disk_bytes is None):
        return wanted
    made, disk_bytes = await _usage_of(connection, template.token_id)
    if quotas.max_databases is not None:
        wanted = min(wanted, quotas.max_databases - made)
    if quotas.max_disk_bytes is not None:
        wanted = min(wanted, (quotas.max_disk_bytes - disk_bytes) // max(1, template.size_bytes or 0))
    return max(0, wanted)


async def _hit(connection: AsyncConnection, token_id: UUID, size_bytes: int) -> ExceededQuota | None:
    row = (await connection.execute(select(tokens).where(tokens.c.id == token_id, _LIVE))).one_or_none()
    if row is None or (row.max_databases is None and row.max_disk_bytes is None):
        return None
    made, disk_bytes = await _usage_of(connection, token_id)
    if row.max_databases is not None and made >= row.max_databases:
        return ExceededQuota(token_id, row.name, "max_databases", row.max_databases, made)
    if row.max_disk_bytes is not None and disk_bytes + max(1, size_bytes) > row.max_disk_bytes:
        return ExceededQuota(token_id, row.name, "max_disk_bytes", row.max_disk_bytes, disk_bytes)
    return None


async def _locked(connection: AsyncConnection, token_id: UUID) -> Quotas | None:
    columns = [tokens.c[name] for name in _QUOTAS]
    query = select(*columns).where(tokens.c.id == token_id, _LIVE).with_for_update(key_share=True)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Quotas(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


async def _usage_of(connection: AsyncConnection, token_id: UUID) -> tuple[int, int]:
    """Return the number of databases of a token's templates, and the disk usage of both.

    Databases that were created since the last measurement count with the size of their template.
    """
    row = (await connection.execute(_USAGE, {"token": token_id})).one()
    return int(row.made), int(row.disk_bytes)


def _template_of(pool_id: UUID) -> Select[tuple[UUID | None, int | None]]:
    joined = pools.c.template_id == templates.c.id
    return (
        select(templates.c.token_id, templates.c.size_bytes).join(pools, joined).where(pools.c.id == pool_id)
    )


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _row(row: AnyRow) -> TokenRow:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    quotas = Quotas(**{name: values.pop(name) for name in _QUOTAS})
    for name in ("expires_in_seconds", "previous_in_seconds"):
        values[name] = None if values[name] is None else float(values[name])
    return TokenRow(**{**values, "scopes": frozenset(values["scopes"]), "quotas": quotas})


_NOTE_USED = text(
    """
    UPDATE tokens t SET last_used_at = greatest(t.last_used_at, clock_timestamp() - make_interval(secs => used.age))
    FROM unnest(CAST(:ids AS uuid[]), CAST(:ages AS float8[])) AS used (id, age)
    WHERE t.id = used.id
    """
)

_USAGE = text(
    """
    SELECT coalesce(sum(made), 0) AS made,
           coalesce(sum(greatest(disk_bytes, coalesce(size_bytes, 0) * (1 + made))), 0) AS disk_bytes
    FROM (SELECT t.size_bytes, t.disk_bytes,
                 (SELECT count(*) FROM databases d JOIN pools p ON p.id = d.pool_id WHERE p.template_id = t.id) AS made
          FROM templates t WHERE t.token_id = :token) each
    """
)
