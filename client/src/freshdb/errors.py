"""Every error that this package raises on purpose.

::

    FreshdbError
    ├── NotConfigured                no address of a service was given
    ├── NoCredentials                the password was not part of the answer
    ├── LeaseLost                    a held lease is no longer ours
    ├── ServiceUnreachable           nobody answered in time
    ├── UnexpectedAnswer             somebody answered, but not as freshdb does
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

A code that this version does not know becomes a plain ``ServiceError`` with that code. No message, ``repr`` or
traceback of these holds a password or a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class FreshdbError(Exception):
    """Root of everything that this package raises on purpose."""


class NotConfigured(FreshdbError):
    """No address of a service was given, and ``FRESHDB_URL`` is not set."""


class NoCredentials(FreshdbError):
    """The lease was only looked up: its password is known to the one who acquired it alone."""


class LeaseLost(FreshdbError):
    """A lease ended while it was held: whatever its database was used for since may be wrong."""

    def __init__(self, lease_id: str, reason: str) -> None:
        super().__init__(f"lease {lease_id} was lost: {reason}")
        self.lease_id = lease_id
        self.reason = reason


class ServiceUnreachable(FreshdbError):
    """No service answered in time."""


class UnexpectedAnswer(FreshdbError):
    """The answer is not one of freshdb's: another program at that address, or a proxy between."""


class EmbeddedFailed(FreshdbError):
    """The background service could not be started or stopped.

    Attributes:
        log_tail: the last lines of its log, or an empty string.
    """

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(f"{message}\n{log_tail}".rstrip() if log_tail else message)
        self.log_tail = log_tail


class ServiceNotInstalled(EmbeddedFailed):
    """There is no package ``freshdb-service`` here to start a service from."""


class BuildCommandFailed(FreshdbError):
    """The command that fills a template did not end with exit code 0."""

    def __init__(self, command: str, returncode: int, output_tail: str) -> None:
        ended = (
            f"was ended by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"
        )
        tail = f"; its last lines:\n{output_tail}" if output_tail else ""
        super().__init__(f"the build command `{command}` {ended}{tail}")
        self.command = command
        self.returncode = returncode
        self.output_tail = output_tail


class ProjectInvalid(FreshdbError):
    """``[tool.freshdb]`` in a ``pyproject.toml`` cannot be used; names the key and the mend."""


class ServiceError(FreshdbError):
    """The service answered with a problem.

    Attributes:
        code: stable identifier, the same word as in the service's documentation.
        status: HTTP status.
        detail: a sentence for a person.
        retry_after_seconds: when trying again makes sense, else ``None``.
        extra: the problem's further members, as JSON values.
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
        """Code, status and sentence; the other members may be long."""
        return f"{type(self).__name__}({self.detail!r}, status={self.status}, code={self.code!r})"


class TemplateNotFound(ServiceError):
    """No template has this name, fingerprint or id: register it first."""

    default_code = "template_not_found"


class TemplateConflict(ServiceError):
    """A template of this name and fingerprint exists with other content."""

    default_code = "template_conflict"


class TemplateFailed(ServiceError):
    """The template's SQL, or its builder, failed; ``extra`` says which statement and where."""

    default_code = "template_failed"


class TemplateBuilding(ServiceError):
    """The template is still being built."""

    default_code = "template_building"


class BuildLost(ServiceError):
    """The build's deadline passed, or another builder has taken its place."""

    default_code = "build_lost"


class IsolationUnsupported(ServiceError):
    """The template holds things that this isolation cannot give each lease of its own."""

    default_code = "isolation_unsupported"

    @property
    def reasons(self) -> tuple[str, ...]:
        """What stands in the way, a sentence each."""
        return _texts(self.extra.get("reasons"))


class Conflict(ServiceError):
    """What was asked does not fit the state that the thing is in."""

    default_code = "conflict"


class LeaseNotFound(ServiceError):
    """No such lease, now or ever."""

    default_code = "lease_not_found"


class LeaseEnded(ServiceError):
    """The lease is over: released, revoked or expired."""

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
    """No database came free within the wait."""

    default_code = "pool_exhausted"

    @property
    def queue_position(self) -> int | None:
        """Place in the queue when the wait was over; 1 is next."""
        return _whole(self.extra.get("queue_position"))

    @property
    def queue_length(self) -> int | None:
        """How many waited."""
        return _whole(self.extra.get("queue_length"))


class QuotaExceeded(ServiceError):
    """Granting this would pass a quota of the caller or of the service."""

    default_code = "quota_exceeded"

    @property
    def quota(self) -> str | None:
        """Which: ``max_leases``, ``max_databases``, ``max_ttl_seconds``, ``max_disk_bytes`` or ``failed_attempts``."""
        found = self.extra.get("quota")
        return found if isinstance(found, str) else None

    @property
    def limit(self) -> float | None:
        """What it is."""
        return _number(self.extra.get("limit"))

    @property
    def use(self) -> float | None:
        """How much of it is used; of ``max_ttl_seconds``, what was asked for."""
        return _number(self.extra.get("use"))


class IdempotencyMismatch(ServiceError):
    """The idempotency key was used before, with another body."""

    default_code = "idempotency_mismatch"


class InvalidRequest(ServiceError):
    """The request is malformed."""

    default_code = "invalid_request"

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """Each wrong field with its mend."""
        found = self.extra.get("errors")
        members = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return tuple((str(one.get("field", "")), str(one.get("message", ""))) for one in members)

    def __str__(self) -> str:
        """Name the fields too."""
        fields = "; ".join(f"{field}: {message}" for field, message in self.errors)
        return f"{self.detail} ({fields})" if fields and fields not in self.detail else self.detail


class PayloadTooLarge(ServiceError):
    """The body is larger than the service takes."""

    default_code = "payload_too_large"


class Unauthorized(ServiceError):
    """No token, or one that the service does not know: set ``FRESHDB_TOKEN``."""

    default_code = "unauthorized"


class Forbidden(ServiceError):
    """The token is known, but may not do this."""

    default_code = "forbidden"


class BackendUnavailable(ServiceError):
    """The service is up, but its PostgreSQL or Redis is away."""

    default_code = "backend_unavailable"


class ShuttingDown(ServiceError):
    """The service is stopping and grants nothing more."""

    default_code = "shutting_down"


class ServerRefused(ServiceError):
    """A PostgreSQL server that freshdb must not, or cannot, manage."""

    default_code = "server_refused"


class InternalError(ServiceError):
    """The service has a defect; its log says more."""

    default_code = "internal_error"


BY_CODE: Final[Mapping[str, type[ServiceError]]] = {
    kind.default_code: kind for kind in ServiceError.__subclasses__()
}


def service_error(
    status: int,
    document: Mapping[str, object],
    retry_after_seconds: float | None,
) -> ServiceError:
    """Make the error that a problem document stands for."""
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
