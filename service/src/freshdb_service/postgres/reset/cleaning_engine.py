"""The reset engine: a database that comes back is made clean where it was touched, proved clean, or rebuilt.

1. *Fence.* The login may not log in any more (committed), its backends are terminated and gone, also those that were only
   being started, and nothing is left prepared.
2. *Look* (``look``), in the same statement that finds nobody left. Counters say which tables and catalogs were written
   to; sequences are read.
3. *Judge* (``judging``). Catalogs that were written to are compared with what they were (``catalogs``). Whatever cannot be
   proved to be as it was raises ``Unprovable``, and the database is rebuilt.
4. *Clean* (``cleaning``), in one transaction that gives the login its next name and password. What was seen is the next
   mark.

A superuser's sessions write nothing that is counted, fire no triggers and check no foreign keys, and let the next login in
with the transaction that cleans. A plain role's (``Server``) clean in an order that foreign keys agree with, read the
counters once more when they have cleaned, and only then let anybody in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import asyncpg

from freshdb_service.errors import BackendUnavailable, Conflict
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres.fencing.blockers import insisting
from freshdb_service.postgres.fencing.fence import shut_out
from freshdb_service.postgres.names import Kind, quoted
from freshdb_service.postgres.reset.audit import differences, differences_of_catalogs, read_digest
from freshdb_service.postgres.reset.baseline import (
    Cause,
    Leftovers,
    Mark,
    Site,
    Unprovable,
    changed_outside,
    counted_now,
    mark_now,
    note,
)
from freshdb_service.postgres.reset.catalog_diff import compare, rewritten
from freshdb_service.postgres.reset.catalog_fingerprint import Catalogs, Extent
from freshdb_service.postgres.reset.change_detection import (
    Inspection,
    InspectionQuery,
    unreliable,
    with_catalogs,
)
from freshdb_service.postgres.reset.engine import (
    CopySource,
    Fenced,
    KnownState,
    ResetOutcome,
    UsedDatabase,
    fence_old,
    rebuild,
)
from freshdb_service.postgres.reset.plan import LoginHandover, Plan, carry_out, let_in, plan
from freshdb_service.postgres.reset.table_model import Qualified, Relations
from freshdb_service.postgres.reset.template_cache import TemplateCache, TemplateProfile
from freshdb_service.postgres.roles import Login
from freshdb_service.postgres.server.connections import operation

if TYPE_CHECKING:
    from freshdb_service.postgres.server.server import Server
    from freshdb_service.postgres.server.session_cache import Session

_DEAD_ROWS: Final = 1_000
"""So many rows of a database's catalogs may be updated or deleted before they are vacuumed; and so many logins of a server
may be renamed. PostgreSQL itself does not notice: what these sessions do is not counted."""

_SHARED_WRITES: Final = 10_000
"""So many rows of a shared database's catalogs may be written, by all its schemas together, before they are vacuumed."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A used database, and what it should be like."""

    server: Server
    site: Site
    known: KnownState
    origin: CopySource
    template: TemplateProfile

    @property
    def expected_extents(self) -> Mapping[str, Extent]:
        """The fingerprint of the catalogs."""
        return self.template.extents if self.site.schema is None else self.known.baseline.extents

    @property
    def relations(self) -> Relations:
        """What has counters.

        Raises:
            Unprovable: that was never noted.
        """
        found = self.template.relations if self.site.schema is None else self.known.baseline.relations
        if found is None:
            raise Unprovable("nothing is known of what it was like", cause=Cause.UNKNOWN)
        return found


@dataclass(frozen=True, slots=True)
class _Inspected:
    """A fenced database, with the session inside it that fenced it."""

    work: _Work
    visit: AsyncExitStack
    session: Session
    leftovers: Leftovers
    seen: Inspection
    stored_anew: frozenset[Qualified]


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of one reset, and when it began."""

    server: Server
    used: UsedDatabase
    origin: CopySource
    generation: int
    began: float


class CleaningEngine:
    """Cleans where that is proved enough, and rebuilds everywhere else.

    Args:
        audit_every: one in so many cleaned databases is audited; 0 for none.
    """

    def __init__(self, *, audit_every: int = 0) -> None:
        self._knowledge = TemplateCache()
        self._dead_rows: Counter[str] = Counter()
        self._renamed: Counter[str] = Counter()
        self._vacuumed_at: dict[str, int] = {}
        self._audit_every = audit_every
        self._cleaned = 0

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """See ``ResetEngine.note``."""
        try:
            return await _note(server, self._knowledge, login, origin)
        except Unprovable as unprovable:
            message = f"the database {login.database} cannot be handed out: {unprovable}"
            raise Conflict(message) from unprovable

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """See ``ResetEngine.fence``."""
        job = _Job(server, used, origin, generation, monotonic())
        leftovers: Leftovers | None = None
        try:
            work = self._work(server, used, origin)
            async with AsyncExitStack() as visit:
                session, leftovers, seen = await _shut_out(visit, work)
                stored_anew = await self._judged(session, work, seen)
                inspected = _Inspected(work, visit.pop_all(), session, leftovers, seen, stored_anew)
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
            await server.sessions.leave(used.site.database)
            self._dead_rows.pop(used.site.database, None)
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
            raise Unprovable("nothing is known of what it was like", cause=Cause.UNKNOWN)
        return _Work(server, used.site, used.known, origin, self._knowledge.of(server, origin))

    async def _clean(self, job: _Job, inspected: _Inspected) -> ResetOutcome:
        work, session, seen = inspected.work, inspected.session, inspected.seen
        server, site, known = work.server, work.site, work.known
        kind = Kind.DATABASE if job.used.isolation is Isolation.DATABASE else Kind.SCHEMA
        name = str(server.name_of(kind, job.used.database_id, job.generation))
        async with inspected.visit:
            made = plan(work.template, seen, inspected.stored_anew, in_order=not server.may_be_replica)
            password = await server.passwords.take()
            handover = LoginHandover(site.login, name, password.verifier)
            mark = await self._carried_out(session, work, made, handover, seen)
            site = replace(site, login=name)
            try:
                await self._vacuum_logins(session, server)
                audit = await self._audited(session, replace(work, site=site))
            except (Unprovable, asyncpg.PostgresError):
                await _undo(session, handover)
                raise
        return ResetOutcome(
            login=Login(site.database, site.schema, name, password.secret),
            path=made.path,
            reason=made.reason,
            seconds=monotonic() - job.began,
            known=KnownState(known.baseline, mark),
            leftovers=inspected.leftovers,
            audit=audit,
        )

    async def _carried_out(
        self, session: Session, work: _Work, made: Plan, handover: LoginHandover, seen: Inspection
    ) -> Mark:
        """Clean, and let the next login in; the mark that was set in between."""
        at_once = work.server.is_superuser
        await carry_out(
            session,
            made,
            handover,
            schema=work.site.schema,
            mark=work.known.mark,
            template=work.template,
            at_once=at_once,
        )
        site = replace(work.site, login=handover.new)
        try:
            if not at_once:  # what we wrote was counted, and is not the next holder's
                mark = await counted_now(session, site, work.known.baseline.relations)
                await let_in(session, handover)
                return mark
            if made.writes:  # what is written since the mark is not the template's
                return replace(seen.mark, transaction=(await mark_now(session, site)).transaction)
        except (Unprovable, asyncpg.PostgresError):
            await _undo(session, handover)
            raise
        return seen.mark

    async def _audited(self, session: Session, work: _Work) -> tuple[str, ...] | None:
        """Audit a clean database, if it is this one's turn.

        Raises:
            Unprovable: it is not what its template is; or a fresh copy is needed, to compare with.
        """
        self._cleaned += 1
        if not self._audit_every or self._cleaned % self._audit_every:
            return None
        server, site, baseline, template = work.server, work.site, work.known.baseline, work.template
        expected = self._knowledge.digest(server, work.origin)
        if expected is None:
            raise Unprovable("a fresh copy is needed, for audits to compare with", cause=Cause.AUDIT)
        catalogs = await self._knowledge.catalogs(server, session, schema=site.schema is not None)
        extents = await catalogs.extents(session, site.names(baseline.numbers[0]), baseline.scope)
        digest = await read_digest(session, server.version, template.picture, schema=site.schema)
        found = [
            *differences(expected, digest),
            *differences_of_catalogs(work.expected_extents, extents),
        ]
        if found:
            raise Unprovable(f"an audit found that {found[0]}", cause=Cause.AUDIT, audit=found)
        return ()

    async def _judged(self, session: Session, work: _Work, seen: Inspection) -> frozenset[Qualified]:
        """See that everything but rows and sequences is what it was.

        Returns:
            the tables whose storage is another one, though they are defined as they were.

        Raises:
            Unprovable: something is defined in another way, or that cannot be told.
        """
        known = work.known
        lost = unreliable(known.baseline, known.mark, seen)
        if lost is not None:
            raise Unprovable(lost, cause=Cause.STATISTICS, objects=await self._defined_since(session, work))
        stored_anew = await self._defined_as_before(session, work, seen)
        written_outside = seen.mark.shared_writes != known.mark.shared_writes
        if written_outside and await changed_outside(session, work.site, known.baseline):
            raise Unprovable(
                "settings, privileges, comments or attributes of the database or its login changed",
                cause=Cause.SURROUNDINGS,
            )
        return stored_anew

    async def _defined_as_before(
        self, session: Session, work: _Work, seen: Inspection
    ) -> frozenset[Qualified]:
        """The same, of the catalogs."""
        site = work.site
        in_schema = site.schema is not None
        if not seen.elsewhere or not (in_schema or seen.catalogs):
            return frozenset()
        if seen.vacuuming and (in_schema or "pg_proc" in seen.catalogs):
            # The function that it runs may be one that is defined as before by now.
            reason = "autovacuum was at work, and functions were defined"
            raise Unprovable(reason, cause=Cause.CATALOGS, objects=await self._defined_since(session, work))
        catalogs = await self._knowledge.catalogs(work.server, session, schema=in_schema)
        unreadable = seen.catalogs.difference(catalogs.names)
        if unreadable:
            raise Unprovable(
                f"{', '.join(sorted(unreadable))} was written to, which {work.server.role} may not read",
                cause=Cause.CATALOGS,
            )
        names = [name for name in catalogs.names if in_schema or name in seen.catalogs]
        written = await compare(session, catalogs, site, work.known, work.expected_extents, names)
        if in_schema:
            await self._vacuum_shared_catalogs(session, site.database, catalogs, seen.mark)
        else:
            await self._vacuum_catalogs(session, site.database, seen)
        return await rewritten(session, site, work.known.mark) if "pg_class" in written else frozenset()

    async def _defined_since(self, session: Session, work: _Work) -> list[str]:
        """What its holder has defined, as far as it can be named: for the holder to read, where nothing is compared."""
        catalogs = await self._knowledge.catalogs(work.server, session, schema=work.site.schema is not None)
        known = work.known
        return await catalogs.described(session, known.mark.transaction, known.baseline.scope, catalogs.names)

    async def _vacuum_logins(self, session: Session, server: Server) -> None:
        """Bound what handing over logins leaves in the server's catalog of roles.

        A plain role may not vacuum it; what it does there is counted, and so autovacuum does.
        """
        if not server.is_superuser:
            return
        self._renamed[server.name] += 1
        if self._renamed[server.name] > _DEAD_ROWS:
            del self._renamed[server.name]
            await session.execute("VACUUM (SKIP_LOCKED) pg_authid")

    async def _vacuum_catalogs(self, session: Session, database: str, seen: Inspection) -> None:
        """Bound what temporary tables, for instance, leave in the catalogs."""
        self._dead_rows[database] += seen.dead_catalog_rows
        if self._dead_rows[database] > _DEAD_ROWS:
            del self._dead_rows[database]
            await session.execute(f"VACUUM {', '.join(seen.catalogs)}")

    async def _vacuum_shared_catalogs(
        self, session: Session, database: str, catalogs: Catalogs, mark: Mark
    ) -> None:
        """The same of a shared database, whose catalogs many write to."""
        writes = mark.writes
        if writes - self._vacuumed_at.setdefault(database, writes) > _SHARED_WRITES:
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


async def _shut_out(visit: AsyncExitStack, work: _Work) -> tuple[Session, Leftovers, Inspection]:
    """Enter the database, and shut everybody else out.

    A session that was kept may be gone, and nobody has noticed: the server was restarted, say. Then a new one is opened.
    Up to here everything can be done twice.
    """
    server, site = work.server, work.site
    question = InspectionQuery(site, work.relations, work.known.mark)
    while True:
        kept, session = server.sessions.keeps(site.database), None
        try:
            async with AsyncExitStack() as attempt:
                session = await attempt.enter_async_context(server.sessions.inside(site.database))
                attempt.enter_context(insisting(server, session))
                leftovers, seen = await shut_out(session, site, question, sees_all=server.is_superuser)
                if seen.elsewhere and site.schema is None:
                    seen = await with_catalogs(session, seen)
                await visit.enter_async_context(attempt.pop_all())
                return session, leftovers, seen
        except BackendUnavailable:
            if not (kept and session is not None and session.is_closed()):
                raise


async def _undo(session: Session, handover: LoginHandover) -> None:
    """Give a login its old name again and close it, so that the database can be made anew for its next one."""
    old, new = quoted(handover.old), quoted(handover.new)
    await session.execute(f"ALTER ROLE {new} RENAME TO {old}; ALTER ROLE {old} NOLOGIN")


@operation
async def _note(
    server: Server, knowledge: TemplateCache, login: Login, origin: CopySource
) -> KnownState | None:
    site = Site(login.database, login.schema, login.user)
    in_schema = login.schema is not None
    try:
        async with server.sessions.inside(login.database) as session:
            catalogs = await knowledge.catalogs(server, session, schema=in_schema)
            baseline, mark = await note(session, site, catalogs)
            await knowledge.learn(server, session, origin, site, baseline.numbers[0])
    except asyncpg.InsufficientPrivilegeError:
        return None  # something in it is not for our role to read: it will be rebuilt each time
    return KnownState(baseline, mark)
