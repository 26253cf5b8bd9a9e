"""Builds: filling a new template's database, by the service itself or by a caller, until the verdict.

A build has an *attempt* with a database, a login and a token of its own, and a deadline. Whoever is at it keeps the deadline
ahead; once it has passed, the next attempt begins, and nothing that is done for the old one counts.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from freshdb_service.errors import BuildLost, FreshdbError
from freshdb_service.lifecycle import Isolation
from freshdb_service.pooling.claim_renewal import kept
from freshdb_service.postgres import Login, create_build, drop_template, run_sql, seal
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store.audit_log import FRESHDB, Actor, AuditAction, record
from freshdb_service.store.rows import TemplateRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Build:
    """The right to fill a template's database until ``deadline_at``."""

    login: Login
    host: str
    port: int
    token: str
    deadline_at: datetime
    renew_seconds: float


class Builds:
    """The builds of this replica."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._under_way: set[asyncio.Task[None]] = set()

    async def grant(self, template: TemplateRow, token: str) -> Build:
        """Make the empty database for a caller who is to fill it; the deadline begins when it is there.

        Raises:
            BuildLost: the deadline passed meanwhile.
        """
        server = self._resources.server(template.server)
        try:
            login = await create_build(server, template.id, template.attempt, template.extensions)
        except FreshdbError as error:
            await self.fail(template, {"message": error.message})
            raise
        async with self._resources.store.statement() as connection:
            deadline = await store_templates.extend(
                connection, template.id, template.attempt, template.build_seconds
            )
        if deadline is None:
            raise lost(template)
        host, port = self._resources.address(server.name)
        return Build(
            login=login,
            host=host,
            port=port,
            token=token,
            deadline_at=deadline,
            renew_seconds=template.build_seconds / 3,
        )

    def begin(self, template: TemplateRow) -> None:
        """Build a template from the SQL in its row, in the background."""
        task = asyncio.create_task(self._from_sql(template))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Finish the builds under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def seal(self, template: TemplateRow, by: Actor = FRESHDB) -> TemplateRow:
        """The template is complete; from here on it never changes.

        Raises:
            BuildLost: another attempt has begun.
        """
        async with self._deadline_kept(template):
            server = self._resources.server(template.server)
            sealed = await seal(server, template.id, template.attempt)
            async with self._resources.store.transaction() as connection:
                ready = await store_templates.make_ready(
                    connection,
                    template.id,
                    template.attempt,
                    database_name=sealed.database,
                    size_bytes=sealed.size_bytes,
                )
                if ready is not None:
                    await record(connection, deed("ready", by, ready, attempt=ready.attempt))
        if ready is None:
            raise lost(template)
        settings = self._resources.settings
        async with self._resources.store.statement() as connection:
            await store_pools.ensure(
                connection,
                ready,
                Isolation.DATABASE,
                min_ready=settings.min_ready,
                max_size=settings.max_size,
                idle_seconds=settings.idle_seconds,
            )
        self._resources.events.emit("template.ready", template=ready.label, size_bytes=ready.size_bytes)
        await self._resources.wakeups.announce(WakeupReason.TEMPLATE)
        await self._resources.wakeups.announce(WakeupReason.DEMAND)
        return ready

    async def fail(self, template: TemplateRow, error: dict[str, object], by: Actor = FRESHDB) -> TemplateRow:
        """This attempt failed, and that is why.

        Raises:
            BuildLost: another attempt has begun.
        """
        async with self._resources.store.transaction() as connection:
            failed = await store_templates.make_failed(connection, template.id, template.attempt, error)
            if failed is not None:
                await record(connection, deed("failed", by, failed, attempt=failed.attempt))
        if failed is None:
            raise lost(template)
        self._resources.events.emit("template.failed", template=failed.label, error=error)
        await self._resources.wakeups.announce(WakeupReason.TEMPLATE)
        try:
            await drop_template(
                self._resources.server(template.server), template.id, below_attempt=template.attempt + 1
            )
        except FreshdbError as leftover:
            _log.warning("the failed build of %s is left to the reconciler: %s", template.label, leftover)
        return failed

    async def _from_sql(self, template: TemplateRow) -> None:
        try:
            server = self._resources.server(template.server)
            async with self._deadline_kept(template):
                login = await create_build(server, template.id, template.attempt, template.extensions)
                await run_sql(
                    server,
                    login,
                    template.sql or [],
                    timeout_seconds=self._resources.settings.max_build_seconds,
                )
                await self.seal(template)
        except BuildLost as error:
            _log.warning("%s", error)
        except FreshdbError as error:
            await self.fail(template, {"message": error.message, **error.extra})
        except Exception as error:  # noqa: BLE001 - whatever it is, the template must not stay "building"
            _log.exception("building the template %s failed", template.label)
            await self.fail(template, {"message": str(error) or type(error).__name__})

    def _deadline_kept(self, template: TemplateRow) -> AbstractAsyncContextManager[None]:
        """Keep a build's deadline ahead while this replica works on it."""

        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                extended = await store_templates.extend(
                    connection, template.id, template.attempt, claim_seconds
                )
            return extended is not None

        claim_seconds = self._resources.settings.claim_seconds
        return kept(f"the build of {template.label}", extend, claim_seconds=claim_seconds, at_once=True)


def deed(what: str, by: Actor, template: TemplateRow, **details: object) -> AuditAction:
    """What was done with a template, for the audit trail."""
    return AuditAction(f"template.{what}", by, template.id, template.label, details)


def lost(template: TemplateRow) -> BuildLost:
    """What to tell the builder of an attempt that is over."""
    return BuildLost(
        f"this build of {template.label} is over (the template is {template.state}): its deadline passed and somebody "
        "else builds it, or the verdict was given before; register again to see how it stands"
    )
