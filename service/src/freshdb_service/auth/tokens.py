"""Tokens: made, rotated and revoked, in the control plane alone.

The command that creates the first token of an installation needs no more than this
(:mod:`~freshdb_service.api.offline_tokens`). What running replicas know of tokens is in
:mod:`~freshdb_service.auth.token_cache`. The transaction that changes a token writes the entry of the audit log. A token's
row is never deleted: an installation that ever had one stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from freshdb_service.auth.token_format import digest_of, hint_of, new_secret
from freshdb_service.config import RESERVED_NAMES
from freshdb_service.errors import Conflict, TokenNotFound
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.audit_log import Actor, AuditAction, record
from freshdb_service.store.connection import Connection, ConstraintViolated, Store
from freshdb_service.store.tokens import NewToken, Quotas, TokenRow, TokenUsage


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token shall be."""

    name: str
    scopes: frozenset[str]
    quotas: Quotas = field(default_factory=Quotas)
    expires_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and its secret, which is shown once and stored nowhere."""

    token: TokenRow
    secret: str = field(repr=False)


class TokenRegistry:
    """The tokens of an installation."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, wanted: TokenRequest, by: Actor) -> IssuedToken:
        """Make a token.

        Raises:
            Conflict: the name is taken, or leases live that would become the new token's.
        """
        if wanted.name in RESERVED_NAMES:
            message = f"the name {wanted.name!r} stands for callers without a token; choose another"
            raise Conflict(message)
        secret = new_secret()
        new = NewToken(
            name=wanted.name,
            scopes=sorted(wanted.scopes),
            quotas=wanted.quotas,
            expires_seconds=wanted.expires_seconds,
            hint=hint_of(secret),
            digest=digest_of(secret),
            created_by=by.principal,
        )
        details: dict[str, object] = {
            "scopes": sorted(wanted.scopes),
            "expires_seconds": wanted.expires_seconds,
            "quotas": _given(wanted.quotas),
        }
        try:
            async with self._store.transaction() as connection:
                token = await store_tokens.create(connection, new)
                if token is None:
                    message = (
                        f"leases live that were acquired as {wanted.name!r}, and a new token of this name would get them; "
                        "release or revoke them first, or choose another name"
                    )
                    raise Conflict(message)
                await record(connection, AuditAction("token.created", by, token.id, token.name, details))
        except ConstraintViolated:
            message = f"there is a token {wanted.name!r} already; rotate it for a new secret, or choose another name"
            raise Conflict(message) from None
        return IssuedToken(token, secret)

    async def rotate(self, reference: str, by: Actor, *, grace_seconds: float = 0.0) -> IssuedToken:
        """Give a token another secret; the one before works for ``grace_seconds`` more.

        Raises:
            TokenNotFound: there is none.
            Conflict: it is revoked.
        """
        secret = new_secret()
        async with self._store.transaction() as connection:
            there = await _find(connection, reference)
            token = await store_tokens.rotate(
                connection,
                there.id,
                hint=hint_of(secret),
                digest=digest_of(secret),
                grace_seconds=grace_seconds,
            )
            if token is None:
                raise _revoked(there)
            details: dict[str, object] = {"grace_seconds": grace_seconds}
            await record(connection, AuditAction("token.rotated", by, token.id, token.name, details))
        return IssuedToken(token, secret)

    async def change(self, reference: str, quotas: Mapping[str, float | int | None], by: Actor) -> TokenRow:
        """Give a token other quotas; those left out stay, and ``None`` lifts one.

        Raises:
            TokenNotFound: there is none.
            Conflict: it is revoked.
        """
        async with self._store.transaction() as connection:
            there = await _find(connection, reference)
            if not quotas:
                return there
            token = await store_tokens.change(connection, there.id, quotas)
            if token is None:
                raise _revoked(there)
            await record(connection, AuditAction("token.changed", by, token.id, token.name, dict(quotas)))
        return token

    async def revoke(self, reference: str, by: Actor) -> TokenRow:
        """End a token for good. Revoking it again is no error.

        Raises:
            TokenNotFound: there is none.
        """
        async with self._store.transaction() as connection:
            there = await _find(connection, reference)
            token = await store_tokens.revoke(connection, there.id, by=by.principal)
            if token is not None:
                await record(connection, AuditAction("token.revoked", by, token.id, token.name))
        return token or there

    async def find(self, reference: str) -> tuple[TokenRow, TokenUsage]:
        """One token by id or name, and how much it has.

        Raises:
            TokenNotFound: there is none.
        """
        async with self._store.statement() as connection:
            token = await _find(connection, reference)
            return token, await store_tokens.use_of(connection, token)

    async def held_by(self, token: TokenRow) -> list[UUID]:
        """The leases that live in this token's name."""
        async with self._store.statement() as connection:
            return await store_tokens.held_by(connection, token.name)

    async def listing(
        self, *, states: frozenset[str], limit: int, after: tuple[datetime, UUID] | None
    ) -> list[TokenRow]:
        """Tokens in these states, in the order of their making."""
        async with self._store.statement() as connection:
            return await store_tokens.listing(connection, states=states, limit=limit, after=after)


async def _find(connection: Connection, reference: str) -> TokenRow:
    try:
        token = await store_tokens.find(connection, UUID(reference))
    except ValueError:
        token = await store_tokens.find(connection, reference)
    if token is None:
        message = f"there is no token {reference!r}; name it by its name or its id"
        raise TokenNotFound(message)
    return token


def _revoked(token: TokenRow) -> Conflict:
    return Conflict(f"the token {token.name!r} is revoked, and stays so; make a new one")


def _given(quotas: Quotas) -> dict[str, float | int]:
    values = {name: getattr(quotas, name) for name in Quotas.__slots__}
    return {name: value for name, value in values.items() if value is not None}
