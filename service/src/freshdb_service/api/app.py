"""Assembles the REST API."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from freshdb_service import __version__
from freshdb_service.api import (
    audit,
    databases,
    events,
    health,
    leases,
    openapi,
    overview,
    pools,
    problems,
    templates,
    tokens,
)
from freshdb_service.api.auth import Authenticator
from freshdb_service.api.context import Context
from freshdb_service.api.request_limits import AcquireLimit, BodyLimit, RequestLimit

_DESCRIPTION = """
Leases clean PostgreSQL databases: register a template, acquire a lease, use the URL, release it.

Every error is `application/problem+json` with a stable `code`.

Send a token as `Authorization: Bearer fdb_…`. The scope `read` shows everything but secrets, `lease` acquires, and `build`
registers templates. `admin` includes the others, retires templates, resizes pools, revokes leases, manages tokens, and
reads the audit log. A service that never had a token is open to all callers, but listens on loopback only.

A request over a quota gets 429 `quota_exceeded`. Its members `quota`, `limit` and `use` name the quota, and it has
`Retry-After` if waiting can help.
"""


def create_app(context: Context) -> FastAPI:
    """Create the application over open use cases, which the caller closes afterwards."""
    app = FastAPI(title="freshdb", version=__version__, description=_DESCRIPTION)
    app.state.context = context
    app.state.authenticator = Authenticator(
        context.settings, context.token_cache, context.resources.audit_log
    )
    problems.install(app, context.resources.metrics, lambda path: openapi.allowed(app, path))
    app.add_middleware(BodyLimit, most=context.settings.max_body_bytes)
    app.add_middleware(AcquireLimit, metrics=context.resources.metrics)
    app.add_middleware(RequestLimit, most=context.settings.max_requests, metrics=context.resources.metrics)
    v1 = APIRouter(prefix="/v1")
    for router in (
        leases.router,
        templates.router,
        pools.router,
        databases.router,
        overview.router,
        events.router,
        tokens.router,
        audit.router,
    ):
        v1.include_router(router)
    app.router.routes.append(leases.HEARTBEAT)
    app.include_router(v1)
    app.include_router(health.router)
    openapi.install(app, context.settings)
    return app
