"""Authentication: requests and their tokens become principals.

Tokens are in the settings (``FRESHDB_TOKENS``) and in the control plane (:mod:`freshdb_service.auth.token_cache`). In an
installation that never had a token, all callers are one principal with all scopes, and the service listens on loopback
only.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from freshdb_service.api.auth_throttle import AuthThrottle
from freshdb_service.api.client_ip import ClientAddresses, throttle_key
from freshdb_service.api.csrf import OriginCheck
from freshdb_service.auth.audit_log import AuditLog
from freshdb_service.auth.token_cache import TokenCache
from freshdb_service.auth.token_format import digest_of
from freshdb_service.config import OPEN_NAME, SCOPES, Scope, Settings
from freshdb_service.errors import Forbidden, QuotaExceeded, Unauthorized
from freshdb_service.observability.logs import add_to_log_context
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.tokens import TokenRow

_EVERYTHING: Final = frozenset(SCOPES)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: name of the token.
        scopes: scopes of the token. ``admin`` includes the others.
        address: client address, if known.
        token: row of the token, with its quotas, if it is in the control plane.
    """

    name: str
    scopes: frozenset[str]
    address: str | None = None
    token: TokenRow | None = None

    @property
    def actor(self) -> Actor:
        """The caller as an actor of audit log entries."""
        return Actor(self.name, self.address)

    def has(self, scope: Scope) -> bool:
        """True if the caller has this scope."""
        return scope in self.scopes or "admin" in self.scopes


class Authenticator:
    """Authenticates callers by their bearer token."""

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
        """Authenticate a request.

        Raises:
            Unauthorized: the token is missing or unknown.
            Forbidden: the service is open, and the request comes from another website.
            QuotaExceeded: the address has sent too many unknown tokens.
        """
        peer = request.client.host if request.client is not None else None
        forwarded = request.headers.getlist("x-forwarded-for") if self._addresses.any_trusted else ()
        address = self._addresses.of(peer, forwarded)
        if not self._token_cache.closed:
            self._check_origin(request, address)
            return Principal(OPEN_NAME, _EVERYTHING, address)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            self._audit_log.collect("access.unauthorized", Actor(None, address))
            message = "this service needs a token: Authorization: Bearer … (FRESHDB_TOKEN for the client)"
            raise Unauthorized(message)
        return self._find(secret, address) or await self._reload_and_find(secret, address)

    def _check_origin(self, request: Request, address: str | None) -> None:
        try:
            self._origins.check(request)
        except Forbidden:
            self._audit_log.collect("access.forbidden", Actor(None, address), label="origin")
            raise

    def refuse(self, principal: Principal, scope: Scope) -> Forbidden:
        """Return the error for a caller without this scope, and add an entry to the audit log."""
        self._audit_log.collect("access.forbidden", principal.actor, label=scope)
        return Forbidden(f"the token {principal.name!r} lacks the scope {scope!r}; use one that has it")

    def _find(self, secret: str, address: str | None) -> Principal | None:
        """Find the token in the settings, by comparing all in constant time, or else in the cache."""
        given, found = digest_of(secret), None
        for digest, name, scopes in self._in_settings:
            if hmac.compare_digest(digest, given):
                found = Principal(name, frozenset(scopes), address)
        if found is not None:
            return found
        token = self._token_cache.find(secret)
        return None if token is None else Principal(token.name, token.scopes, address, token)

    async def _reload_and_find(self, secret: str, address: str | None) -> Principal:
        token = await self._token_cache.reload_and_find(secret)
        if token is not None:
            return Principal(token.name, token.scopes, address, token)
        where = throttle_key(address)
        self._audit_log.collect("access.unauthorized", Actor(None, address))
        if wait_seconds := self._attempts.wait_seconds(where):
            most = self._attempts.most
            message = f"too many wrong tokens from {where}: retry later, or use a valid token"
            raise QuotaExceeded(
                message,
                retry_after_seconds=wait_seconds,
                extra={"quota": "failed_attempts", "limit": most, "use": most},
            )
        self._attempts.note(where)
        message = "unknown token: it is mistyped, revoked, expired, or of another installation"
        raise Unauthorized(message)


async def authenticated(request: Request) -> Principal:
    """FastAPI dependency: the caller, with any scopes."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.principal(request)


def needs(scope: Scope) -> Callable[[Request], Coroutine[object, object, Principal]]:
    """Create a FastAPI dependency: the caller, who must have this scope. ``admin`` includes the others."""

    async def caller(request: Request) -> Principal:
        authenticator: Authenticator = request.app.state.authenticator
        principal = await authenticator.principal(request)
        add_to_log_context(principal=principal.name, address=principal.address)
        if not principal.has(scope):
            raise authenticator.refuse(principal, scope)
        return principal

    return caller
