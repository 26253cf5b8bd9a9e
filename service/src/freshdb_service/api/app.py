"""Puts the REST interface together."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from freshdb_service import __version__
from freshdb_service.api import events, health, leases, pools, problems, templates
from freshdb_service.api.access import Gate
from freshdb_service.api.context import Context
from freshdb_service.api.limits import BodyLimit
from freshdb_service.api.wire import Problem

_DESCRIPTION = """
Leases clean PostgreSQL databases: register a template, acquire a lease, use the URL, release it.

Every error is `application/problem+json` with a stable `code`.
"""


def create_app(context: Context) -> FastAPI:
    """The application over use cases that are open already; whoever opened them closes them."""
    app = FastAPI(
        title="freshdb",
        version=__version__,
        description=_DESCRIPTION,
        responses={
            "default": {"model": Problem, "description": "an error", "content": {problems.MEDIA_TYPE: {}}}
        },
    )
    app.state.context = context
    app.state.gate = Gate(context.settings.tokens)
    problems.install(app, context.at.metrics)
    app.add_middleware(BodyLimit, most=context.settings.max_body_bytes)
    v1 = APIRouter(prefix="/v1")
    for router in (leases.router, templates.router, pools.router, events.router):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health.router)
    return app
