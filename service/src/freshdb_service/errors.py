"""What can go wrong, as exceptions with stable codes.

Every error that a caller may see has a ``code`` (the same word on the wire, in the client and in the docs) and a message
that a person can act on. Nothing here knows HTTP: ``api.problems`` holds the one table from code to status.

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
    """Root of everything the service raises on purpose.

    Attributes:
        code: stable identifier of the kind of error.
        retry_after_seconds: when trying again makes sense, else ``None``.
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
    """A template of this name and fingerprint exists with other content."""

    code = "template_conflict"


class TemplateFailed(FreshdbError):
    """The template's SQL, or its builder, failed; says which statement and where."""

    code = "template_failed"


class TemplateBuilding(FreshdbError):
    """The template is still being built."""

    code = "template_building"


class BuildLost(FreshdbError):
    """The build's deadline passed, or another builder has taken its place."""

    code = "build_lost"


class IsolationUnsupported(FreshdbError):
    """The template holds things that this isolation cannot give each lease of its own."""

    code = "isolation_unsupported"

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        super().__init__(message, extra={"reasons": list(reasons)})
        self.reasons = tuple(reasons)


class Conflict(FreshdbError):
    """A row was not in the state and generation that the change expected."""

    code = "conflict"


class LeaseNotFound(FreshdbError):
    """No such lease, now or ever."""

    code = "lease_not_found"


class LeaseEnded(FreshdbError):
    """The lease is over: released, revoked or expired."""

    code = "lease_ended"


class PoolNotFound(FreshdbError):
    """No such pool."""

    code = "pool_not_found"


class DatabaseNotFound(FreshdbError):
    """No such database."""

    code = "database_not_found"


class TokenNotFound(FreshdbError):
    """No such token."""

    code = "token_not_found"


class PoolExhausted(FreshdbError):
    """No database came free within the wait."""

    code = "pool_exhausted"


class QuotaExceeded(FreshdbError):
    """Granting this would pass a quota of the caller or of the service."""

    code = "quota_exceeded"


class IdempotencyMismatch(FreshdbError):
    """The idempotency key was used before, with another body."""

    code = "idempotency_mismatch"


class InvalidRequest(FreshdbError):
    """The request is malformed; ``extra["errors"]`` names each field and the mend."""

    code = "invalid_request"


class PayloadTooLarge(FreshdbError):
    """The body is larger than the service takes."""

    code = "payload_too_large"


class Unauthorized(FreshdbError):
    """No token, or one that is not known."""

    code = "unauthorized"


class Forbidden(FreshdbError):
    """The token is known, but may not do this."""

    code = "forbidden"


class BackendUnavailable(FreshdbError):
    """PostgreSQL or Redis cannot be reached, or refuses to work."""

    code = "backend_unavailable"


class ShuttingDown(FreshdbError):
    """The service is stopping and grants nothing more."""

    code = "shutting_down"


class ServerRefused(FreshdbError):
    """A PostgreSQL server that freshdb must not, or cannot, manage; says why and the mend."""

    code = "server_refused"


class ConfigurationError(FreshdbError):
    """A setting that cannot work: a port that is taken, a data directory that cannot be written, a wrong DSN."""

    code = "configuration_error"
