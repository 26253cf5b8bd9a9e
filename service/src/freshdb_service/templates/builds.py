"""Builds: the service or a caller fills the database of a new template, and reports ``ready`` or ``failed``.

A build is one *attempt* with its own database, login and token, and a deadline that the builder extends. When the deadline
has passed, the next attempt begins, and results of the old one are refused.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from freshdb_service.errors import BuildLost, FreshdbError
from freshdb_service.lifecycle import Isolation
from freshdb_service.pooling.claim_renewal import renewed
from freshdb_service.postgres import Login, create_build, drop_template, run_sql, seal
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store.audit_log import FRESHDB, Actor, AuditAction, record
from freshdb_service.store.rows import TemplateRow
from freshdb_service.templates.build_warnings import build_warnings

_log = logging.getLogger(__name__)
_MAX_MESSAGES: Final = 2_000
"""Maximum number of lines in the log of a build from SQL. The first ones are kept."""


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
        self._running: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(resources.settings.provision_concurrency)

    async def grant(self, template: TemplateRow, token: str) -> Build:
        """Create the empty database for a caller that fills it. The time until the deadline begins after that.

        Raises:
            BuildLost: the deadline passed in the meantime.
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

    def begin(self, template: TemplateRow, *, in_turn: bool = False) -> None:
        """Build a template from the SQL in its row, in the background.

        A build ``in_turn`` has no caller. Few of them run at once, because there may be many after an outage or an update.
        """
        task = asyncio.create_task(self._from_sql(template, self._turns if in_turn else nullcontext()))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Wait until the running builds have finished."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def seal(
        self, template: TemplateRow, by: Actor = FRESHDB, *, log: str | None = None
    ) -> TemplateRow:
        """Make a complete template ``ready``, and store the log of its build. It never changes after that.

        Raises:
            BuildLost: another attempt has begun.
        """
        async with self._deadline_renewed(template):
            server = self._resources.server(template.server)
            sealed = await seal(server, template.id, template.attempt)
            warnings = build_warnings(empty=sealed.empty, sql=template.sql, log=log)
            async with self._resources.store.transaction() as connection:
                ready = await store_templates.make_ready(
                    connection,
                    template.id,
                    template.attempt,
                    database_name=sealed.database,
                    size_bytes=sealed.size_bytes,
                    log=log,
                    warnings=warnings,
                )
                if ready is not None:
                    await record(connection, audit_entry("ready", by, ready, attempt=ready.attempt))
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
        self._resources.events.emit(
            "template.ready", template=ready.label, size_bytes=ready.size_bytes, warnings=ready.warnings
        )
        for warning in ready.warnings:
            _log.warning("template %s: %s", ready.label, warning)
        await self._resources.wakeups.announce(WakeupReason.TEMPLATE)
        await self._resources.wakeups.announce(WakeupReason.DEMAND)
        return ready

    async def fail(
        self,
        template: TemplateRow,
        error: dict[str, object],
        by: Actor = FRESHDB,
        *,
        log: str | None = None,
    ) -> TemplateRow:
        """Make a template ``failed``, with the error and the log of this attempt.

        Raises:
            BuildLost: another attempt has begun.
        """
        async with self._resources.store.transaction() as connection:
            failed = await store_templates.make_failed(
                connection, template.id, template.attempt, error, log=log
            )
            if failed is not None:
                await record(connection, audit_entry("failed", by, failed, attempt=failed.attempt))
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

    async def _from_sql(self, template: TemplateRow, turn: AbstractAsyncContextManager[None]) -> None:
        messages: list[str] = []

        def note(message: str) -> None:
            if len(messages) < _MAX_MESSAGES:
                messages.append(message.replace("\0", ""))
            elif len(messages) == _MAX_MESSAGES:
                messages.append(f"more than {_MAX_MESSAGES} messages: the rest was left out")

        try:
            server = self._resources.server(template.server)
            async with self._deadline_renewed(template), turn:
                login = await create_build(server, template.id, template.attempt, template.extensions)
                await run_sql(
                    server,
                    login,
                    template.sql or [],
                    timeout_seconds=self._resources.settings.max_build_seconds,
                    on_message=note,
                )
                await self.seal(template, log="\n".join(messages))
        except BuildLost as error:
            _log.warning("%s", error)
        except FreshdbError as error:
            messages.append(f"ERROR:  {error.message}")
            details = {"message": error.message, **error.extra}
            await self.fail(template, details, log="\n".join(messages))
        except Exception as error:  # noqa: BLE001 - after any error, the template must not stay "building"
            _log.exception("building the template %s failed", template.label)
            reason = str(error) or type(error).__name__
            messages.append(f"ERROR:  {reason}".replace("\0", ""))
            await self.fail(template, {"message": reason}, log="\n".join(messages))

    def _deadline_renewed(self, template: TemplateRow) -> AbstractAsyncContextManager[None]:
        """Extend a build's deadline during the block."""

        async def extend() -> bool:
            async with self._resources.store.statement() as connection:
                extended = await store_templates.extend(
                    connection, template.id, template.attempt, claim_seconds
                )
            return extended is not None

        claim_seconds = self._resources.settings.claim_seconds
        return renewed(f"the build of {template.label}", extend, claim_seconds=claim_seconds, at_once=True)


def audit_entry(what: str, by: Actor, template: TemplateRow, **details: object) -> AuditAction:
    """Return an audit log entry about a template."""
    return AuditAction(f"template.{what}", by, template.id, template.label, details)


def lost(template: TemplateRow) -> BuildLost:
    """Return the error for the builder of an attempt that has ended."""
    return BuildLost(
        f"this build of {template.label} has ended (the template is {template.state}): its deadline passed, or its result "
        "was reported before; register the template again to see its state"
    )
