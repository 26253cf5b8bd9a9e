"""The reset engine: it cleans a used database in place where that is proved to be enough, and rebuilds it elsewhere.

1. *Fence* (``fencing.fence``). The login cannot log in any more, and that is committed. Its backends are terminated and
   gone, including those that were only starting, and no prepared transaction is left.
2. *Inspect*, in the same statement that finds no backend left. Counters show which tables and catalogs were written to, and
   which sequences were read.
3. *Check* the catalogs that were written to. If anything is not proved to be as it was, ``Unprovable`` is raised, and the
   database is rebuilt.
4. *Clean*, in one transaction that also gives the login its next name and password (``login_handover``). The inspection
   gives the next mark.

The sessions of a superuser write without being counted, fire no triggers and check no foreign keys, and the transaction that
cleans also lets the next login in. The sessions of a plain role (``Server``) clean in an order that satisfies foreign keys,
read the counters again afterwards, and only then let the next login in.

Steps 2 to 4 are those of ``freshdb_reset``, which works on any connection.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final

import asyncpg

from freshdb_reset import (
    Catalogs,
    Cause,
    CleanState,
    Inspection,
    KnownState,
    Leftovers,
    Mark,
    Plan,
    Qualified,
    Site,
    StorageChanges,
    Unprovable,
    audit_differences,
    check_definitions,
    find_storage_changes,
    inspect_catalogs,
    make_plan,
    read_baseline,
    read_mark,
    read_mark_with_counters_reset,
    read_mark_without_counters,
    settle,
)
from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres.blockers import terminating_blockers
from freshdb_service.postgres.fencing.fence import fence_and_inspect
from freshdb_service.postgres.names import Kind
from freshdb_service.postgres.reset.engine import (
    CopySource,
    Fenced,
    ResetOutcome,
    UsedDatabase,
    fence_old,
    rebuild,
)
from freshdb_service.postgres.reset.login_handover import (
    LoginHandover,
    open_login,
    restore_and_hand_over,
    undo,
)
from freshdb_service.postgres.reset.template_cache import TemplateCache
from freshdb_service.postgres.server.connections import Login, operation
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.session_cache import Session

_DEAD_ROWS: Final = 1_000
"""Number of rows of a database's catalogs that are updated or deleted, or of logins of a server that are renamed, before a
vacuum. Autovacuum does not start by itself, because these sessions are not counted."""

_SHARED_WRITES: Final = 10_000
"""Number of rows of a shared database's catalogs that all its schemas together write before a vacuum."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A used database, and the state that it should have again."""

    server: Server
    origin: CopySource
    expected: CleanState


@dataclass(frozen=True, slots=True)
class _Inspected:
    """A fenced database, with the session inside it that fenced it."""

    work: _Work
    visit: AsyncExitStack
    session: Session
    catalogs: Catalogs
    leftovers: Leftovers
    inspection: Inspection
    rewritten: frozenset[Qualified]
    changes: StorageChanges


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of one reset, and when it began."""

    server: Server
    used: UsedDatabase
    origin: CopySource
    generation: int
    began: float


class CleaningEngine:
    """Cleans in place where that is proved to be enough, and rebuilds everywhere else.

    Args:
        audit_every: number of cleaned databases per audit, or 0 for no audits.
    """

    def __init__(self, *, audit_every: int = 0) -> None:
        self._templates = TemplateCache()
        self._dead_rows: Counter[str] = Counter()
        self._renamed: Counter[str] = Counter()
        self._rewritten: Counter[str] = Counter()
        self._vacuumed_at: dict[str, int] = {}
        self._audit_every = audit_every
        self._cleaned = 0

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """See ``ResetEngine.note``."""
        try:
            return await _note(server, self._templates, login, origin)
        except Unprovable as unprovable:
            message = f"the database {login.database} cannot be leased: {unprovable}"
            raise Conflict(message) from unprovable

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """See ``ResetEngine.fence``."""
        job = _Job(server, used, origin, generation, monotonic())
        leftovers: Leftovers | None = None
        try:
            work = self._work(server, used, origin)
            async with AsyncExitStack() as visit:
                session, leftovers, inspection = await _enter_and_fence(visit, server, work.expected)
                schema = work.expected.site.schema is not None
                catalogs = await self._templates.catalogs(server, session, schema=schema)
                rewritten = await check_definitions(session, catalogs, work.expected, inspection)
                changes = await find_storage_changes(session, server.rights, work.expected, inspection)
                await self._vacuum_catalogs(session, work.expected.site, catalogs, inspection)
                inspected = _Inspected(
                    work, visit.pop_all(), session, catalogs, leftovers, inspection, rewritten, changes
                )
        except (Unprovable, asyncpg.PostgresError) as error:
            unprovable = _with_leftovers(error, leftovers)
            leftovers = unprovable.leftovers or await fence_old(server, used)
            return Fenced(leftovers, partial(self._rebuild, job, unprovable, leftovers))
        return Fenced(leftovers, partial(self._finish, job, inspected))

    async def _finish(self, job: _Job, inspected: _Inspected) -> ResetOutcome:
        try:
            return await self._clean(job, inspected)
        except (Unprovable, asyncpg.PostgresError) as error:
            unprovable = _with_leftovers(error, inspected.leftovers)
            return await self._rebuild(job, unprovable, unprovable.leftovers or inspected.leftovers)

    async def _rebuild(self, job: _Job, unprovable: Unprovable, leftovers: Leftovers) -> ResetOutcome:
        server, used = job.server, job.used
        if used.site is not None and used.site.schema is None:
            await server.sessions.close_idle(used.site.database)
            self._dead_rows.pop(used.site.database, None)
            self._rewritten.pop(used.site.database, None)
        login = await rebuild(server, used, job.origin, job.generation)
        known = await self.note(server, login, job.origin)
        return ResetOutcome(
            login,
            "rebuild",
            str(unprovable),
            monotonic() - job.began,
            known,
            leftovers,
            None if unprovable.audit is None else tuple(unprovable.audit),
            unprovable.cause,
        )

    def _work(self, server: Server, used: UsedDatabase, origin: CopySource) -> _Work:
        if used.site is None or used.known is None:
            raise Unprovable("its clean state was not recorded", cause=Cause.UNKNOWN)
        profile = self._templates.profile(server, origin)
        return _Work(server, origin, CleanState(used.site, used.known, profile))

    async def _clean(self, job: _Job, inspected: _Inspected) -> ResetOutcome:
        work, session, inspection = inspected.work, inspected.session, inspected.inspection
        server, expected, site = work.server, work.expected, work.expected.site
        kind = Kind.DATABASE if job.used.isolation is Isolation.DATABASE else Kind.SCHEMA
        name = str(server.name_of(kind, job.used.database_id, job.generation))
        async with inspected.visit:
            in_order = not server.may_be_replica
            plan = make_plan(
                expected.template, inspection, inspected.rewritten, inspected.changes, in_order=in_order
            )
            password = await server.passwords.take()
            handover = LoginHandover(site.login, name, password.verifier)
            mark = await _carry_out(session, server, plan, expected, handover, inspection)
            site = replace(site, login=name)
            try:
                await self._vacuum_logins(session, server)
                await self._vacuum_storage_catalogs(session, server, site, plan)
                audit = await self._audit(session, inspected.catalogs, work, replace(expected, site=site))
            except (Unprovable, asyncpg.PostgresError):
                await undo(session, handover)
                raise
        return ResetOutcome(
            login=Login(site.database, site.schema, name, password.secret),
            path=plan.path,
            reason=plan.reason,
            seconds=monotonic() - job.began,
            known=KnownState(expected.known.baseline, mark),
            leftovers=inspected.leftovers,
            audit=audit,
        )

    async def _audit(
        self, session: Session, catalogs: Catalogs, work: _Work, expected: CleanState
    ) -> tuple[str, ...] | None:
        """Audit a clean database, if it is one of the sample.

        Raises:
            Unprovable: it differs from its template, or a fresh copy is needed first, to compare with.
        """
        self._cleaned += 1
        if not self._audit_every or self._cleaned % self._audit_every:
            return None
        digest = self._templates.digest(work.server, work.origin)
        if digest is None:
            raise Unprovable("an audit needs a fresh copy of the template to compare with", cause=Cause.AUDIT)
        found = await audit_differences(session, work.server.rights, catalogs, expected, digest)
        if found:
            raise Unprovable(f"an audit found that {found[0]}", cause=Cause.AUDIT, audit=found)
        return ()

    async def _vacuum_logins(self, session: Session, server: Server) -> None:
        """Bound the dead rows that renamed logins leave in the server's catalog of roles.

        A plain role may not vacuum it. But its writes there are counted, so autovacuum does.
        """
        if not server.is_superuser:
            return
        self._renamed[server.name] += 1
        if self._renamed[server.name] > _DEAD_ROWS:
            del self._renamed[server.name]
            await session.execute("VACUUM (SKIP_LOCKED) pg_authid")

    async def _vacuum_storage_catalogs(
        self, session: Session, server: Server, site: Site, plan: Plan
    ) -> None:
        """Bound the dead rows that resets leave in the catalogs: those of a superuser are not counted."""
        if not server.is_superuser:
            return
        self._rewritten[site.database] += plan.catalog_rows
        if self._rewritten[site.database] > _DEAD_ROWS:
            del self._rewritten[site.database]
            await session.execute(
                "VACUUM (SKIP_LOCKED) pg_class, pg_index, pg_statistic, pg_statistic_ext_data"
            )

    async def _vacuum_catalogs(
        self, session: Session, site: Site, catalogs: Catalogs, inspection: Inspection
    ) -> None:
        """Bound the dead rows that temporary tables, for example, leave in the catalogs."""
        if not inspection.elsewhere:
            return
        database, writes = site.database, inspection.mark.writes
        if site.schema is None:
            self._dead_rows[database] += inspection.dead_catalog_rows
            if self._dead_rows[database] > _DEAD_ROWS:
                del self._dead_rows[database]
                await session.execute(f"VACUUM {', '.join(inspection.catalogs)}")
        elif writes - self._vacuumed_at.setdefault(database, writes) > _SHARED_WRITES:
            self._vacuumed_at[database] = writes
            await session.execute(f"VACUUM (SKIP_LOCKED) {', '.join(catalogs.names)}")


def _with_leftovers(error: Unprovable | asyncpg.PostgresError, leftovers: Leftovers | None) -> Unprovable:
    """Complete the reason to rebuild with the leftovers that were found before it."""
    if not isinstance(error, Unprovable):
        return Unprovable(f"cleaning failed: {error} ({error.sqlstate})", leftovers, cause=Cause.FAILED)
    found = error.leftovers or leftovers
    if found is not None:
        found = replace(found, objects=error.objects)
    return Unprovable(str(error), found, cause=error.cause, audit=error.audit)


async def _enter_and_fence(
    visit: AsyncExitStack, server: Server, expected: CleanState
) -> tuple[Session, Leftovers, Inspection]:
    """Enter the database, and shut all others out.

    An idle session may be lost without notice, for example because the server was restarted. Then a new one is opened.
    Every step up to here can be repeated.
    """
    site, query = expected.site, expected.query
    while True:
        idle, session = server.sessions.has_idle(site.database), None
        try:
            async with AsyncExitStack() as attempt:
                session = await attempt.enter_async_context(server.sessions.inside(site.database))
                attempt.enter_context(terminating_blockers(server, session))
                leftovers, inspection = await fence_and_inspect(
                    session, site, query, sees_all=server.is_superuser
                )
                if inspection.elsewhere and site.schema is None:
                    inspection = await inspect_catalogs(session, inspection)
                await visit.enter_async_context(attempt.pop_all())
                return session, leftovers, inspection
        except BackendUnavailable:
            if not (idle and session is not None and session.is_closed()):
                raise


async def _carry_out(
    session: Session,
    server: Server,
    plan: Plan,
    expected: CleanState,
    handover: LoginHandover,
    inspection: Inspection,
) -> Mark:
    """Clean, and let the next login in. Return the mark, which is set in between."""
    at_once = server.is_superuser
    await restore_and_hand_over(session, plan, expected, handover, at_once=at_once)
    site = replace(expected.site, login=handover.new)
    try:
        await settle(session, server.rights, plan, expected, inspection)
        if not at_once:  # the writes of this session were counted, and are not the next holder's
            mark = await read_mark(session, site, expected.known.baseline.relations)
            await open_login(session, handover)
            return mark
        numbers_of = expected.numbers_of
        changed = {*inspection.tables, *inspection.maintained, *inspection.sequences}
        touched = {numbers_of[name] for name in changed}
        if touched and site.schema is None:
            now = await read_mark_with_counters_reset(session, site, touched)
            left = {
                number: counts for number, counts in inspection.mark.counters.items() if number not in touched
            }
            return replace(inspection.mark, transaction=now.transaction, reset_at=now.reset_at, counters=left)
        if plan.writes:  # rows that are written after the mark are not the template's
            now = await read_mark_without_counters(session, site)
            return replace(inspection.mark, transaction=now.transaction)
    except (Unprovable, asyncpg.PostgresError):
        await undo(session, handover)
        raise
    return inspection.mark


@operation
async def _note(
    server: Server, templates: TemplateCache, login: Login, origin: CopySource
) -> KnownState | None:
    site = Site(login.database, login.schema, login.user)
    try:
        async with server.sessions.inside(login.database) as session:
            catalogs = await templates.catalogs(server, session, schema=login.schema is not None)
            known = await read_baseline(session, site, catalogs)
            await templates.learn(server, session, origin, known)
    except asyncpg.InsufficientPrivilegeError:
        return None  # the role may not read something in it, so every reset will rebuild it
    return known
