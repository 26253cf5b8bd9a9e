"""Operations on tokens and the audit log, as flows. All of them need a token with the scope ``admin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from freshdb import json_fields
from freshdb.messages import ServiceCall, encode, listed, path, query
from freshdb.operations_base import OperationsBase
from freshdb.token_models import AuditRecord, Token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from freshdb.messages import Flow

DEFAULT_SCOPES: Final = ("read", "lease", "build")

_REVOKE_LEASES_SECONDS: Final = 60.0
"""Extra timeout for revoking the leases of a token."""


class TokenOperations(OperationsBase):
    """The operations on tokens and the audit log."""

    __slots__ = ()

    def create_token(
        self,
        name: str,
        *,
        scopes: str | Sequence[str] = DEFAULT_SCOPES,
        expires_seconds: float | None = None,
        quotas: Mapping[str, float | int | None] | None = None,
    ) -> Flow[Token]:
        """Create a token. Only this answer has its ``.secret``.

        Args:
            name: name of the token. Its leases belong to this name.
            scopes: one or several of ``read``, ``lease``, ``build`` and ``admin``. The scope ``admin`` includes the others.
            expires_seconds: lifetime from now. Without it, the token does not expire.
            quotas: some of ``max_leases``, ``max_databases``, ``max_ttl_seconds`` and ``max_disk_bytes``.

        Raises:
            Conflict: the name is taken.
        """
        body: dict[str, object] = {"name": name, "scopes": listed(scopes), **(quotas or {})}
        if expires_seconds is not None:
            body["expires_seconds"] = expires_seconds
        # a retry after a lost answer would find the name taken
        call = ServiceCall("POST", "/v1/tokens", encode(body), repeatable=False)
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def tokens(
        self, *, states: str | Sequence[str] | None = None, limit: int | None = None
    ) -> Flow[list[Token]]:
        """List all tokens, or the first `limit`.

        Args:
            states: one or several of ``active``, ``expired`` and ``revoked``. Default: the first two.
            limit: maximum number of tokens.
        """
        pairs: list[tuple[str, str | None]] = [("state", state) for state in listed(states or ())]
        return (yield from self._list("/v1/tokens", pairs, limit, Token.from_wire))

    def token(self, reference: str) -> Flow[Token]:
        """Look a token up by name or id, with the ``.use`` of its quotas.

        Raises:
            TokenNotFound: there is no such token.
        """
        return Token.from_wire(
            json_fields.members((yield from self._ask(ServiceCall("GET", path("/v1/tokens/{}", reference)))))
        )

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Flow[Token]:
        """Change the quotas that are given. ``None`` removes a quota.

        Raises:
            TokenNotFound: there is no such token.
            Conflict: the token is revoked.
        """
        call = ServiceCall("PATCH", path("/v1/tokens/{}", reference), encode(dict(quotas)))
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Flow[Token]:
        """Replace a token's ``.secret``, which only this answer has. The old secret works for `grace_seconds` more.

        Raises:
            TokenNotFound: there is no such token.
            Conflict: the token is revoked.
        """
        body = encode({"grace_seconds": grace_seconds})
        call = ServiceCall("POST", path("/v1/tokens/{}/rotate", reference), body, repeatable=False)
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def revoke_token(self, reference: str, *, leases: bool = False) -> Flow[Token]:
        """Revoke a token permanently. Repeating this does no harm.

        Args:
            reference: name or id.
            leases: revoke its leases, too. Otherwise they expire, because no client can renew them.

        Raises:
            TokenNotFound: there is no such token.
        """
        address = query(path("/v1/tokens/{}", reference), [("leases", "true" if leases else None)])
        call = ServiceCall("DELETE", address, extra_seconds=_REVOKE_LEASES_SECONDS if leases else 0.0)
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def audit(
        self,
        *,
        action: str | None = None,
        principal: str | None = None,
        address: str | None = None,
        subject: str | None = None,
        label: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
    ) -> Flow[list[AuditRecord]]:
        """Read the audit log, the newest entry first.

        Args:
            action: for example ``lease.revoked``, or ``lease.*`` for all actions on leases.
            principal: name of the token that acted.
            address: IP address of the client.
            subject: id of the lease, template, pool or token.
            label: name of the subject.
            since: earliest time, inclusive.
            until: latest time, exclusive.
            limit: maximum number of entries, or ``None`` for all.
        """
        pairs = [
            ("action", action),
            ("principal", principal),
            ("address", address),
            ("subject", subject),
            ("label", label),
            ("since", since.isoformat() if since else None),
            ("until", until.isoformat() if until else None),
        ]
        return (yield from self._list("/v1/audit", pairs, limit, AuditRecord.from_wire))
