"""Compares the control plane's rows, Redis and the servers' catalogs, and repairs differences.

The catalogs list the objects that exist, and the rows list those that should. A row is written before its objects are
created. So the reconciler reads the catalog first and the rows after it. An object without a row is left over, and is
dropped. The reconciler only considers objects with this installation's prefix and stamp.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.errors import FreshdbError
from freshdb_service.lifecycle import DATABASE_CLAIMED, DatabaseState, Isolation, TemplateState
from freshdb_service.postgres import (
    OwnedObject,
    Server,
    database_sizes,
    drop_owned,
    drop_shared,
    drop_template,
    inventory,
)
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
from freshdb_service.templates.outdated import replace_outdated

_log = logging.getLogger(__name__)
_ROUNDS_CLAIMED: Final = 1.25
"""Length of a replica's claim on a comparison, in rounds: it lasts until the replica's next round, and ends if it dies."""


class Reconciler:
    """One round: rows of dead workers, missing deadlines, unused templates, objects on servers without a row.

    The cost of a comparison grows with the installation. With ``shared_work``, the first replica that claims the deadlines,
    or a server, compares them for all. A replica that has just started compares everything once, because the state before
    its start is unknown.
    """

    def __init__(self, resources: Resources, builds: Builds, shared_work: SharedWork | None = None) -> None:
        self._resources = resources
        self._builds = builds
        self._shared_work = shared_work
        self._new = True
        self._strays: set[UUID] = set()
        """Leases that Redis had in the previous round, and the control plane had not."""
        self._unseen: dict[LockedDatabase, float] = {}
        """Claims whose worker held no lock at the last check, and the time of the first such check."""

    async def run_once(self) -> None:
        """Repair differences. A server that does not answer does not prevent the comparison of the others."""
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
                await self._leave_to_others(server.name)  # it may answer another replica
        await self._retired()
        self._new = False

    async def _mine(self, what: str) -> bool:
        if self._shared_work is None:
            return True
        seconds = _ROUNDS_CLAIMED * self._resources.settings.reconciler_seconds
        return await self._shared_work.mine(f"compare:{what}", seconds=seconds) or self._new

    async def _leave_to_others(self, what: str) -> None:
        if self._shared_work is not None:
            await self._shared_work.lay_down(f"compare:{what}")

    async def recover(self, gone: Sequence[LockedDatabase] = ()) -> None:
        """Take over the claims of dead workers. This is cheap and callers may wait for it, so it runs more often."""
        async with self._resources.store.statement() as connection:
            released = await store_databases.release_claims(connection, gone)
            strays = await store_databases.recover_strays(connection)
        for row in released:
            _log.warning("worker died while working on database %s; state set to %s", row.id, row.state)
            self._resources.events.emit(
                f"database.{row.state}", database=row.id, pool=row.pool_id, error="its worker died"
            )
        if released or strays:
            await self._resources.wakeups.announce(WakeupReason.DIRTY)
            await self._resources.wakeups.announce(WakeupReason.DEMAND)

    async def recover_from_deaths(self) -> None:
        """Take over the claims of workers that held no lock at this check and the one before."""
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
        """Give every live lease a deadline, and remove deadlines without a lease.

        A deadline is removed after a whole round without its lease, because a lease that is being granted gets its deadline
        first.
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
        """Repeat builds from SQL whose replica died."""
        while True:
            async with self._resources.store.statement() as connection:
                template = await store_templates.take_over_sql_build(
                    connection, claim_seconds=self._resources.settings.claim_seconds
                )
            if template is None:
                return
            _log.warning("taking over the build of %s", template.label)
            self._builds.begin(template, in_turn=True)

    async def _server(self, server: Server) -> None:
        there = await inventory(server)
        async with self._resources.store.statement() as connection:
            templates = await store_templates.all_of_server(connection, server.name)
            rows = await store_databases.listing(connection, server.name)
            pools = await store_pools.all_of_server(connection, server.name)
        await replace_outdated(self._resources, self._builds, server, templates, pools)
        wanted = _Wanted(templates, rows, pools)
        for leftover in there:
            if not wanted.has(leftover):
                try:
                    dropped = await drop_owned(server, leftover)
                except FreshdbError as error:
                    _log.warning("cannot drop %s on %s: %s", leftover.name, server.name, error)
                    continue
                if dropped:  # not, for example, a login that was renamed since the catalog was read
                    _log.info(
                        "dropped %s %s on %s: no row refers to it", leftover.kind, leftover.name, server.name
                    )
        await self._rebuild_missing(server, there, rows)
        sizes = await database_sizes(server)
        async with self._resources.store.statement() as connection:
            await store_pools.note_disk(connection, server.name, sum(sizes.values()))
            await store_templates.note_disk(connection, wanted.disk_bytes_of_templates(sizes))

    async def _rebuild_missing(
        self, server: Server, there: list[OwnedObject], rows: list[DatabaseRow]
    ) -> None:
        """Make ready databases dirty that do not exist (an operator dropped one, for example), so that they are rebuilt."""
        gone = _incomplete([row for row in rows if row.state is DatabaseState.READY], there)
        if not gone:
            return
        for row in _incomplete(gone, await inventory(server)):  # it may be newer than the first inventory
            async with self._resources.store.statement() as connection:
                if await store_databases.move(
                    connection, row, DatabaseState.DIRTY, error="it does not exist"
                ):
                    _log.warning(
                        "database %s does not exist on %s any more; rebuilding it",
                        row.database_name,
                        server.name,
                    )
        await self._resources.wakeups.announce(WakeupReason.DIRTY)

    async def _retired(self) -> None:
        """Retire unused templates, and drop retired ones that have no database left."""
        async with self._resources.store.statement() as connection:
            for template in await store_templates.retire_unused(
                connection, self._resources.settings.unused_template_seconds
            ):
                self._resources.events.emit("template.retired", template=template.label, reason="unused")
            emptied = await store_templates.retired_without_databases(
                connection, self._resources.settings.unused_template_seconds
            )
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
            async with self._resources.store.transaction() as connection:
                if not await store_templates.keep_outdated(connection, template.id):
                    await store_templates.delete_row(connection, template.id)


def _incomplete(rows: list[DatabaseRow], there: list[OwnedObject]) -> list[DatabaseRow]:
    """Return rows whose database, schema (if any) or login is not on the server. Two of them may have the same name."""
    found: set[tuple[str, str | None]] = {(one.kind, str(one.name)) for one in there}
    return [
        row
        for row in rows
        if not {("database", row.database_name), ("role", row.login)} <= found
        or (row.schema_name is not None and ("schema", row.schema_name) not in found)
    ]


class _Wanted:
    """Objects that should exist on a server according to the rows."""

    def __init__(self, templates: list[TemplateRow], rows: list[DatabaseRow], pools: list[PoolRow]) -> None:
        self._templates = {token_of(one.id): one for one in templates}
        self._databases = {token_of(one.id): one for one in rows}
        self._pools = {token_of(one.id): one for one in pools}

    def has(self, found: OwnedObject) -> bool:
        """Return true if a row refers to an object, or may do so because a worker has claimed it."""
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
        """Return the disk space of each template together with the databases of its pools."""
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
