"""Operations on tokens and the audit trail, as flows; all need a token with the scope ``admin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from freshdb import json_fields
from freshdb.messages import ServiceCall, encode, path, query
from freshdb.operations_base import OperationsBase
from freshdb.token_models import AuditRecord, Token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from freshdb.messages import Flow

DEFAULT_SCOPES: Final = ("read", "lease", "build")

_LEASES_SECONDS: Final = 60.0
"""How long the service may take to end a token's leases."""


class TokenOperations(OperationsBase):
    """All that can be done with tokens, and the audit trail."""

    __slots__ = ()

    def create_token(
        self,
        name: str,
        *,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        expires_seconds: float | None = None,
        quotas: Mapping[str, float | int | None] | None = None,
    ) -> Flow[Token]:
        """Make a token; its ``.secret`` is told this once.

        Args:
            name: who it stands for: leases belong to this name.
            scopes: of ``read``, ``lease``, ``build`` and ``admin``, which includes the others.
            expires_seconds: from now; without, never.
            quotas: of ``max_leases``, ``max_databases``, ``max_ttl_seconds`` and ``max_disk_bytes``.

        Raises:
            Conflict: the name is taken.
        """
        body: dict[str, object] = {"name": name, "scopes": list(scopes), **(quotas or {})}
        if expires_seconds is not None:
            body["expires_seconds"] = expires_seconds
        # sent again after a lost answer, it would find the name taken
        call = ServiceCall("POST", "/v1/tokens", encode(body), repeatable=False)
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def tokens(self, *, states: Sequence[str] | None = None, limit: int | None = None) -> Flow[list[Token]]:
        """List tokens, those of all pages or the first `limit`.

        Args:
            states: of ``active``, ``expired`` and ``revoked``; by default those that are not revoked.
            limit: at most so many.
        """
        pairs: list[tuple[str, str | None]] = [("state", state) for state in states or ()]
        return (yield from self._list("/v1/tokens", pairs, limit, Token.from_wire))

    def token(self, reference: str) -> Flow[Token]:
        """Look a token up by name or id; ``.use`` says how much it has.

        Raises:
            TokenNotFound: there is none.
        """
        return Token.from_wire(
            json_fields.members((yield from self._ask(ServiceCall("GET", path("/v1/tokens/{}", reference)))))
        )

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Flow[Token]:
        """Change a token's quotas: those left out stay, and ``None`` lifts one.

        Raises:
            TokenNotFound: there is none.
            Conflict: it is revoked.
        """
        call = ServiceCall("PATCH", path("/v1/tokens/{}", reference), encode(dict(quotas)))
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Flow[Token]:
        """Give a token another ``.secret``, told this once; the one before works for `grace_seconds` more.

        Raises:
            TokenNotFound: there is none.
            Conflict: it is revoked.
        """
        body = encode({"grace_seconds": grace_seconds})
        call = ServiceCall("POST", path("/v1/tokens/{}/rotate", reference), body, repeatable=False)
        return Token.from_wire(json_fields.members((yield from self._ask(call))))

    def revoke_token(self, reference: str, *, leases: bool = False) -> Flow[Token]:
        """End a token for good; again is fine.

        Args:
            reference: name or id.
            leases: revoke its leases, too. Otherwise they end by their TTL: nobody can renew them.

        Raises:
            TokenNotFound: there is none.
        """
        address = query(path("/v1/tokens/{}", reference), [("leases", "true" if leases else None)])
        call = ServiceCall("DELETE", address, patience_seconds=_LEASES_SECONDS if leases else 0.0)
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
        """Read the audit trail, the newest record first: who did what, from where.

        Args:
            action: ``lease.revoked``, say; or ``lease.*`` for all that was done to leases.
            principal: who did it.
            address: from where.
            subject: id of the lease, template, pool or token.
            label: its name.
            since: not before this instant.
            until: before this instant.
            limit: at most so many; ``None`` for all.
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
