"""Routes of tokens, which need the scope ``admin``."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, InContext, answer
from freshdb_service.api.pagination import CURSOR, cursor, position
from freshdb_service.api.problems import refusals
from freshdb_service.api.schemas_auth import (
    ChangeTokenIn,
    CreateTokenIn,
    IssuedTokenOut,
    RevokedTokenOut,
    RotateTokenIn,
    TokenOut,
    TokensOut,
    TokenState,
)
from freshdb_service.errors import LeaseEnded, LeaseNotFound, TokenNotFound

router = APIRouter(prefix="/tokens", tags=["tokens"])

Reference = Annotated[str, Path(max_length=100, description="name or id")]


@router.post("", status_code=201, response_model=IssuedTokenOut, responses=refusals(409))
async def create(body: CreateTokenIn, context: InContext, principal: Admin) -> Response:
    """Create a token. The response has its secret in `token`, which is shown once and not stored.

    Once the first token exists, all callers need one, also on loopback.
    """
    issued = await context.token_cache.create(body.wanted(), principal.actor)
    return answer(IssuedTokenOut.issued(issued), status_code=201)


@router.get("", response_model=TokensOut)
async def listing(
    context: InContext,
    _principal: Admin,
    state: Annotated[list[TokenState] | None, Query(description="by default `active` and `expired`")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Tokens of the control plane, oldest first, without those of FRESHDB_TOKENS."""
    states: frozenset[str] = frozenset(state or ("active", "expired"))
    rows = await context.token_cache.registry.listing(states=states, limit=limit, after=position(after))
    last = rows[-1] if len(rows) == limit else None
    page = TokensOut(
        items=[TokenOut.of(row) for row in rows], next=cursor(last.created_at, last.id) if last else None
    )
    return answer(page)


@router.get("/{token}", response_model=TokenOut, responses=refusals(404))
async def show(token: Reference, context: InContext, _principal: Admin) -> Response:
    """One token, with the current use of its quotas in `use`."""
    found, use = await context.token_cache.registry.find(_storable(token))
    return answer(TokenOut.of(found, use))


@router.patch("/{token}", response_model=TokenOut, responses=refusals(404, 409))
async def change(token: Reference, body: ChangeTokenIn, context: InContext, principal: Admin) -> Response:
    """Change a token's quotas. Omitted quotas keep their values, and null removes a quota. Existing leases stay."""
    quotas = body.model_dump(exclude_unset=True)
    return answer(TokenOut.of(await context.token_cache.change(_storable(token), quotas, principal.actor)))


@router.post("/{token}/rotate", response_model=IssuedTokenOut, responses=refusals(404, 409))
async def rotate(
    token: Reference, context: InContext, principal: Admin, body: RotateTokenIn | None = None
) -> Response:
    """Give a token a new secret, which the response has in `token`. The token keeps its leases."""
    grace_seconds = 0.0 if body is None else body.grace_seconds
    issued = await context.token_cache.rotate(_storable(token), principal.actor, grace_seconds=grace_seconds)
    return answer(IssuedTokenOut.issued(issued))


@router.delete("/{token}", response_model=RevokedTokenOut, responses=refusals(404))
async def revoke(
    token: Reference,
    context: InContext,
    principal: Admin,
    *,
    leases: Annotated[
        bool,
        Query(description="also revoke its leases; without it they cannot be renewed, and end by their TTL"),
    ] = False,
) -> Response:
    """Revoke a token permanently. Revoking it again is no error."""
    ended = await context.token_cache.revoke(_storable(token), principal.actor)
    revoked = 0
    for lease_id in await context.token_cache.registry.held_by(ended) if leases else []:
        with suppress(LeaseEnded, LeaseNotFound):
            await context.leases.revoke(
                lease_id, reason=f"the token {ended.name} was revoked", by=principal.actor
            )
            revoked += 1
    return answer(RevokedTokenOut.after(ended, revoked))


def _storable(reference: str) -> str:
    if "\x00" in reference:
        message = "no token has the character U+0000 in its name"
        raise TokenNotFound(message)
    return reference
