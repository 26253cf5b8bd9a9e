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
import logging
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID

from freshdb_service.cluster import Login, create_build, drop_template, run_sql, seal
from freshdb_service.errors import (
    BuildLost,
    Conflict,
    FreshdbError,
    InvalidRequest,
    TemplateConflict,
    TemplateFailed,
    TemplateNotFound,
)
from freshdb_service.installation import Installation
from freshdb_service.keeping import kept
from freshdb_service.lifecycle import Isolation, TemplateState
from freshdb_service.placement import placement
from freshdb_service.quotas import over_quota
from freshdb_service.redis.signals import Work
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store import tokens as store_tokens
from freshdb_service.store.rows import TemplateRow
from freshdb_service.store.tokens import TokenRow
from freshdb_service.store.trail import FRESHDB, Actor, Deed, record

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Register:
    """What a caller wants a template to be."""

    name: str
    fingerprint: str | None
    sql: Sequence[str] | None
    extensions: Sequence[str]
    build_seconds: float


@dataclass(frozen=True, slots=True)
class Build:
    """The right to fill a template's database until ``deadline_at``."""

    login: Login
    host: str
    port: int
    token: str
    deadline_at: datetime
    renew_seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A template, whether this call made it, and the build if this caller got it."""

    template: TemplateRow
    new: bool
    build: Build | None = None


class Templates:
    """What callers can do with templates."""

    def __init__(self, at: Installation) -> None:
        self._at = at
        self._builds: set[asyncio.Task[None]] = set()

    async def register(
        self,
        wanted: Register,
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
            build_seconds=wanted.build_seconds if wanted.sql is None else self._at.settings.claim_seconds,
            build_token=_digest(token),
            server=await placement(self._at),
            token_id=None if charged_to is None else charged_to.id,
        )
        async with self._at.store.transaction() as connection:
            template, ours = await store_templates.register(connection, registration)
            if ours:
                if hit := await store_tokens.hit_by_template(connection, registration.token_id):
                    raise over_quota(hit, "no template can be added")
                await record(connection, _deed("building", by, template, attempt=template.attempt))
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
        self._at.events.emit("template.building", template=template.label, attempt=template.attempt)
        if wanted.sql is None:
            return Registered(
                template, new=template.attempt == 1, build=await self._grant_build(template, token)
            )
        self._start(self._build_from_sql(template))
        template = await self._settled(template, wait_seconds)
        return Registered(template, new=True)

    async def renew_build(self, template_id: UUID, token: str) -> datetime:
        """A builder's heartbeat: move the deadline to its ``build_seconds`` from now.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        template = await self._of_builder(template_id, token)
        async with self._at.store.statement() as connection:
            deadline = await store_templates.extend(
                connection, template.id, template.attempt, template.build_seconds
            )
        if deadline is None:
            raise _lost(template)
        return deadline

    async def finish_build(self, template_id: UUID, token: str, *, by: Actor = FRESHDB) -> TemplateRow:
        """The builder says that the template is complete. From here on it never changes.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        async with self._at.store.statement() as connection:
            there = await store_templates.get(connection, template_id)
        if there is not None and there.state is TemplateState.READY:
            return there  # said twice, as after a lost answer: the token is gone, and there is nothing left to decide
        return await self._seal(await self._of_builder(template_id, token), by)

    async def fail_build(
        self, template_id: UUID, token: str, message: str, *, by: Actor = FRESHDB
    ) -> TemplateRow:
        """The builder says that it could not do it.

        Raises:
            BuildLost: another builder has taken its place, or the build is over.
        """
        return await self._failed(await self._of_builder(template_id, token), {"message": message}, by)

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
        async with self._at.store.statement() as connection:
            return await store_templates.listing(connection, name=name, state=state, limit=limit, after=after)

    async def retire(self, reference: str, *, force: bool, by: Actor = FRESHDB) -> TemplateRow:
        """Retire a template: no new leases; its databases are dropped as they come back.

        Raises:
            TemplateNotFound: there is none.
            Conflict: it is being built, or has live leases and ``force`` was not said.
        """
        template = await self._find(reference)
        async with self._at.store.transaction() as connection:
            retired = await store_templates.retire(connection, template.id, even_leased=force)
            if retired is not None:
                await record(connection, _deed("retired", by, retired, force=force))
        if retired is None:
            message = (
                f"the template {template.label} is {template.state}, or has live leases: "
                "wait for the build or release the leases, or say force=true"
            )
            raise Conflict(message)
        self._at.events.emit("template.retired", template=retired.label)
        await self._at.signals.announce(Work.DEMAND)
        return retired

    def take_over(self, template: TemplateRow) -> None:
        """Build a template from the SQL in its row, in the background."""
        self._start(self._build_from_sql(template))

    async def close(self) -> None:
        """Finish the builds under way."""
        await asyncio.gather(*self._builds, return_exceptions=True)

    async def _grant_build(self, template: TemplateRow, token: str) -> Build:
        server = self._at.server(template.server)
        try:
            login = await create_build(server, template.id, template.attempt, template.extensions)
        except FreshdbError as error:
            await self._failed(template, {"message": error.message})
            raise
        async with self._at.store.statement() as connection:
            deadline = await store_templates.extend(
                connection, template.id, template.attempt, template.build_seconds
            )
        if deadline is None:
            raise _lost(template)
        return Build(
            login=login,
            host=server.host,
            port=server.port,
            token=token,
            deadline_at=deadline,
            renew_seconds=template.build_seconds / 3,
        )

    async def _build_from_sql(self, template: TemplateRow) -> None:
        try:
            server = self._at.server(template.server)
            async with self._deadline_kept(template):
                login = await create_build(server, template.id, template.attempt, template.extensions)
                await run_sql(
                    server, login, template.sql or [], timeout_seconds=self._at.settings.max_build_seconds
                )
                await self._seal(template)
        except BuildLost as error:
            _log.warning("%s", error)
        except FreshdbError as error:
            await self._failed(template, {"message": error.message, **error.extra})
        except Exception as error:  # noqa: BLE001 - whatever it is, the template must not stay "building"
            _log.exception("building the template %s failed", template.label)
            await self._failed(template, {"message": str(error) or type(error).__name__})

    async def _seal(self, template: TemplateRow, by: Actor = FRESHDB) -> TemplateRow:
        async with self._deadline_kept(template):
            server = self._at.server(template.server)
            sealed = await seal(server, template.id, template.attempt)
            async with self._at.store.transaction() as connection:
                ready = await store_templates.make_ready(
                    connection,
                    template.id,
                    template.attempt,
                    database_name=sealed.database,
                    size_bytes=sealed.size_bytes,
                )
                if ready is not None:
                    await record(connection, _deed("ready", by, ready, attempt=ready.attempt))
        if ready is None:
            raise _lost(template)
        settings = self._at.settings
        async with self._at.store.statement() as connection:
            await store_pools.ensure(
                connection,
                ready,
                Isolation.DATABASE,
                min_ready=settings.min_ready,
                max_size=settings.max_size,
                idle_seconds=settings.idle_seconds,
            )
        self._at.events.emit("template.ready", template=ready.label, size_bytes=ready.size_bytes)
        await self._at.signals.announce(Work.TEMPLATE)
        await self._at.signals.announce(Work.DEMAND)
        return ready

    async def _failed(
        self, template: TemplateRow, error: dict[str, object], by: Actor = FRESHDB
    ) -> TemplateRow:
        async with self._at.store.transaction() as connection:
            failed = await store_templates.make_failed(connection, template.id, template.attempt, error)
            if failed is not None:
                await record(connection, _deed("failed", by, failed, attempt=failed.attempt))
        if failed is None:
            raise _lost(template)
        self._at.events.emit("template.failed", template=failed.label, error=error)
        await self._at.signals.announce(Work.TEMPLATE)
        try:
            await drop_template(
                self._at.server(template.server), template.id, below_attempt=template.attempt + 1
            )
        except FreshdbError as leftover:
            _log.warning("the failed build of %s is left to the reconciler: %s", template.label, leftover)
        return failed

    async def _settled(self, template: TemplateRow, wait_seconds: float) -> TemplateRow:
        """The template once it is no longer being built, or as it is when the wait is over.

        Raises:
            TemplateFailed: it has SQL, and that failed.
        """
        until = monotonic() + wait_seconds
        news = self._at.signals.subscribe(Work.TEMPLATE)
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
            self._at.signals.unsubscribe(Work.TEMPLATE, news)
        return template

    async def _find(self, reference: str) -> TemplateRow:
        try:
            identifier: UUID | None = UUID(reference)
        except ValueError:
            identifier = None
        async with self._at.store.statement() as connection:
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
            raise _lost(template)
        return template

    def _deadline_kept(self, template: TemplateRow) -> AbstractAsyncContextManager[None]:
        """Keep a build's deadline ahead while this replica works on it."""

        async def extend() -> bool:
            async with self._at.store.statement() as connection:
                extended = await store_templates.extend(
                    connection, template.id, template.attempt, claim_seconds
                )
            return extended is not None

        claim_seconds = self._at.settings.claim_seconds
        return kept(f"the build of {template.label}", extend, claim_seconds=claim_seconds, at_once=True)

    def _start(self, build: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(build)
        self._builds.add(task)
        task.add_done_callback(self._builds.discard)


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


def _deed(what: str, by: Actor, template: TemplateRow, **details: object) -> Deed:
    return Deed(f"template.{what}", by, template.id, template.label, details)


def _content(sql: Sequence[str], extensions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(sql), sorted(extensions)]).encode()).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _lost(template: TemplateRow) -> BuildLost:
    return BuildLost(
        f"this build of {template.label} is over (the template is {template.state}): its deadline passed and somebody "
        "else builds it, or the verdict was given before; register again to see how it stands"
    )
