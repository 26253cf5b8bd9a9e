"""Errors for exceeded quotas of tokens: the quota's name, its limit and its use.

The quotas themselves are checked where a lease is granted or a template is registered
(:mod:`freshdb_service.store.tokens`).
"""

from __future__ import annotations

from typing import Final

from freshdb_service.errors import QuotaExceeded, Unauthorized
from freshdb_service.store.grant import OverQuota
from freshdb_service.store.tokens import ExceededQuota, TokenRow

_QUOTA_SECONDS: Final = 1.0


def over_quota(hit: ExceededQuota, what: str) -> QuotaExceeded:
    """Return the error for a quota that allows no more databases of a token's templates."""
    return QuotaExceeded(
        f"{what}: the token {hit.token!r} has used {hit.use} of {hit.limit} (its quota {hit.quota}); "
        "retire templates, or ask an administrator to raise the quota",
        retry_after_seconds=_QUOTA_SECONDS,
        extra={"quota": hit.quota, "limit": hit.limit, "use": hit.use},
    )


def too_many(over: OverQuota, principal: str, wanted: int) -> QuotaExceeded:
    """Return the error for a token with too many leases. It has a retry time if fewer leases would leave enough room."""
    more = "another one" if wanted == 1 else f"{wanted} more"
    holds = f"the token {principal!r} holds {over.held} leases of at most {over.limit}"
    waiting_helps = wanted <= over.limit
    return QuotaExceeded(
        f"{holds} (its quota max_leases), and cannot have {more}; release some, or ask an administrator to raise the quota",
        retry_after_seconds=_QUOTA_SECONDS if waiting_helps else None,
        extra={"quota": "max_leases", "limit": over.limit, "use": over.held},
    )


def too_long(asked: float, limit: float, principal: str) -> QuotaExceeded:
    """Return the error for a TTL that is longer than the token's quota. A retry does not help."""
    return QuotaExceeded(
        f"ttl_seconds: the token {principal!r} may ask for at most {limit:g} seconds (its quota max_ttl_seconds), "
        f"not {asked:g}",
        extra={"quota": "max_ttl_seconds", "limit": limit, "use": asked},
    )


def token_ended() -> Unauthorized:
    """Return the error for a token that has ended since the request began."""
    return Unauthorized("this token was revoked or has expired")


def max_lifetime(limit: float, token: TokenRow | None) -> float:
    """Return the maximum lifetime of a token's leases: its quota ``max_ttl_seconds``, or the service's limit."""
    quota = None if token is None else token.quotas.max_ttl_seconds
    return limit if quota is None else min(limit, quota)
