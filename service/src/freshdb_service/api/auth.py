"""Who calls: tokens become principals.

Tokens are in the settings (``FRESHDB_TOKENS``) and in the control plane (:mod:`freshdb_service.auth.token_cache`). In an
installation that never had a token, every caller is one principal with every right, and the service listens on loopback
alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from freshdb_service.api.auth_throttle import AuthThrottle
from freshdb_service.api.client_ip import ClientAddresses, neighbourhood
from freshdb_service.api.csrf import OriginCheck
from freshdb_service.auth.audit_log import AuditLog
from freshdb_service.auth.token_cache import TokenCache
from freshdb_service.auth.token_format import digest_of
from freshdb_service.config import OPEN_NAME, SCOPES, Scope, Settings
from freshdb_service.errors import Forbidden, QuotaExceeded, Unauthorized
from freshdb_service.observability.logs import note
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.tokens import TokenRow

_EVERYTHING: Final = frozenset(SCOPES)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may do something.

    Attributes:
        name: who.
        scopes: what they may do; ``admin`` includes the others.
        address: where they are, as far as is known.
        token: with their quotas, if it is one of the control plane.
    """

    name: str
    scopes: frozenset[str]
    address: str | None = None
    token: TokenRow | None = None

    @property
    def actor(self) -> Actor:
        """As the trail names them."""
        return Actor(self.name, self.address)

    def has(self, scope: Scope) -> bool:
        """Whether they may do this."""
        return scope in self.scopes or "admin" in self.scopes


class Authenticator:
    """Recognises callers by their bearer token."""

    def __init__(self, settings: Settings, token_cache: TokenCache, audit_log: AuditLog) -> None:
        self._in_settings = [
            (digest_of(token.secret.get_secret_value()), token.name, token.scopes)
            for token in settings.tokens
        ]
        self._token_cache = token_cache
        self._audit_log = audit_log
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._attempts = AuthThrottle(settings.failed_attempts)
        self._origins = OriginCheck(settings.allowed_hosts)

    async def principal(self, request: Request) -> Principal:
        """Who sends a request.

        Raises:
            Unauthorized: no token, or one that is not known.
            Forbidden: the service is open, and another website calls it.
            QuotaExceeded: too many of these from that address.
        """
        peer = request.client.host if request.client is not None else None
        forwarded = request.headers.getlist("x-forwarded-for") if self._addresses.any_trusted else ()
        address = self._addresses.of(peer, forwarded)
        if not self._token_cache.closed:
            self._see_that_it_is_ours(request, address)
            return Principal(OPEN_NAME, _EVERYTHING, address)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            self._audit_log.collect("access.unauthorized", Actor(None, address))
            message = "this service wants a token: Authorization: Bearer … (FRESHDB_TOKEN for the client)"
            raise Unauthorized(message)
        return self._known(secret, address) or await self._looked_up(secret, address)

    def _see_that_it_is_ours(self, request: Request, address: str | None) -> None:
        try:
            self._origins.check(request)
        except Forbidden:
            self._audit_log.collect("access.forbidden", Actor(None, address), label="origin")
            raise

    def refuse(self, principal: Principal, scope: Scope) -> Forbidden:
        """The error for somebody who may not do this; it is in the trail."""
        self._audit_log.collect("access.forbidden", principal.actor, label=scope)
        return Forbidden(f"the token of {principal.name!r} lacks the scope {scope!r}")

    def _known(self, secret: str, address: str | None) -> Principal | None:
        """Every token of the settings is compared, in constant time; of the others, those with the same hint."""
        given, found = digest_of(secret), None
        for digest, name, scopes in self._in_settings:
            if hmac.compare_digest(digest, given):
                found = Principal(name, frozenset(scopes), address)
        if found is not None:
            return found
        token = self._token_cache.known(secret)
        return None if token is None else Principal(token.name, token.scopes, address, token)

    async def _looked_up(self, secret: str, address: str | None) -> Principal:
        token = await self._token_cache.looked_up(secret)
        if token is not None:
            return Principal(token.name, token.scopes, address, token)
        where = neighbourhood(address)
        self._audit_log.collect("access.unauthorized", Actor(None, address))
        if wait_seconds := self._attempts.wait_seconds(where):
            most = self._attempts.most
            message = f"too many wrong tokens from {where}: come back later, or with a right one"
            raise QuotaExceeded(
                message,
                retry_after_seconds=wait_seconds,
                extra={"quota": "failed_attempts", "limit": most, "use": most},
            )
        self._attempts.note(where)
        message = "this token is not known here: mistyped, revoked, expired, or of another installation"
        raise Unauthorized(message)


async def anybody(request: Request) -> Principal:
    """A dependency: the caller, whatever they may do."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.principal(request)


def needs(scope: Scope) -> Callable[[Request], Coroutine[object, object, Principal]]:
    """A dependency: the caller, who must have this scope.

    ``admin`` includes the others.
    """

    async def caller(request: Request) -> Principal:
        authenticator: Authenticator = request.app.state.authenticator
        principal = await authenticator.principal(request)
        note(principal=principal.name, address=principal.address)
        if not principal.has(scope):
            raise authenticator.refuse(principal, scope)
        return principal

    return caller
