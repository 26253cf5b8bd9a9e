"""The errors of this package.

::

    FreshdbError
    ├── NotConfigured                no address of a service was given
    ├── NoCredentials                the password was not part of the answer
    ├── LeaseLost                    a held lease ended
    ├── ServiceUnreachable           no service answered in time
    ├── UnexpectedAnswer             the answer is not one of freshdb
    ├── EmbeddedFailed               the background service did not start
    │   └── ServiceNotInstalled      the package freshdb-service is missing
    ├── BuildCommandFailed           the command that fills a template failed
    ├── ProjectInvalid               [tool.freshdb] in pyproject.toml is wrong
    └── ServiceError                 the service answered with a problem; one class per code:
        ├── TemplateNotFound         ├── LeaseNotFound            ├── InvalidRequest
        ├── TemplateConflict         ├── LeaseEnded               ├── PayloadTooLarge
        ├── TemplateFailed           ├── PoolNotFound             ├── Unauthorized
        ├── TemplateBuilding         ├── PoolExhausted            ├── Forbidden
        ├── BuildLost                ├── QuotaExceeded            ├── BackendUnavailable
        ├── IsolationUnsupported     ├── IdempotencyMismatch      ├── ShuttingDown
        ├── Conflict                 └── ServerRefused            └── InternalError
        ├── DatabaseNotFound         └── TokenNotFound

An unknown code becomes a plain ``ServiceError`` with that code. No message, ``repr`` or traceback of these errors contains a
password or a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class FreshdbError(Exception):
    """Base class of all errors of this package."""


class NotConfigured(FreshdbError):
    """No address of a service was given, and ``FRESHDB_URL`` is not set."""


class NoCredentials(FreshdbError):
    """The lease was looked up, not acquired. Only the client that acquired it knows its password."""


class LeaseLost(FreshdbError):
    """A lease ended while it was held. Results from its database since then may be wrong."""

    def __init__(self, lease_id: str, reason: str) -> None:
        super().__init__(f"lease {lease_id} was lost: {reason}")
        self.lease_id = lease_id
        self.reason = reason


class ServiceUnreachable(FreshdbError):
    """No service answered in time."""


class UnexpectedAnswer(FreshdbError):
    """The answer is not one of freshdb. Another program or a proxy answers at this address."""


class EmbeddedFailed(FreshdbError):
    """The background service could not be started or stopped.

    Attributes:
        log_tail: the last lines of its log, or an empty string.
    """

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(f"{message}\n{log_tail}".rstrip() if log_tail else message)
        self.log_tail = log_tail


class ServiceNotInstalled(EmbeddedFailed):
    """The package ``freshdb-service`` is not installed, so that no service can be started."""


class BuildCommandFailed(FreshdbError):
    """The command that fills a template ended with another exit code than 0."""

    def __init__(self, command: str, returncode: int, output_tail: str, output: str = "") -> None:
        ended = (
            f"was ended by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"
        )
        tail = f"; its last lines:\n{output_tail}" if output_tail else ""
        super().__init__(f"the build command `{command}` {ended}{tail}")
        self.command = command
        self.returncode = returncode
        self.output_tail = output_tail
        self.output = output


class ProjectInvalid(FreshdbError):
    """``[tool.freshdb]`` in ``pyproject.toml`` is invalid. The message names the key and the fix."""


class ServiceError(FreshdbError):
    """The service answered with a problem.

    Attributes:
        code: stable identifier, as in the service's documentation.
        status: HTTP status.
        detail: description of the problem.
        retry_after_seconds: pause before the next attempt, or ``None`` if a retry does not help.
        extra: further members of the problem, as JSON values.
    """

    default_code: ClassVar[str] = "unknown"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str | None = None,
        retry_after_seconds: float | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = self.default_code if code is None else code
        self.retry_after_seconds = retry_after_seconds
        self.extra: Mapping[str, object] = dict(extra or {})

    def __repr__(self) -> str:
        """Show code, status and detail only, because `extra` may be long."""
        return f"{type(self).__name__}({self.detail!r}, status={self.status}, code={self.code!r})"


class TemplateNotFound(ServiceError):
    """No template has this name, fingerprint or id. Register it first."""

    default_code = "template_not_found"


class TemplateConflict(ServiceError):
    """A template of this name and fingerprint exists with other content."""

    default_code = "template_conflict"


class TemplateFailed(ServiceError):
    """The template's SQL or its builder failed. ``extra`` has the statement and its position."""

    default_code = "template_failed"


class TemplateBuilding(ServiceError):
    """The template is still being built."""

    default_code = "template_building"


class BuildLost(ServiceError):
    """The build's deadline has passed, or another builder has replaced this one."""

    default_code = "build_lost"


class IsolationUnsupported(ServiceError):
    """The template has objects that cannot exist once per lease with this isolation."""

    default_code = "isolation_unsupported"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The obstacles, one sentence each."""
        return _texts(self.extra.get("reasons"))


class Conflict(ServiceError):
    """The request does not fit the current state of its object."""

    default_code = "conflict"


class LeaseNotFound(ServiceError):
    """There has never been such a lease."""

    default_code = "lease_not_found"


class LeaseEnded(ServiceError):
    """The lease was released, was revoked or has expired."""

    default_code = "lease_ended"


class PoolNotFound(ServiceError):
    """No such pool."""

    default_code = "pool_not_found"


class DatabaseNotFound(ServiceError):
    """No such database."""

    default_code = "database_not_found"


class TokenNotFound(ServiceError):
    """No such token."""

    default_code = "token_not_found"


class PoolExhausted(ServiceError):
    """No database became free within the wait."""

    default_code = "pool_exhausted"

    @property
    def queue_position(self) -> int | None:
        """Position in the queue at the end of the wait. 1 is next."""
        return _whole(self.extra.get("queue_position"))

    @property
    def queue_length(self) -> int | None:
        """Length of the queue at the end of the wait."""
        return _whole(self.extra.get("queue_length"))


class QuotaExceeded(ServiceError):
    """The request would exceed a quota of its token or of the service."""

    default_code = "quota_exceeded"

    @property
    def quota(self) -> str | None:
        """Its name: ``max_leases``, ``max_databases``, ``max_ttl_seconds``, ``max_disk_bytes`` or ``failed_attempts``."""
        found = self.extra.get("quota")
        return found if isinstance(found, str) else None

    @property
    def limit(self) -> float | None:
        """The quota's value."""
        return _number(self.extra.get("limit"))

    @property
    def use(self) -> float | None:
        """The amount in use, or the requested value for ``max_ttl_seconds``."""
        return _number(self.extra.get("use"))


class IdempotencyMismatch(ServiceError):
    """The idempotency key was used before with another body."""

    default_code = "idempotency_mismatch"


class InvalidRequest(ServiceError):
    """The request is malformed."""

    default_code = "invalid_request"

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """The invalid fields, each with a message."""
        found = self.extra.get("errors")
        members = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return tuple((str(one.get("field", "")), str(one.get("message", ""))) for one in members)

    def __str__(self) -> str:
        """Add the invalid fields."""
        fields = "; ".join(f"{field}: {message}" for field, message in self.errors)
        return f"{self.detail} ({fields})" if fields and fields not in self.detail else self.detail


class PayloadTooLarge(ServiceError):
    """The body is larger than the service allows."""

    default_code = "payload_too_large"


class Unauthorized(ServiceError):
    """No token was sent, or an unknown one. Set ``FRESHDB_TOKEN``."""

    default_code = "unauthorized"


class Forbidden(ServiceError):
    """The token is known, but is not allowed to do this."""

    default_code = "forbidden"


class BackendUnavailable(ServiceError):
    """The service runs, but its PostgreSQL or Redis is unavailable."""

    default_code = "backend_unavailable"


class ShuttingDown(ServiceError):
    """The service is stopping and grants no more leases."""

    default_code = "shutting_down"


class ServerRefused(ServiceError):
    """freshdb must not or cannot manage this PostgreSQL server."""

    default_code = "server_refused"


class InternalError(ServiceError):
    """Internal error of the service. Its log has the reason."""

    default_code = "internal_error"


BY_CODE: Final[Mapping[str, type[ServiceError]]] = {
    kind.default_code: kind for kind in ServiceError.__subclasses__()
}


def service_error(
    status: int,
    document: Mapping[str, object],
    retry_after_seconds: float | None,
) -> ServiceError:
    """Build the error for a problem document."""
    code = str(document.get("code") or "unknown")
    detail = str(
        document.get("detail") or document.get("title") or f"the service answered with status {status}"
    )
    standard = {"type", "title", "status", "detail", "code", "instance"}
    extra = {key: value for key, value in document.items() if key not in standard}
    kind = BY_CODE.get(code, ServiceError)
    return kind(detail, status=status, code=code, retry_after_seconds=retry_after_seconds, extra=extra)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


__all__: Sequence[str] = [
    "BackendUnavailable",
    "BuildCommandFailed",
    "BuildLost",
    "Conflict",
    "DatabaseNotFound",
    "EmbeddedFailed",
    "Forbidden",
    "FreshdbError",
    "IdempotencyMismatch",
    "InternalError",
    "InvalidRequest",
    "IsolationUnsupported",
    "LeaseEnded",
    "LeaseLost",
    "LeaseNotFound",
    "NoCredentials",
    "NotConfigured",
    "PayloadTooLarge",
    "PoolExhausted",
    "PoolNotFound",
    "ProjectInvalid",
    "QuotaExceeded",
    "ServerRefused",
    "ServiceError",
    "ServiceNotInstalled",
    "ServiceUnreachable",
    "ShuttingDown",
    "TemplateBuilding",
    "TemplateConflict",
    "TemplateFailed",
    "TemplateNotFound",
    "TokenNotFound",
    "Unauthorized",
    "UnexpectedAnswer",
]
