"""Routes of templates."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from freshdb_service.api.context import Admin, Builder, InContext, Reader, answer
from freshdb_service.api.fields import NAME
from freshdb_service.api.pagination import CURSOR, cursor, position
from freshdb_service.api.problems import invalid, parse_id, refusals, wait_of
from freshdb_service.api.schemas import (
    BuildLogOut,
    DeadlineOut,
    FailedIn,
    ReadyIn,
    RegisterIn,
    TemplateOut,
    TemplatesOut,
    TokenIn,
)
from freshdb_service.errors import TemplateNotFound
from freshdb_service.lifecycle import TemplateState
from freshdb_service.templates.registry import RegisterRequest, raise_if_failed

router = APIRouter(prefix="/templates", tags=["templates"])

Reference = Annotated[str, Path(max_length=300, description="id, name, or `name@fingerprint`")]


@router.post("", response_model=TemplateOut, responses={201: {"model": TemplateOut}, **refusals(409, 429)})
async def register(body: RegisterIn, context: InContext, principal: Builder) -> Response:
    """Register a template: find it, or start to build it.

    With `sql`, the service builds it. Without `sql`, the first caller gets `build` (the URL of an empty database, a deadline
    and a token), and fills the database with any tool. Other callers see the state `building` and wait.
    """
    settings = context.settings
    wait = wait_of(body.wait_seconds, settings)
    build_seconds = settings.build_seconds if body.build_seconds is None else body.build_seconds
    if build_seconds > settings.max_build_seconds:
        field = "build_seconds"
        raise invalid(
            field, f"must be at most {settings.max_build_seconds:g} seconds; to build longer, renew the build"
        )
    registered = await context.templates.register(
        RegisterRequest(body.name, body.fingerprint, body.sql, body.extension_forms, build_seconds),
        wait_seconds=wait,
        by=principal.actor,
        charged_to=principal.token,
    )
    raise_if_failed(registered.template)
    return answer(TemplateOut.registered(registered), status_code=201 if registered.new else 200)


@router.post("/{template_id}/renew", response_model=DeadlineOut, responses=refusals(404, 409))
async def renew(template_id: str, body: TokenIn, context: InContext, _principal: Builder) -> Response:
    """The builder's heartbeat: extend the deadline of the build."""
    deadline = await context.templates.renew_build(_template_id(template_id), body.token)
    return answer(DeadlineOut(deadline_at=deadline))


@router.post("/{template_id}/ready", response_model=TemplateOut, responses=refusals(404, 409))
async def ready(template_id: str, body: ReadyIn, context: InContext, principal: Builder) -> Response:
    """Finish a build. Its login stops working, and the template never changes again.

    The answer has `warnings` if the build created nothing, or its `log` shows an error.
    """
    sealed = await context.templates.finish_build(
        _template_id(template_id), body.token, log=body.log, by=principal.actor
    )
    return answer(TemplateOut.of(sealed))


@router.post("/{template_id}/failed", response_model=TemplateOut, responses=refusals(404, 409))
async def failed(template_id: str, body: FailedIn, context: InContext, principal: Builder) -> Response:
    """Report that a build has failed. The next caller who registers the template gets the build."""
    template = await context.templates.fail_build(
        _template_id(template_id), body.token, body.message, log=body.log, by=principal.actor
    )
    return answer(TemplateOut.of(template))


@router.get("/{template_id:uuid}/log", response_model=BuildLogOut, responses=refusals(404))
async def log(template_id: UUID, context: InContext, _principal: Reader) -> Response:
    """Return the log of the last build that has ended: the output of its command, or PostgreSQL's messages to the SQL."""
    return answer(BuildLogOut.of(*await context.templates.build_log(template_id)))


@router.get("", response_model=TemplatesOut)
async def listing(
    context: InContext,
    _principal: Reader,
    name: Annotated[str | None, Query(pattern=NAME)] = None,
    state: TemplateState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(alias="cursor", pattern=CURSOR)] = None,
) -> Response:
    """Templates, oldest first."""
    rows = await context.templates.listing(name=name, state=state, limit=limit, after=position(after))
    last = rows[-1] if len(rows) == limit else None
    page = TemplatesOut(
        items=[TemplateOut.of(row) for row in rows], next=cursor(last.created_at, last.id) if last else None
    )
    return answer(page)


@router.get("/{reference:path}", response_model=TemplateOut, responses=refusals(404))
async def show(
    reference: Reference,
    context: InContext,
    _principal: Reader,
    wait_seconds: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="maximum wait for the end of the build")
    ] = 0.0,
) -> Response:
    """One template, by id, by name (the newest), or by `name@fingerprint`."""
    wait = min(wait_seconds, context.settings.max_wait_seconds)
    return answer(TemplateOut.of(await context.templates.find(_reference(reference), wait_seconds=wait)))


@router.delete("/{reference:path}", response_model=TemplateOut, responses=refusals(404, 409))
async def retire(
    reference: Reference,
    context: InContext,
    principal: Admin,
    *,
    force: Annotated[
        bool, Query(description="also with live leases; their databases are dropped when they end")
    ] = False,
) -> Response:
    """Retire a template: it grants no new leases, and its databases are dropped."""
    retired = await context.templates.retire(_reference(reference), force=force, by=principal.actor)
    return answer(TemplateOut.of(retired))


def _reference(text: str) -> str:
    if "\x00" in text:
        message = "no template has the character U+0000 in its name"
        raise TemplateNotFound(message)
    return text


def _template_id(text: str) -> UUID:
    return parse_id(text, "template", "`id` of the registered template", TemplateNotFound)
