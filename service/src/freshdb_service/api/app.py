"""Puts the REST interface together."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from freshdb_service import __version__
from freshdb_service.api import (
    databases,
    document,
    events,
    health,
    leases,
    overview,
    pools,
    problems,
    templates,
    tokens,
    trail,
)
from freshdb_service.api.access import Gate
from freshdb_service.api.context import Context
from freshdb_service.api.limits import BodyLimit, Entrance, RequestLimit

_DESCRIPTION = """
Leases clean PostgreSQL databases: register a template, acquire a lease, use the URL, release it.

Every error is `application/problem+json` with a stable `code`.

Send a token as `Authorization: Bearer fdb_…`. Its scopes say what it may do: `read` looks at everything but secrets,
`lease` acquires, `build` registers templates, `admin` does all of that and retires, resizes, revokes, makes tokens, and
reads the audit trail. A service that never had a token is open, on loopback alone. Over a quota, the answer is 429
`quota_exceeded`, and its members `quota`, `limit` and `use` say which; with `Retry-After` where waiting can help.
"""


def create_app(context: Context) -> FastAPI:
    """The application over use cases that are open already; whoever opened them closes them."""
    app = FastAPI(
        title="freshdb",
        version=__version__,
        description=_DESCRIPTION,
    )
    app.state.context = context
    app.state.gate = Gate(context.settings, context.keyring, context.at.trail)
    problems.install(app, context.at.metrics, lambda path: document.allowed(app, path))
    app.add_middleware(BodyLimit, most=context.settings.max_body_bytes)
    app.add_middleware(Entrance, metrics=context.at.metrics)
    app.add_middleware(RequestLimit, most=context.settings.max_requests, metrics=context.at.metrics)
    v1 = APIRouter(prefix="/v1")
    for router in (
        leases.router,
        templates.router,
        pools.router,
        databases.router,
        overview.router,
        events.router,
        tokens.router,
        trail.router,
    ):
        v1.include_router(router)
    app.router.routes.append(leases.HEARTBEAT)
    app.include_router(v1)
    app.include_router(health.router)
    document.install(app, context.settings)
    return app
