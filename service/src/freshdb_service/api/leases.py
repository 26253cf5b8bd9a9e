"""Routes of leases."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Route

from freshdb_service.api.auth import Authenticator, Principal
from freshdb_service.api.connection_limits import ARRIVED
from freshdb_service.api.context import Context, Holder, InContext, Reader, answer, holder, in_context
from freshdb_service.api.fields import NO_NULL
from freshdb_service.api.pagination import CURSOR, cursor, position
from freshdb_service.api.problems import invalid, parse_id, refusals, storable, wait_of
from freshdb_service.api.request_limits import SLOT
from freshdb_service.api.schemas import (
    AcquireIn,
    BatchIn,
    KeepIn,
    LeaseOut,
    LeasesOut,
    ReleasedOut,
    RenewalOut,
    RenewIn,
)
from freshdb_service.config import Settings
from freshdb_service.errors import LeaseNotFound
from freshdb_service.leasing.acquire import Granted
from freshdb_service.leasing.acquire_request import AcquireRequest
from freshdb_service.leasing.quotas import max_lifetime, too_long
from freshdb_service.lifecycle import LEASE_LIVE, Isolation, LeaseState
from freshdb_service.observability.logs import add_to_log_context
from freshdb_service.store.leases import LeaseFilter

router = APIRouter(prefix="/leases", tags=["leases"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=255,
        min_length=1,
        description="a retry with the same key returns the same lease, for example after a lost response",
    ),
]


@router.post("", status_code=201, response_model=LeaseOut, responses=refusals(404, 409, 410, 429))
async def acquire(
    body: AcquireIn,
    request: Request,
    context: InContext,
    principal: Holder,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Lease a clean database. If none is ready, the request waits in the queue for up to `wait_seconds`."""
    [granted] = await _acquire([body], request, context, principal, idempotency_key)
    return answer(lease_out(context, granted, principal), status_code=201)


@router.post("/batch", status_code=201, response_model=LeasesOut, responses=refusals(404, 409, 410, 429))
async def acquire_batch(
    body: BatchIn,
    request: Request,
    context: InContext,
    principal: Holder,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Lease several databases at once: all of them or none."""
    most = context.settings.max_batch
    if len(body.leases) > most:
        field = "leases"
        raise invalid(field, f"must have at most {most} leases (max_batch={most}); send several batches")
    granted = await _acquire(body.leases, request, context, principal, idempotency_key)
    return answer(
        LeasesOut(items=[lease_out(context, one, principal) for one in granted], next=None), status_code=201
    )


@router.get("", response_model=LeasesOut)
async def listing(
    request: Request,
    context: InContext,
    _principal: Reader,
    state: Annotated[list[LeaseState] | None, Query(description="by default the live ones")] = None,
    template: Annotated[str | None, Query(max_length=300, json_schema_extra=NO_NULL)] = None,
    isolation: Isolation | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Leases, oldest first, without passwords. `holder.KEY=VALUE` and `label.KEY=VALUE` filter by holder and labels."""
    wanted = LeaseFilter(
        states=frozenset(state) if state else LEASE_LIVE,
        template=storable("template", template),
        isolation=isolation,
        holder=_pairs(request, "holder."),
        labels=_pairs(request, "label."),
    )
    found = await context.leases.listing(wanted, limit=limit, after=position(after))
    last = found[-1].lease if len(found) == limit else None
    page = LeasesOut(
        items=[lease_out(context, one, None) for one in found],
        next=cursor(last.granted_at, last.id) if last else None,
    )
    return answer(page)


@router.get("/{lease_id}", response_model=LeaseOut, responses=refusals(404))
async def show(lease_id: str, context: InContext, principal: Reader) -> Response:
    """One lease. Only the token that acquired it gets its password."""
    return answer(lease_out(context, await context.leases.show(_lease_id(lease_id)), principal))


@router.post("/{lease_id}/renew", response_model=RenewalOut, responses=refusals(404, 410))
async def renew(
    lease_id: str, request: Request, context: InContext, principal: Holder, body: RenewIn | None = None
) -> Response:
    """Heartbeat: extend the lease by `ttl_seconds` from now. The granted TTL may be shorter, near the maximum life."""
    identifier = _lease_id(lease_id)
    asked = body.ttl_seconds if body is not None else None
    ttl = None if asked is None else _ttl(asked, context.settings, principal)
    renewal = await context.leases.renew(
        identifier, principal=principal.name, ttl_seconds=ttl, address=principal.address
    )
    renewed = answer(RenewalOut.of(identifier, renewal))
    metrics = context.resources.metrics
    metrics.heartbeat(ttl_seconds=renewal.ttl_seconds, left_seconds=renewal.left_seconds)
    metrics.renew.observe(perf_counter() - request.scope[ARRIVED])
    return renewed


async def _heartbeat(request: Request) -> Response:
    """Call ``renew`` without FastAPI's parsing and dependency injection."""
    context, principal = await in_context(request), await holder(request)
    given = await request.body()
    try:
        body = _RENEWAL.validate_json(given) if given else None
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return await renew(request.path_params["lease_id"], request, context, principal, body)


HEARTBEAT: Final = Route("/v1/leases/{lease_id}/renew", _heartbeat, methods=["POST"])
"""Precedes ``renew`` among the routes. Heartbeats are the most frequent requests and must not be late, and FastAPI's share
would be half of the cost of one."""
_RENEWAL: Final = TypeAdapter[RenewIn | None](RenewIn | None)


@router.post("/{lease_id}/reset", response_model=LeaseOut, responses=refusals(404, 409, 410))
async def reset(lease_id: str, context: InContext, principal: Holder) -> Response:
    """Reset the database and keep the lease. Open connections are closed. The response has a new user and password."""
    granted = await context.leases.reset(
        _lease_id(lease_id), principal=principal.name, address=principal.address
    )
    return answer(lease_out(context, granted, principal))


@router.post("/{lease_id}/keep", response_model=LeaseOut, responses=refusals(404, 409, 410))
async def keep(lease_id: str, context: InContext, principal: Holder, body: KeepIn | None = None) -> Response:
    """Keep the database for inspection, with its own TTL and without heartbeats."""
    asked = body or KeepIn()
    settings = context.settings
    if asked.ttl_seconds is None:
        ttl = max_lifetime(settings.keep_ttl_seconds, principal.token)
    else:
        ttl = _ttl(asked.ttl_seconds, settings, principal)
    kept = await context.leases.keep(
        _lease_id(lease_id),
        principal=principal.name,
        ttl_seconds=ttl,
        reason=asked.reason,
        address=principal.address,
    )
    return answer(lease_out(context, kept, principal))


@router.delete("/{lease_id}", response_model=ReleasedOut, responses=refusals(404, 409, 410))
async def release(
    lease_id: str,
    request: Request,
    context: InContext,
    principal: Holder,
    *,
    force: Annotated[
        bool, Query(description="revoke the lease, also that of another token; needs the scope `admin`")
    ] = False,
) -> Response:
    """Release a lease. Its database is reset in the background. With `force=true`, revoke the lease.

    `leftovers` counts connections, prepared transactions and advisory locks that were still open. It also names some of the
    objects that were created or redefined, for which the database must be rebuilt.
    """
    identifier = _lease_id(lease_id)
    if not force:
        released = await context.leases.release(
            identifier, principal=principal.name, address=principal.address
        )
    elif principal.has("admin"):
        released = await context.leases.revoke(
            identifier, reason=f"revoked by {principal.name}", by=principal.actor
        )
    else:
        authenticator: Authenticator = request.app.state.authenticator
        raise authenticator.refuse(principal, "admin")
    lease = lease_out(context, Granted(released.lease, None), None)
    return answer(ReleasedOut.after(lease, released.leftovers))


async def _acquire(
    bodies: list[AcquireIn],
    request: Request,
    context: Context,
    principal: Principal,
    idempotency_key: str | None,
) -> list[Granted]:
    settings = context.settings
    waits = [wait_of(body.wait_seconds, settings) for body in bodies]
    wanted = [
        AcquireRequest(
            template=body.template,
            isolation=body.isolation,
            ttl_seconds=_ttl(body.ttl_seconds, settings, principal),
            holder=body.holder,
            labels=body.labels,
        )
        for body in bodies
    ]
    granted = await context.acquiring.acquire(
        wanted,
        principal=principal.name,
        wait_seconds=max(waits),
        idempotency_key=idempotency_key,
        gone=lambda: _disconnected(request),
        on_wait=request.scope[SLOT].release,
        token=principal.token,
        address=principal.address,
    )
    first = granted[0].lease
    ids = ",".join(str(one.lease.id) for one in granted)
    add_to_log_context(
        lease=ids,
        template=first.template,
        pool=str(first.pool_id),
        database=first.schema_name or first.database_name,
    )
    return granted


async def _disconnected(request: Request) -> None:
    """Return when the client has disconnected. The body was read, so no other message can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def lease_out(context: Context, granted: Granted, principal: Principal | None) -> LeaseOut:
    """Convert a lease for the response. Only the principal that acquired it gets the password."""
    row = granted.lease
    host, port = context.resources.address(row.server)
    return LeaseOut.of(granted, host, port, secret=principal is not None and principal.name == row.principal)


def _ttl(asked: float | None, settings: Settings, principal: Principal) -> float:
    field = "ttl_seconds"
    most = max_lifetime(settings.max_ttl_seconds, principal.token)
    if asked is None:
        return min(settings.default_ttl_seconds, most)
    if not settings.min_ttl_seconds <= asked <= settings.max_ttl_seconds:
        raise invalid(
            field,
            f"must be from {settings.min_ttl_seconds:g} to {settings.max_ttl_seconds:g} seconds, not {asked:g}",
        )
    if asked > most:
        raise too_long(asked, most, principal.name)
    return asked


def _lease_id(text: str) -> UUID:
    identifier = parse_id(text, "lease", "`id` of the acquired lease", LeaseNotFound)
    add_to_log_context(lease=str(identifier))
    return identifier


def _pairs(request: Request, prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(prefix): storable(key, value) or ""
        for key, value in request.query_params.items()
        if key.startswith(prefix) and storable("parameter", key)
    }
