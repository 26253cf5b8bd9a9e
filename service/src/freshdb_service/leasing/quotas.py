"""What callers are told when a quota of a token leaves no room: which, what it is, and how much of it is used.

The quotas themselves are kept where something is granted or made (:mod:`freshdb_service.store.tokens`).
"""

from __future__ import annotations

from typing import Final

from freshdb_service.errors import QuotaExceeded, Unauthorized
from freshdb_service.store.grant import OverQuota
from freshdb_service.store.tokens import ExceededQuota, TokenRow

_QUOTA_SECONDS: Final = 1.0


def over_quota(hit: ExceededQuota, what: str) -> QuotaExceeded:
    """The error for a quota that leaves no room for more databases of a token's templates."""
    return QuotaExceeded(
        f"{what}: the token {hit.token!r} has used {hit.use} of {hit.limit} (its quota {hit.quota}); "
        "retire templates, or have the quota raised",
        retry_after_seconds=_QUOTA_SECONDS,
        extra={"quota": hit.quota, "limit": hit.limit, "use": hit.use},
    )


def too_many(over: OverQuota, principal: str, wanted: int) -> QuotaExceeded:
    """The error for a token that would hold more leases than it may; waiting helps if it could ever have so many."""
    more = "another one" if wanted == 1 else f"{wanted} more"
    holds = f"the token {principal!r} holds {over.held} leases of at most {over.limit}"
    waiting_helps = wanted <= over.limit
    return QuotaExceeded(
        f"{holds} (its quota max_leases), and cannot have {more}; release some, or have the quota raised",
        retry_after_seconds=_QUOTA_SECONDS if waiting_helps else None,
        extra={"quota": "max_leases", "limit": over.limit, "use": over.held},
    )


def too_long(asked: float, limit: float, principal: str) -> QuotaExceeded:
    """The error for a TTL that is longer than a token may ask for; waiting does not help."""
    return QuotaExceeded(
        f"ttl_seconds: the token {principal!r} may ask for at most {limit:g} seconds (its quota max_ttl_seconds), "
        f"not {asked:g}",
        extra={"quota": "max_ttl_seconds", "limit": limit, "use": asked},
    )


def token_over() -> Unauthorized:
    """The error for a token that is over since the request began."""
    return Unauthorized("this token was revoked or has expired")


def longest_life(most: float, token: TokenRow | None) -> float:
    """How long leases of a token may live: its quota ``max_ttl_seconds``, or the service's."""
    quota = None if token is None else token.quotas.max_ttl_seconds
    return most if quota is None else min(most, quota)
