"""The errors of the service, as exceptions with stable codes.

Every error that a caller may see has a ``code`` (the same on the wire, in the client and in the docs) and a message that
names the object and the remedy. HTTP is unknown here: ``api.problems`` has the table of codes and statuses.

::

    FreshdbError
    ├── TemplateNotFound        ├── LeaseNotFound        ├── PoolExhausted
    ├── TemplateConflict        ├── LeaseEnded           ├── QuotaExceeded
    ├── TemplateFailed          ├── Forbidden            ├── BackendUnavailable
    ├── TemplateBuilding        ├── Unauthorized         ├── InvalidRequest
    ├── BuildLost               ├── IdempotencyMismatch  ├── ServerRefused
    ├── IsolationUnsupported    ├── PoolNotFound         └── TokenNotFound
    ├── Conflict                └── ShuttingDown
    └── DatabaseNotFound
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class FreshdbError(Exception):
    """Base of all errors of the service.

    Attributes:
        code: stable identifier of the kind of error.
        retry_after_seconds: delay before a retry can succeed. ``None`` if retries do not help.
        extra: further members of the problem document, JSON values only.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.extra: dict[str, object] = dict(extra or {})


class TemplateNotFound(FreshdbError):
    """No template has this name, fingerprint or id."""

    code = "template_not_found"


class TemplateConflict(FreshdbError):
    """A template of this name and fingerprint exists with different content."""

    code = "template_conflict"


class TemplateFailed(FreshdbError):
    """The template's SQL or its builder failed. The message has the statement and its position."""

    code = "template_failed"


class TemplateBuilding(FreshdbError):
    """The template is still being built."""

    code = "template_building"


class BuildLost(FreshdbError):
    """The build's deadline has passed, or another builder has taken over the build."""

    code = "build_lost"


class IsolationUnsupported(FreshdbError):
    """The template holds objects that this isolation cannot provide separately for each lease."""

    code = "isolation_unsupported"

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        super().__init__(message, extra={"reasons": list(reasons)})
        self.reasons = tuple(reasons)


class Conflict(FreshdbError):
    """The object is not in the state that the request expects."""

    code = "conflict"


class LeaseNotFound(FreshdbError):
    """No lease has this id."""

    code = "lease_not_found"


class LeaseEnded(FreshdbError):
    """The lease has ended: it was released or revoked, or it has expired."""

    code = "lease_ended"


class PoolNotFound(FreshdbError):
    """No pool has this id."""

    code = "pool_not_found"


class DatabaseNotFound(FreshdbError):
    """No database has this id."""

    code = "database_not_found"


class TokenNotFound(FreshdbError):
    """No token has this name or id."""

    code = "token_not_found"


class PoolExhausted(FreshdbError):
    """No database became free within the wait time."""

    code = "pool_exhausted"


class QuotaExceeded(FreshdbError):
    """The request would exceed a quota of the token or a limit of the service."""

    code = "quota_exceeded"


class IdempotencyMismatch(FreshdbError):
    """The idempotency key was used before with a different body."""

    code = "idempotency_mismatch"


class InvalidRequest(FreshdbError):
    """The request is invalid. ``extra["errors"]`` has each wrong field and its message."""

    code = "invalid_request"


class PayloadTooLarge(FreshdbError):
    """The body is larger than ``max_body_bytes``."""

    code = "payload_too_large"


class Unauthorized(FreshdbError):
    """The token is missing or unknown."""

    code = "unauthorized"


class Forbidden(FreshdbError):
    """The token is valid but lacks the scope, or the lease belongs to another token."""

    code = "forbidden"


class BackendUnavailable(FreshdbError):
    """PostgreSQL or Redis is unavailable, or the service has too many requests."""

    code = "backend_unavailable"


class ShuttingDown(FreshdbError):
    """The service is stopping and grants no more leases."""

    code = "shutting_down"


class ServerRefused(FreshdbError):
    """freshdb must not or cannot manage a PostgreSQL server. The message has the reason and the remedy."""

    code = "server_refused"


class ConfigurationError(FreshdbError):
    """A setting cannot work, for example a port in use, a data directory without write permission, or a wrong DSN."""

    code = "configuration_error"
