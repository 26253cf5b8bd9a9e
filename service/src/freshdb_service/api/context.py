"""The use cases for the routes: ``create_app`` stores them on the application, and dependencies get them from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from freshdb_service.api.auth import Principal, authenticated, needs
from freshdb_service.auth.token_cache import TokenCache
from freshdb_service.config import Settings
from freshdb_service.leasing.acquire import Acquirer
from freshdb_service.leasing.leases import Leases
from freshdb_service.pooling.pools import Pools
from freshdb_service.resources import Resources
from freshdb_service.status.overview import Overview
from freshdb_service.templates.registry import TemplateRegistry


@dataclass(slots=True)
class Context:
    """The use cases of one replica, and the time of its last request."""

    resources: Resources
    acquiring: Acquirer
    leases: Leases
    templates: TemplateRegistry
    pools: Pools
    overview: Overview
    token_cache: TokenCache
    asked_at: float = field(default_factory=monotonic)
    """Time of the last request (monotonic seconds), except probes and scrapes."""
    streams: int = 0
    """Number of open event streams."""

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.resources.settings


async def in_context(request: Request) -> Context:
    """FastAPI dependency: the use cases. It also notes the time of the request."""
    context: Context = request.app.state.context
    context.asked_at = monotonic()
    return context


holder = needs("lease")
InContext = Annotated[Context, Depends(in_context)]
Caller = Annotated[Principal, Depends(authenticated)]
Reader = Annotated[Principal, Depends(needs("read"))]
Holder = Annotated[Principal, Depends(holder)]
Builder = Annotated[Principal, Depends(needs("build"))]
Admin = Annotated[Principal, Depends(needs("admin"))]


def answer(model: BaseModel, status_code: int = 200) -> Response:
    """Create the response from a model, without FastAPI's second validation."""
    return Response(
        model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json"
    )
