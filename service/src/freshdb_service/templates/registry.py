"""Templates: register, build (by SQL, or by the build protocol with any tool), verdicts, retire.

Whoever registers a template that is not there yet gets the build: the right to fill an empty database, with a deadline.
Everybody else sees ``building`` and waits. A builder says that it lives by renewing; when its deadline passes, the next
caller gets the build, as a new *attempt* with a database, a login and a token of its own, and the old builder's verdict
counts for nothing. Which caller builds is decided in the lock of the template's row.

SQL in the request is built by the service under the same rules; the SQL is kept in the row, so that another replica can
do it again when the one that was at it dies.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID

from freshdb_service.errors import (
    Conflict,
    InvalidRequest,
    TemplateConflict,
    TemplateFailed,
    TemplateNotFound,
)
from freshdb_service.leasing.quotas import over_quota
from freshdb_service.lifecycle import TemplateState
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import templates as store_templates
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.audit_log import FRESHDB, Actor, record
from freshdb_service.store.rows import TemplateRow
from freshdb_service.store.tokens import TokenRow
from freshdb_service.templates.builds import Build, Builds, deed, lost
from freshdb_service.templates.placement import placement

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """What a caller wants a template to be."""

    name: str
    fingerprint: str | None
    sql: Sequence[str] | None
    extensions: Sequence[str]
    build_seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A template, whether this call made it, and the build if this caller got it."""

    template: TemplateRow
    new: bool
    build: Build | None = None


class TemplateRegistry:
    """What callers can do with templates."""

    def __init__(self, resources: Resources, builds: Builds) -> None:
        self._resources = resources
        self._builds = builds

    async def register(
        self,
        wanted: RegisterRequest,
        *,
        wait_seconds: float,
        by: Actor = FRESHDB,
        charged_to: TokenRow | None = None,
    ) -> Registered:
        """Find a template, or start making it.

        With SQL, the service builds it; the call waits up to ``wait_seconds`` for that. What is made counts for the
        quotas of the token that it is charged to.

        Raises:
            QuotaExceeded: the token has no room for another template.
            InvalidRequest: neither SQL nor a fingerprint, or an extension that the server does not have.
            TemplateConflict: the same name and fingerprint, but other SQL.
            TemplateFailed: the SQL failed; says which statement, and where.
        """
        content = _content(wanted.sql, wanted.extensions) if wanted.sql is not None else None
        fingerprint = wanted.fingerprint or content
        if fingerprint is None:
            message = "without sql, fingerprint is needed: a hash of whatever the template is made from"
            raise InvalidRequest(message, extra={"errors": [{"field": "fingerprint", "message": message}]})
        token = secrets.token_urlsafe(24)
        registration = store_templates.Registration(
            name=wanted.name,
            fingerprint=fingerprint,
            extensions=wanted.extensions,
            sql=wanted.sql,
            content=content,
            build_seconds=wanted.build_seconds
            if wanted.sql is None
            else self._resources.settings.claim_seconds,
            build_token=_digest(token),
            server=await self._server(wanted.name, fingerprint),
            token_id=None if charged_to is None else charged_to.id,
        )
        async with self._resources.store.transaction() as connection:
            template, ours = await store_templates.register(connection, registration)
            if ours:
                if hit := await store_tokens.hit_by_template(connection, registration.token_id):
                    raise over_quota(hit, "no template can be added")
                await record(connection, deed("building", by, template, attempt=template.attempt))
        if content is not None and template.content is not None and template.content != content:
            message = (
                f"the template {template.label} exists with other SQL, and a template never changes; "
                "register this SQL under another fingerprint (or leave the fingerprint out)"
            )
            raise TemplateConflict(message)
        if not ours:
            if wanted.sql is not None and template.state is TemplateState.BUILDING:
                template = await self._settled(template, wait_seconds)
            return Registered(template, new=False)
        self._resources.events.emit("template.building", template=template.label, attempt=template.attempt)
        if wanted.sql is None:
            return Registered(
                template, new=template.attempt == 1, build=await self._builds.grant(template, token)
            )
        self._builds.begin(template)
        template = await self._settled(template, wait_seconds)
        return Registered(template, new=True)

    async def renew_build(self, template_id: UUID, token: str) -> datetime:
        """A builder's heartbeat: move the deadline to its ``build_seconds`` from now.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        template = await self._of_builder(template_id, token)
        async with self._resources.store.statement() as connection:
            deadline = await store_templates.extend(
                connection, template.id, template.attempt, template.build_seconds
            )
        if deadline is None:
            raise lost(template)
        return deadline

    async def finish_build(self, template_id: UUID, token: str, *, by: Actor = FRESHDB) -> TemplateRow:
        """The builder says that the template is complete. From here on it never changes.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        async with self._resources.store.statement() as connection:
            there = await store_templates.get(connection, template_id)
        if there is not None and there.state is TemplateState.READY:
            return there  # said twice, as after a lost answer: the token is gone, and there is nothing left to decide
        return await self._builds.seal(await self._of_builder(template_id, token), by)

    async def fail_build(
        self, template_id: UUID, token: str, message: str, *, by: Actor = FRESHDB
    ) -> TemplateRow:
        """The builder says that it could not do it.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        return await self._builds.fail(await self._of_builder(template_id, token), {"message": message}, by)

    async def find(self, reference: str, *, wait_seconds: float = 0.0) -> TemplateRow:
        """A template by id, name or ``name@fingerprint``; waits while it is being built.

        Raises:
            TemplateNotFound: there is none.
        """
        template = await self._find(reference)
        return await self._settled(template, wait_seconds) if wait_seconds > 0 else template

    async def listing(
        self,
        *,
        name: str | None,
        state: TemplateState | None,
        limit: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[TemplateRow]:
        """Templates in the order of their registration."""
        async with self._resources.store.statement() as connection:
            return await store_templates.listing(connection, name=name, state=state, limit=limit, after=after)

    async def retire(self, reference: str, *, force: bool, by: Actor = FRESHDB) -> TemplateRow:
        """Retire a template: no new leases; its databases are dropped as they come back.

        Raises:
            TemplateNotFound: there is none.
            Conflict: it is being built, or has live leases and ``force`` was not said.
        """
        template = await self._find(reference)
        async with self._resources.store.transaction() as connection:
            retired = await store_templates.retire(connection, template.id, even_leased=force)
            if retired is not None:
                await record(connection, deed("retired", by, retired, force=force))
        if retired is None:
            message = (
                f"the template {template.label} is {template.state}, or has live leases: "
                "wait for the build or release the leases, or say force=true"
            )
            raise Conflict(message)
        self._resources.events.emit("template.retired", template=retired.label)
        await self._resources.wakeups.announce(WakeupReason.DEMAND)
        return retired

    async def _server(self, name: str, fingerprint: str) -> str:
        """Where the template is; a place is looked for only where it is not there yet."""
        async with self._resources.store.statement() as connection:
            there = await store_templates.find(connection, name, fingerprint)
        return await placement(self._resources) if there is None else there.server

    async def _settled(self, template: TemplateRow, wait_seconds: float) -> TemplateRow:
        """The template once it is no longer being built, or as it is when the wait is over.

        Raises:
            TemplateFailed: it has SQL, and that failed.
        """
        until = monotonic() + wait_seconds
        news = self._resources.wakeups.subscribe(WakeupReason.TEMPLATE)
        try:
            while True:
                news.clear()
                template = await self._find(str(template.id))
                left = until - monotonic()
                if template.state is not TemplateState.BUILDING or left <= 0 or template.build_overdue:
                    break
                try:
                    async with asyncio.timeout(min(left, _POLL_SECONDS)):
                        await news.wait()
                except TimeoutError:
                    continue
        finally:
            self._resources.wakeups.unsubscribe(WakeupReason.TEMPLATE, news)
        return template

    async def _find(self, reference: str) -> TemplateRow:
        try:
            identifier: UUID | None = UUID(reference)
        except ValueError:
            identifier = None
        async with self._resources.store.statement() as connection:
            if identifier is not None:
                found = await store_templates.get(connection, identifier)
            else:
                name, _, fingerprint = reference.partition("@")
                found = await store_templates.find(connection, name, fingerprint or None)
        if found is None:
            message = f"there is no template {reference!r}; register it first (POST /v1/templates)"
            raise TemplateNotFound(message)
        return found

    async def _of_builder(self, template_id: UUID, token: str) -> TemplateRow:
        template = await self._find(str(template_id))
        if template.state is not TemplateState.BUILDING or not hmac.compare_digest(
            template.build_token or "", _digest(token)
        ):
            raise lost(template)
        return template


def raise_if_failed(template: TemplateRow) -> TemplateRow:
    """Return the template unless its build failed.

    Raises:
        TemplateFailed: with the error of the build.
    """
    if template.state is TemplateState.FAILED:
        error = dict(template.error or {})
        message = f"the build of template {template.label} failed: {error.get('message', 'no reason given')}"
        raise TemplateFailed(message, extra=error)
    return template


def _content(sql: Sequence[str], extensions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(sql), sorted(extensions)]).encode()).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
