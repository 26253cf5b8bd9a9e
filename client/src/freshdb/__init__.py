"""freshdb: clean PostgreSQL databases on lease.

::

    from freshdb import Client

    with Client("http://localhost:8777") as client, client.lease("shop") as lease:
        connect(lease.url)

Names are loaded when they are first used, so that importing this package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from freshdb.version import __version__

if TYPE_CHECKING:
    from freshdb.async_client import AsyncClient
    from freshdb.client import Client
    from freshdb.embedded import (
        RunningService,
        default_data_directory,
        ensure_service,
        running_service,
        stop_service,
    )
    from freshdb.errors import (
        BackendUnavailable,
        BuildCommandFailed,
        BuildLost,
        Conflict,
        DatabaseNotFound,
        EmbeddedFailed,
        Forbidden,
        FreshdbError,
        IdempotencyMismatch,
        InternalError,
        InvalidRequest,
        IsolationUnsupported,
        LeaseEnded,
        LeaseLost,
        LeaseNotFound,
        NoCredentials,
        NotConfigured,
        PayloadTooLarge,
        PoolExhausted,
        PoolNotFound,
        ProjectInvalid,
        QuotaExceeded,
        ServerRefused,
        ServiceError,
        ServiceNotInstalled,
        ServiceUnreachable,
        ShuttingDown,
        TemplateBuilding,
        TemplateConflict,
        TemplateFailed,
        TemplateNotFound,
        TokenNotFound,
        Unauthorized,
        UnexpectedAnswer,
    )
    from freshdb.extensions import Extension
    from freshdb.held_lease import AsyncHeldLease, HeldLease
    from freshdb.models import (
        BuildGrant,
        BuildLog,
        Event,
        Health,
        Lease,
        LeaseRequest,
        Leftovers,
        Pool,
        Renewal,
        Template,
        TemplateError,
    )
    from freshdb.project import Project, load_project
    from freshdb.token_models import AuditRecord, Token

_MODULES: Final = {
    "freshdb.token_models": ("AuditRecord", "Token"),
    "freshdb.async_client": ("AsyncClient",),
    "freshdb.client": ("Client",),
    "freshdb.embedded": (
        "RunningService",
        "default_data_directory",
        "ensure_service",
        "running_service",
        "stop_service",
    ),
    "freshdb.extensions": ("Extension",),
    "freshdb.held_lease": ("AsyncHeldLease", "HeldLease"),
    "freshdb.models": (
        "BuildGrant",
        "BuildLog",
        "Event",
        "Health",
        "Lease",
        "LeaseRequest",
        "Leftovers",
        "Pool",
        "Renewal",
        "Template",
        "TemplateError",
    ),
    "freshdb.project": ("Project", "load_project"),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsyncClient",
    "AsyncHeldLease",
    "AuditRecord",
    "BackendUnavailable",
    "BuildCommandFailed",
    "BuildGrant",
    "BuildLog",
    "BuildLost",
    "Client",
    "Conflict",
    "DatabaseNotFound",
    "EmbeddedFailed",
    "Event",
    "Extension",
    "Forbidden",
    "FreshdbError",
    "Health",
    "HeldLease",
    "IdempotencyMismatch",
    "InternalError",
    "InvalidRequest",
    "IsolationUnsupported",
    "Lease",
    "LeaseEnded",
    "LeaseLost",
    "LeaseNotFound",
    "LeaseRequest",
    "Leftovers",
    "NoCredentials",
    "NotConfigured",
    "PayloadTooLarge",
    "Pool",
    "PoolExhausted",
    "PoolNotFound",
    "Project",
    "ProjectInvalid",
    "QuotaExceeded",
    "Renewal",
    "RunningService",
    "ServerRefused",
    "ServiceError",
    "ServiceNotInstalled",
    "ServiceUnreachable",
    "ShuttingDown",
    "Template",
    "TemplateBuilding",
    "TemplateConflict",
    "TemplateError",
    "TemplateFailed",
    "TemplateNotFound",
    "Token",
    "TokenNotFound",
    "Unauthorized",
    "UnexpectedAnswer",
    "__version__",
    "default_data_directory",
    "ensure_service",
    "load_project",
    "running_service",
    "stop_service",
]


def __getattr__(name: str) -> object:
    """Load a name from the module that it lives in."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found: object = getattr(import_module(_HOME.get(name, "freshdb.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
