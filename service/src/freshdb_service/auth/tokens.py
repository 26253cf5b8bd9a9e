"""Registry of tokens in the control plane: create, rotate, change and revoke them.

The command that creates the first token of an installation needs this module only
(:mod:`~freshdb_service.api.offline_tokens`). Running replicas use :mod:`~freshdb_service.auth.token_cache`. The transaction
that changes a token also writes the audit log entry. A token's row is never deleted, so that an installation that ever had
one stays closed.
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
    """Properties of a new token."""

    name: str
    scopes: frozenset[str]
    quotas: Quotas = field(default_factory=Quotas)
    expires_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and its secret, which is shown once and not stored."""

    token: TokenRow
    secret: str = field(repr=False)


class TokenRegistry:
    """The tokens of an installation."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, wanted: TokenRequest, by: Actor) -> IssuedToken:
        """Create a token.

        Raises:
            Conflict: the name is taken or reserved, or live leases exist that the new token would own.
        """
        if wanted.name in RESERVED_NAMES:
            message = f"the name {wanted.name!r} is reserved for callers without a token; choose another name"
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
                        f"there are live leases of {wanted.name!r}, which a new token with this name would own; "
                        "release or revoke them first, or choose another name"
                    )
                    raise Conflict(message)
                await record(connection, AuditAction("token.created", by, token.id, token.name, details))
        except ConstraintViolated:
            message = f"the token {wanted.name!r} exists; rotate it for a new secret, or choose another name"
            raise Conflict(message) from None
        return IssuedToken(token, secret)

    async def rotate(self, reference: str, by: Actor, *, grace_seconds: float = 0.0) -> IssuedToken:
        """Give a token a new secret. The old one works for ``grace_seconds`` more.

        Raises:
            TokenNotFound: no token has this name or id.
            Conflict: the token is revoked.
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
        """Change a token's quotas. Omitted quotas keep their values, and ``None`` removes a quota.

        Raises:
            TokenNotFound: no token has this name or id.
            Conflict: the token is revoked.
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
        """Revoke a token permanently. Revoking it again is no error.

        Raises:
            TokenNotFound: no token has this name or id.
        """
        async with self._store.transaction() as connection:
            there = await _find(connection, reference)
            token = await store_tokens.revoke(connection, there.id, by=by.principal)
            if token is not None:
                await record(connection, AuditAction("token.revoked", by, token.id, token.name))
        return token or there

    async def find(self, reference: str) -> tuple[TokenRow, TokenUsage]:
        """Return one token by id or name, and the use of its quotas.

        Raises:
            TokenNotFound: no token has this name or id.
        """
        async with self._store.statement() as connection:
            token = await _find(connection, reference)
            return token, await store_tokens.use_of(connection, token)

    async def held_by(self, token: TokenRow) -> list[UUID]:
        """Return the ids of the token's live leases."""
        async with self._store.statement() as connection:
            return await store_tokens.held_by(connection, token.name)

    async def listing(
        self, *, states: frozenset[str], limit: int, after: tuple[datetime, UUID] | None
    ) -> list[TokenRow]:
        """Return tokens in these states, oldest first."""
        async with self._store.statement() as connection:
            return await store_tokens.listing(connection, states=states, limit=limit, after=after)


async def _find(connection: Connection, reference: str) -> TokenRow:
    try:
        token = await store_tokens.find(connection, UUID(reference))
    except ValueError:
        token = await store_tokens.find(connection, reference)
    if token is None:
        message = f"there is no token {reference!r}; see freshdb token list (GET /v1/tokens)"
        raise TokenNotFound(message)
    return token


def _revoked(token: TokenRow) -> Conflict:
    return Conflict(f"the token {token.name!r} is revoked permanently; create a new one")


def _given(quotas: Quotas) -> dict[str, float | int]:
    values = {name: getattr(quotas, name) for name in Quotas.__slots__}
    return {name: value for name, value in values.items() if value is not None}
