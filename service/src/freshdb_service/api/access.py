"""Who calls: tokens become principals. Without tokens (loopback only) everybody is one principal with every right."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import Request

from freshdb_service.config import Token
from freshdb_service.errors import Forbidden, Unauthorized

Scope = Literal["read", "lease", "build", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may do something."""

    name: str
    scopes: frozenset[str]


OPEN: Final = Principal("anonymous", frozenset({"read", "lease", "build", "admin"}))


class Gate:
    """Recognises callers by their bearer token."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._known = [
            (_digest(token.secret.get_secret_value()), Principal(token.name, token.scopes))
            for token in tokens
        ]

    def principal(self, authorization: str | None) -> Principal:
        """The principal of an ``Authorization`` header; every known token is compared, in constant time.

        Raises:
            Unauthorized: no token, or one that is not known.
        """
        if not self._known:
            return OPEN
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            message = "this service wants a token: Authorization: Bearer … (FRESHDB_TOKEN for the client)"
            raise Unauthorized(message)
        given = _digest(secret.strip())
        found = [principal for digest, principal in self._known if hmac.compare_digest(digest, given)]
        if not found:
            message = "this token is not known here"
            raise Unauthorized(message)
        return found[0]


def needs(scope: Scope) -> Callable[[Request], Coroutine[object, object, Principal]]:
    """A dependency: the caller, who must have this scope.

    ``admin`` includes the others.
    """

    async def caller(request: Request) -> Principal:
        gate: Gate = request.app.state.gate
        principal = gate.principal(request.headers.get("authorization"))
        if scope not in principal.scopes and "admin" not in principal.scopes:
            message = f"the token of {principal.name!r} lacks the scope {scope!r}"
            raise Forbidden(message)
        return principal

    return caller


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
