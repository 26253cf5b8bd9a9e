"""Templates: register, build (from SQL, or with any tool by the build protocol), report the result, retire.

The first caller that registers a template gets the build: the right to fill an empty database until a deadline. Other
callers get the state ``building`` and can wait. The builder renews its deadline. When it passes, the next caller gets the
build as a new *attempt* with its own database, login and token, and the old builder's result is refused. The lock of the
template's row decides which caller builds.

If the request has SQL, the service is the builder, under the same rules. The SQL is stored in the row, so that another
replica can repeat the build when the first one dies.
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
)
from freshdb_service.leasing.pool_lookup import missing_template
from freshdb_service.leasing.quotas import over_quota
from freshdb_service.lifecycle import TemplateState
from freshdb_service.postgres import ExtensionForm, read_extensions
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import templates as store_templates
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.audit_log import FRESHDB, Actor, record
from freshdb_service.store.rows import TemplateRow
from freshdb_service.store.tokens import TokenRow
from freshdb_service.templates.builds import Build, Builds, audit_entry, lost
from freshdb_service.templates.placement import placement

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """The request to register a template."""

    name: str
    fingerprint: str | None
    sql: Sequence[str] | None
    extensions: Sequence[ExtensionForm]
    build_seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A template. ``new`` is true if this call created it, and ``build`` is set if this caller builds it."""

    template: TemplateRow
    new: bool
    build: Build | None = None


class TemplateRegistry:
    """Operations on templates."""

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
        """Find a template, or claim its build.

        If the request has SQL, the service builds the template, and the call waits up to ``wait_seconds`` for it. A new
        template counts for the quotas of the token ``charged_to``.

        Raises:
            QuotaExceeded: the token's quota allows no more templates.
            InvalidRequest: neither SQL nor a fingerprint, or an extension that the server does not have.
            TemplateConflict: the same name and fingerprint, but other SQL.
        """
        token = secrets.token_urlsafe(24)
        registration = await self._registration(wanted, token, charged_to)
        template, ours = await self._claim(registration, by)
        if not ours:
            if wanted.sql is not None and template.state is TemplateState.BUILDING:
                template = await self._after_build(template, wait_seconds)
            return Registered(template, new=False)
        self._resources.events.emit("template.building", template=template.label, attempt=template.attempt)
        if wanted.sql is None:
            return Registered(
                template, new=template.attempt == 1, build=await self._builds.grant(template, token)
            )
        self._builds.begin(template)
        return Registered(await self._after_build(template, wait_seconds), new=True)

    async def _registration(
        self, wanted: RegisterRequest, token: str, charged_to: TokenRow | None
    ) -> store_templates.Registration:
        """Complete a request: its fingerprint, and the server of the template. A new template is placed.

        Raises:
            InvalidRequest: neither SQL nor a fingerprint, or an extension twice, with different schemas or versions.
            BackendUnavailable: no server has room.
        """
        extensions = [one.form for one in read_extensions(wanted.extensions)]
        content = _content(wanted.sql, extensions) if wanted.sql is not None else None
        fingerprint = wanted.fingerprint or content
        if fingerprint is None:
            message = "without sql, fingerprint is needed: a hash of the template's inputs"
            raise InvalidRequest(message, extra={"errors": [{"field": "fingerprint", "message": message}]})
        async with self._resources.store.statement() as connection:
            there = await store_templates.find(connection, wanted.name, fingerprint)
        return store_templates.Registration(
            name=wanted.name,
            fingerprint=fingerprint,
            extensions=extensions,
            sql=wanted.sql,
            content=content,
            build_seconds=wanted.build_seconds
            if wanted.sql is None
            else self._resources.settings.claim_seconds,
            build_token=_digest(token),
            server=await placement(self._resources)
            if there is None or there.state is TemplateState.RETIRED
            else there.server,
            token_id=None if charged_to is None else charged_to.id,
        )

    async def _claim(self, registration: store_templates.Registration, by: Actor) -> tuple[TemplateRow, bool]:
        """Find the template or insert it, and claim its build if no other builder has it.

        Returns:
            the template, and whether this call has the build.

        Raises:
            QuotaExceeded: the token's quota allows no more templates.
            TemplateConflict: the template exists with other SQL.
        """
        async with self._resources.store.transaction() as connection:
            template, ours = await store_templates.register(connection, registration)
            if ours:
                if hit := await store_tokens.hit_by_template(connection, registration.token_id):
                    raise over_quota(hit, "no template can be added")
                await record(connection, audit_entry("building", by, template, attempt=template.attempt))
        content = registration.content
        if content is not None and template.content is not None and template.content != content:
            message = (
                f"the template {template.label} exists with other SQL, and a template never changes; "
                "register this SQL under another fingerprint (or leave the fingerprint out)"
            )
            raise TemplateConflict(message)
        return template, ours

    async def renew_build(self, template_id: UUID, token: str) -> datetime:
        """Heartbeat of a builder: move the deadline to its ``build_seconds`` from now.

        Raises:
            BuildLost: the build has ended, or another builder has it.
        """
        template = await self._of_builder(template_id, token)
        async with self._resources.store.statement() as connection:
            deadline = await store_templates.extend(
                connection, template.id, template.attempt, template.build_seconds
            )
        if deadline is None:
            raise lost(template)
        return deadline

    async def finish_build(
        self, template_id: UUID, token: str, *, log: str | None = None, by: Actor = FRESHDB
    ) -> TemplateRow:
        """Accept the builder's report that the template is complete, and its log. It never changes after that.

        Raises:
            BuildLost: the build has ended, or another builder has it.
        """
        async with self._resources.store.statement() as connection:
            there = await store_templates.get(connection, template_id)
        if there is not None and there.state is TemplateState.READY:
            return there  # reported twice, as after a lost answer, when the token has been removed
        return await self._builds.seal(await self._of_builder(template_id, token), by, log=log)

    async def fail_build(
        self, template_id: UUID, token: str, message: str, *, log: str | None = None, by: Actor = FRESHDB
    ) -> TemplateRow:
        """Accept the builder's report that the build failed.

        Raises:
            BuildLost: the build has ended, or another builder has it.
        """
        template = await self._of_builder(template_id, token)
        return await self._builds.fail(template, {"message": message}, by, log=log)

    async def build_log(self, template_id: UUID) -> tuple[TemplateRow, str | None]:
        """Return a template, and the log of its last build that has ended.

        Raises:
            TemplateNotFound: there is no such template.
        """
        template = await self._find(str(template_id))
        async with self._resources.store.statement() as connection:
            return template, await store_templates.build_log(connection, template.id)

    async def find(self, reference: str, *, wait_seconds: float = 0.0) -> TemplateRow:
        """Return a template by id, name or ``name@fingerprint``. Wait up to ``wait_seconds`` for its build.

        Raises:
            TemplateNotFound: there is no such template.
        """
        template = await self._find(reference)
        return await self._after_build(template, wait_seconds) if wait_seconds > 0 else template

    async def listing(
        self,
        *,
        name: str | None,
        state: TemplateState | None,
        limit: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[TemplateRow]:
        """Return templates in the order of their registration."""
        async with self._resources.store.statement() as connection:
            return await store_templates.listing(connection, name=name, state=state, limit=limit, after=after)

    async def retire(self, reference: str, *, force: bool, by: Actor = FRESHDB) -> TemplateRow:
        """Retire a template: it gets no new leases, and its databases are dropped when their leases end.

        Raises:
            TemplateNotFound: there is no such template.
            Conflict: it is being built, or has live leases and ``force`` is false.
        """
        template = await self._find(reference)
        async with self._resources.store.transaction() as connection:
            retired = await store_templates.retire(connection, template.id, even_leased=force)
            if retired is not None:
                await record(connection, audit_entry("retired", by, retired, force=force))
        if retired is None:
            message = (
                f"the template {template.label} is {template.state}, or has live leases: "
                "wait for the build, release the leases, or retry with force=true"
            )
            raise Conflict(message)
        self._resources.events.emit("template.retired", template=retired.label)
        await self._resources.wakeups.announce(WakeupReason.DEMAND)
        return retired

    async def _after_build(self, template: TemplateRow, wait_seconds: float) -> TemplateRow:
        """Return the template after its build, or in its present state at the timeout."""
        until = monotonic() + wait_seconds
        changed = self._resources.wakeups.subscribe(WakeupReason.TEMPLATE)
        try:
            while True:
                changed.clear()
                template = await self._find(str(template.id))
                left = until - monotonic()
                if template.state is not TemplateState.BUILDING or left <= 0 or template.build_overdue:
                    break
                try:
                    async with asyncio.timeout(min(left, _POLL_SECONDS)):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._resources.wakeups.unsubscribe(WakeupReason.TEMPLATE, changed)
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
        if found is None or (identifier is None and found.state is TemplateState.RETIRED):
            raise missing_template(reference, found)
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


def _content(sql: Sequence[str], extensions: Sequence[ExtensionForm]) -> str:
    in_order = sorted(extensions, key=lambda one: one if isinstance(one, str) else json.dumps(one))
    return hashlib.sha256(json.dumps([list(sql), in_order]).encode()).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
