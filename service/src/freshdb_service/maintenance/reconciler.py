"""Compares the control plane's rows, Redis and the servers' catalogs, and repairs what differs.

The catalogs say what exists, the rows say what should. Rows are written before the things that they name are made, so the
reconciler reads the catalog first and the rows after it: what it saw and finds no row for is left over, and is dropped.
Only what bears this installation's prefix and stamp is ever looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.errors import FreshdbError
from freshdb_service.lifecycle import DATABASE_CLAIMED, DatabaseState, Isolation, TemplateState
from freshdb_service.postgres import OwnedObject, Server, drop_shared, drop_template
from freshdb_service.postgres.names import Kind, Name, token_of
from freshdb_service.redis.deadlines import Deadline
from freshdb_service.redis.shared_work import SharedWork
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import databases as store_databases
from freshdb_service.store import leases as store_leases
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store import worker_locks
from freshdb_service.store.rows import DatabaseRow, PoolRow, TemplateRow
from freshdb_service.store.worker_locks import LockedDatabase
from freshdb_service.templates.builds import Builds

_log = logging.getLogger(__name__)
_ROUNDS_WITH_DUTY: Final = 1.25
"""For so many rounds a replica that is not heard of again keeps what was its duty to compare: just until its next one."""


class Reconciler:
    """One round: rows whose worker died, deadlines that are missing, templates that are over, leftovers on servers.

    Comparing everything costs the more, the more there is. With ``duties``, one replica does it for all: one the deadlines,
    one each server, whichever came first. A replica that has just started compares everything once: nobody knows what
    came before it.
    """

    def __init__(self, resources: Resources, builds: Builds, shared_work: SharedWork | None = None) -> None:
        self._resources = resources
        self._builds = builds
        self._shared_work = shared_work
        self._new = True
        self._strays: set[UUID] = set()
        """Leases that Redis knew of in the round before, and the control plane did not."""
        self._unseen: dict[LockedDatabase, float] = {}
        """Claims whose worker could not be seen when they were last looked at, and since when."""

    async def run_once(self) -> None:
        """Repair what differs; a server that does not answer keeps nobody from the others."""
        await self.recover()
        async with self._resources.store.statement() as connection:
            await store_leases.prune(connection, self._resources.settings.history_seconds)
        await self._resources.audit_log.prune(self._resources.settings.trail_seconds)
        await self._resources.history.prune(self._resources.settings.history_seconds)
        if await self._mine("deadlines"):
            await self._deadlines()
        await self._overdue_builds()
        for server in self._resources.servers.values():
            if not await self._mine(server.name):
                continue
            try:
                await self._server(server)
            except FreshdbError as error:
                _log.warning("reconciling %s: %s", server.name, error)
                await self._leave_to_others(server.name)  # it may answer them
        await self._retired()
        self._new = False

    async def _mine(self, what: str) -> bool:
        if self._shared_work is None:
            return True
        seconds = _ROUNDS_WITH_DUTY * self._resources.settings.reconciler_seconds
        return await self._shared_work.mine(f"compare:{what}", seconds=seconds) or self._new

    async def _leave_to_others(self, what: str) -> None:
        if self._shared_work is not None:
            await self._shared_work.lay_down(f"compare:{what}")

    async def recover(self, gone: Sequence[LockedDatabase] = ()) -> None:
        """Take over what workers that died had claimed. Cheap, and somebody may be waiting for it: done more often."""
        async with self._resources.store.statement() as connection:
            released = await store_databases.release_claims(connection, gone)
            strays = await store_databases.recover_strays(connection)
        for row in released:
            _log.warning("nobody finished with database %s: now %s", row.id, row.state)
            self._resources.events.emit(
                f"database.{row.state}", database=row.id, pool=row.pool_id, error="its worker died"
            )
        if released or strays:
            await self._resources.wakeups.announce(WakeupReason.DIRTY)
            await self._resources.wakeups.announce(WakeupReason.DEMAND)

    async def look_for_deaths(self) -> None:
        """Take over the claims of workers that could not be seen at the look before this one either."""
        async with self._resources.store.statement() as connection:
            unseen = await worker_locks.without_lock(connection)
        now = monotonic()
        self._unseen = {one: self._unseen.get(one, now) for one in unseen}
        gone = [
            one
            for one, since in self._unseen.items()
            if now - since >= self._resources.settings.deaths_seconds / 2
        ]
        if gone:
            await self.recover(gone)

    async def _deadlines(self) -> None:
        """Every live lease has a deadline, and nothing else has one.

        What is settled has been a stray for a whole round: a lease that is being granted has its deadline first.
        """
        noted = await self._resources.deadlines.noted()
        async with self._resources.store.statement() as connection:
            live = await store_leases.live(connection)
        expiry = await self._resources.deadlines.expiry([one.id for one in live])
        missing = [
            Deadline(one.id, one.principal, one.ttl_seconds, one.remaining_seconds)
            for one, when in zip(live, expiry, strict=True)
            if when is None
        ]
        if missing:
            written = await self._resources.deadlines.restore(missing, run_id=None)
            _log.warning("%d leases had no deadline and got their full TTL", written)
        strays = noted - {one.id for one in live}
        await self._resources.deadlines.settle(list(strays & self._strays))
        self._strays = strays

    async def _overdue_builds(self) -> None:
        """Builds from SQL whose replica died are done again here."""
        while True:
            async with self._resources.store.statement() as connection:
                template = await store_templates.take_over_sql_build(
                    connection, claim_seconds=self._resources.settings.claim_seconds
                )
            if template is None:
                return
            _log.warning("taking over the build of %s", template.label)
            self._builds.begin(template)

    async def _server(self, server: Server) -> None:
        there = await server.inventory()
        async with self._resources.store.statement() as connection:
            templates = await store_templates.all_of_server(connection, server.name)
            rows = await store_databases.listing(connection, server.name)
            pools = await store_pools.all_of_server(connection, server.name)
        wanted = _Wanted(templates, rows, pools)
        for leftover in there:
            if not wanted.has(leftover):
                try:
                    dropped = await server.drop_owned(leftover)
                except FreshdbError as error:
                    _log.warning("cannot drop %s on %s: %s", leftover.name, server.name, error)
                    continue
                if dropped:  # and not a login, say, that has got its next name since the look
                    _log.info(
                        "dropped %s %s on %s: nothing refers to it", leftover.kind, leftover.name, server.name
                    )
        await self._vanished(server, there, rows)
        sizes = await server.sizes()
        async with self._resources.store.statement() as connection:
            await store_pools.note_disk(connection, server.name, sum(sizes.values()))
            await store_templates.note_disk(connection, wanted.disk_bytes_of_templates(sizes))

    async def _vanished(self, server: Server, there: list[OwnedObject], rows: list[DatabaseRow]) -> None:
        """A ready database that is not there (somebody dropped it by hand) is made anew."""
        gone = _not_whole([row for row in rows if row.state is DatabaseState.READY], there)
        if not gone:
            return
        for row in _not_whole(gone, await server.inventory()):  # it may have come after the first look
            async with self._resources.store.statement() as connection:
                if await store_databases.move(connection, row, DatabaseState.DIRTY, error="it vanished"):
                    _log.warning("database %s vanished from %s", row.database_name, server.name)
        await self._resources.wakeups.announce(WakeupReason.DIRTY)

    async def _retired(self) -> None:
        """What is left of templates that are over goes, once no database of theirs is left."""
        async with self._resources.store.statement() as connection:
            for template in await store_templates.retire_unused(
                connection, self._resources.settings.unused_template_seconds
            ):
                self._resources.events.emit("template.retired", template=template.label, reason="unused")
            emptied = await store_templates.retired_without_databases(connection)
            pools = await store_pools.listing(connection)
        for template in emptied:
            if template.server not in self._resources.servers:
                continue
            server = self._resources.server(template.server)
            try:
                for pool in pools:
                    if pool.template_id == template.id and pool.isolation is Isolation.SCHEMA:
                        await drop_shared(server, pool.id)
                await drop_template(server, template.id)
            except FreshdbError as error:
                _log.warning("cannot drop the template %s yet: %s", template.label, error)
                continue
            async with self._resources.store.statement() as connection:
                await store_templates.delete_row(connection, template.id)


def _not_whole(rows: list[DatabaseRow], there: list[OwnedObject]) -> list[DatabaseRow]:
    """Those whose database, schema if they have one, or login is not on the server; these may have the same name."""
    found: set[tuple[str, str | None]] = {(one.kind, str(one.name)) for one in there}
    return [
        row
        for row in rows
        if not {("database", row.database_name), ("role", row.login)} <= found
        or (row.schema_name is not None and ("schema", row.schema_name) not in found)
    ]


class _Wanted:
    """What the rows say should exist on a server."""

    def __init__(self, templates: list[TemplateRow], rows: list[DatabaseRow], pools: list[PoolRow]) -> None:
        self._templates = {token_of(one.id): one for one in templates}
        self._databases = {token_of(one.id): one for one in rows}
        self._pools = {token_of(one.id): one for one in pools}

    def has(self, found: OwnedObject) -> bool:
        """Whether a row stands behind it (or may, because somebody is at work on it)."""
        name = found.name
        if name.kind is Kind.TEMPLATE:
            template = self._templates.get(name.token)
            return (
                template is not None
                and template.state is not TemplateState.FAILED
                and name.counter == template.attempt
            )
        if name.kind not in {Kind.DATABASE, Kind.SCHEMA}:
            return name.token in self._pools
        row = self._databases.get(name.token)
        if row is None:
            return False
        if row.state in DATABASE_CLAIMED or row.state is DatabaseState.DIRTY:
            return True
        return str(name) in {row.database_name, row.schema_name, row.login}

    def disk_bytes_of_templates(self, sizes: Mapping[Name, int]) -> dict[UUID, int]:
        """What each template and the databases of its pools take."""
        template_of = {one.id: one.template_id for one in self._pools.values()}
        taken = dict.fromkeys((one.id for one in self._templates.values()), 0)
        for name, size in sizes.items():
            whose: UUID | None = None
            if name.kind is Kind.TEMPLATE and (template := self._templates.get(name.token)):
                whose = template.id
            elif name.kind is Kind.DATABASE and (row := self._databases.get(name.token)):
                whose = template_of.get(row.pool_id)
            elif name.kind is Kind.SHARED and (pool := self._pools.get(name.token)):
                whose = pool.template_id
            if whose in taken:
                taken[whose] += size
        return taken
