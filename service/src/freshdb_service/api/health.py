"""Probes and metrics. They need no token, and they do not reset the idle time of the service."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from freshdb_service import __version__
from freshdb_service.api.context import Context, answer
from freshdb_service.api.schemas import AliveOut, ReadyOut
from freshdb_service.errors import BackendUnavailable

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=AliveOut)
async def livez() -> Response:
    """Liveness probe: the process answers."""
    return answer(AliveOut(status="ok", version=__version__))


@router.get("/readyz", response_model=ReadyOut, responses={503: {"model": ReadyOut}})
async def readyz(request: Request) -> Response:
    """Readiness probe: the control plane, Redis and every managed server answer."""
    context: Context = request.app.state.context
    probes = {"control_plane": context.resources.store.ping(), "redis": context.resources.redis.ping()}
    probes |= {f"server {name}": server.ping() for name, server in context.resources.servers.items()}
    outcomes = await asyncio.gather(*probes.values(), return_exceptions=True)
    checks = {
        name: "ok" if outcome is None else str(outcome)
        for name, outcome in zip(probes, outcomes, strict=True)
    }
    failed = [outcome for outcome in outcomes if outcome is not None]
    for outcome in failed:
        if not isinstance(outcome, BackendUnavailable):
            raise outcome
    ready = ReadyOut(status="unavailable" if failed else "ok", checks=checks)
    return answer(ready, status_code=503 if failed else 200)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus metrics of this replica."""
    context: Context = request.app.state.context
    return Response(context.resources.metrics.text(), media_type=CONTENT_TYPE_LATEST)
