"""What the routes work with: the use cases, put on the application by ``create_app``, taken from it by dependencies."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from freshdb_service.acquiring import Acquiring
from freshdb_service.api.access import Principal, anybody, needs
from freshdb_service.config import Settings
from freshdb_service.installation import Installation
from freshdb_service.keyring import Keyring
from freshdb_service.leases import Leases
from freshdb_service.overview import Overview
from freshdb_service.pools import Pools
from freshdb_service.templates import Templates


@dataclass(slots=True)
class Context:
    """The use cases of one replica, and when it was last asked for something."""

    at: Installation
    acquiring: Acquiring
    leases: Leases
    templates: Templates
    pools: Pools
    overview: Overview
    keyring: Keyring
    asked_at: float = field(default_factory=monotonic)
    """When a caller last asked for anything (monotonic seconds); probes and scrapes do not count."""
    streams: int = 0
    """How many follow the events."""

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.at.settings


async def in_context(request: Request) -> Context:
    """A dependency: the use cases; somebody asks for something."""
    context: Context = request.app.state.context
    context.asked_at = monotonic()
    return context


holder = needs("lease")
InContext = Annotated[Context, Depends(in_context)]
Caller = Annotated[Principal, Depends(anybody)]
Reader = Annotated[Principal, Depends(needs("read"))]
Holder = Annotated[Principal, Depends(holder)]
Builder = Annotated[Principal, Depends(needs("build"))]
Admin = Annotated[Principal, Depends(needs("admin"))]


def answer(model: BaseModel, status_code: int = 200) -> Response:
    """A model as the answer, written once, without being validated again."""
    return Response(
        model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json"
    )
