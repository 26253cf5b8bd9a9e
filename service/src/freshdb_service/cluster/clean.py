"""The reset engine: a database that comes back is made clean where it was touched, proved clean, or rebuilt.

1. *Fence.* The login may not log in any more (committed), its backends are terminated and gone, also those that were only
   being started, and nothing is left prepared.
2. *Look* (``baseline``), in the same statement that finds nobody left. Counters say which tables and catalogs were written
   to; sequences are read.
3. *Judge.* Catalogs that were written to are compared with what they were (``catalogs``). Whatever cannot be proved to be
   as it was raises ``Unprovable``, and the database is rebuilt.
4. *Clean* (``cleaning``), in one transaction that gives the login its next name and password. What was seen is the next
   mark.

It takes a superuser: elsewhere every reset is a rebuild.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final

import asyncpg

from freshdb_service.cluster.audit import differences, differences_of_catalogs, read_digest
from freshdb_service.cluster.baseline import (
    Leftovers,
    Look,
    Mark,
    Question,
    Site,
    Unprovable,
    changed_outside,
    mark_now,
    note,
    unreliable,
)
from freshdb_service.cluster.catalogs import Catalogs, Change, Extent, written_since, xid
from freshdb_service.cluster.cleaning import Handover, carry_out, plan
from freshdb_service.cluster.connections import operation
from freshdb_service.cluster.fence import shut_out
from freshdb_service.cluster.identifiers import Kind, quoted
from freshdb_service.cluster.knowledge import Knowledge, TemplateKnowledge
from freshdb_service.cluster.picture import Qualified
from freshdb_service.cluster.reset import (
    Fenced,
    Known,
    Origin,
    ResetOutcome,
    UsedDatabase,
    fence_old,
    rebuild,
    untold,
)
from freshdb_service.cluster.roles import Login, new_password
from freshdb_service.errors import Conflict
from freshdb_service.lifecycle import Isolation

if TYPE_CHECKING:
    from freshdb_service.cluster.server import Server
    from freshdb_service.cluster.sessions import Session

_DEAD_ROWS: Final = 1_000
"""So many rows of a database's catalogs may be updated or deleted before they are vacuumed; and so many logins of a server
may be renamed. PostgreSQL itself does not notice: what these sessions do is not counted."""

_SHARED_WRITES: Final = 10_000
"""So many rows of a shared database's catalogs may be written, by all its schemas together, before they are vacuumed."""


class CleaningEngine:
    """Cleans where that is proved enough, and rebuilds everywhere else.

    Args:
        audit_every: one in so many cleaned databases is audited; 0 for none.
    """

    def __init__(self, *, audit_every: int = 0) -> None:
        self._knowledge = Knowledge()
        self._dead_rows: Counter[str] = Counter()
        self._renamed: Counter[str] = Counter()
        self._vacuumed_at: dict[str, int] = {}
        self._audit_every = audit_every
        self._cleaned = 0

    async def note(self, server: Server, login: Login, origin: Origin) -> Known | None:
        """See ``ResetEngine.note``."""
        if not server.is_superuser:
            return None
        try:
            return await _note(server, self._knowledge, login, origin)
        except Unprovable as unprovable:
            message = f"the database {login.database} cannot be handed out: {unprovable}"
            raise Conflict(message) from unprovable

    async def reset(
        self,
        server: Server,
        used: UsedDatabase,
        origin: Origin,
        generation: int,
        fenced: Fenced = untold,
    ) -> ResetOutcome:
        """See ``ResetEngine.reset``."""
        began = monotonic()
        try:
            site, before = _known(server, used)
            return await self._clean(server, site, used, before, origin, generation, began, fenced)
        except Unprovable as error:
            unprovable = error
        leftovers = unprovable.leftovers or await fence_old(server, used)
        fenced(leftovers)
        if used.site is not None and used.site.schema is None:
            await server.sessions.leave(used.site.database)
            self._dead_rows.pop(used.site.database, None)
        login = await rebuild(server, used, origin, generation)
        known = await self.note(server, login, origin)
        return ResetOutcome(
            login,
            "rebuild",
            str(unprovable),
            monotonic() - began,
            known,
            leftovers,
            None if unprovable.audit is None else tuple(unprovable.audit),
        )

    async def _clean(
        self,
        server: Server,
        site: Site,
        used: UsedDatabase,
        known: Known,
        origin: Origin,
        generation: int,
        began: float,
        fenced: Fenced,
    ) -> ResetOutcome:
        leftovers: Leftovers | None = None
        kind = Kind.DATABASE if used.isolation is Isolation.DATABASE else Kind.SCHEMA
        name = str(server.name_of(kind, used.database_id, generation))
        template = self._knowledge.of(server, origin)
        # Hashed on another core, while the server says what became of the database.
        hashing = asyncio.create_task(new_password(server))
        try:
            async with server.sessions.inside(site.database) as session:
                question = Question.about(server.version, site, template.picture, known.mark)
                leftovers, seen = await shut_out(session, site, question)
                rewritten = await self._judged(server, session, template, known, site, seen)
                fenced(leftovers)
                made = plan(template, seen, rewritten)
                password, verifier = await hashing
                await carry_out(
                    session,
                    made,
                    Handover(site.login, name, verifier),
                    schema=site.schema,
                    mark=known.mark,
                    template=template,
                )
                old_login, site = site.login, replace(site, login=name)
                mark = seen.mark
                try:
                    if made.writes:  # what is written since the mark is not the template's
                        mark = replace(mark, transaction=(await mark_now(session, site)).transaction)
                    await self._vacuum_logins(session, server)
                    audit = await self._audited(server, session, template, origin, known, site)
                except (Unprovable, asyncpg.PostgresError):
                    await _undo_handover(session, before=old_login, after=name)
                    raise
        except Unprovable as unprovable:
            found = unprovable.leftovers or leftovers
            if found is not None:
                found = replace(found, objects=unprovable.objects)
            raise Unprovable(str(unprovable), found, audit=unprovable.audit) from unprovable
        except asyncpg.PostgresError as error:
            raise Unprovable(f"cleaning failed: {error} ({error.sqlstate})", leftovers) from error
        finally:
            hashing.cancel()
        return ResetOutcome(
            login=Login(site.database, site.schema, name, password),
            path=made.path,
            reason=made.reason,
            seconds=monotonic() - began,
            known=Known(known.baseline, mark),
            leftovers=leftovers,
            audit=audit,
        )

    async def _audited(
        self,
        server: Server,
        session: Session,
        template: TemplateKnowledge,
        origin: Origin,
        known: Known,
        site: Site,
    ) -> tuple[str, ...] | None:
        """Audit a clean database, if it is this one's turn.

        Raises:
            Unprovable: it is not what its template is; or a fresh copy is needed, to compare with.
        """
        self._cleaned += 1
        if not self._audit_every or self._cleaned % self._audit_every:
            return None
        expected = self._knowledge.digest(server, origin)
        if expected is None:
            raise Unprovable("a fresh copy is needed, for audits to compare with")
        catalogs = await self._knowledge.catalogs(server, session, schema=site.schema is not None)
        scope, login_number = known.baseline.scope, known.baseline.numbers[0]
        extents = await catalogs.extents(session, site.names(login_number), scope)
        digest = await read_digest(session, server.version, template.picture, schema=site.schema)
        found = [
            *differences(expected, digest),
            *differences_of_catalogs(known.baseline.extents if scope else template.extents, extents),
        ]
        if found:
            raise Unprovable(f"an audit found that {found[0]}", audit=found)
        return ()

    async def _judged(
        self,
        server: Server,
        session: Session,
        template: TemplateKnowledge,
        known: Known,
        site: Site,
        seen: Look,
    ) -> frozenset[Qualified]:
        """See that everything but rows and sequences is what it was.

        Returns:
            the tables whose storage is another one, though they are defined as they were.

        Raises:
            Unprovable: something is defined in another way, or that cannot be told.
        """
        lost = unreliable(known.baseline, known.mark, seen)
        if lost is not None:
            raise Unprovable(lost)
        rewritten = await self._defined_as_before(server, session, template, known, site, seen)
        written_outside = seen.mark.shared_writes != known.mark.shared_writes
        if written_outside and await changed_outside(session, site, known.baseline):
            raise Unprovable(
                "settings, privileges, comments or attributes of the database or its login changed"
            )
        return rewritten

    async def _defined_as_before(
        self,
        server: Server,
        session: Session,
        template: TemplateKnowledge,
        known: Known,
        site: Site,
        seen: Look,
    ) -> frozenset[Qualified]:
        """The same, of the catalogs."""
        in_schema = site.schema is not None
        if in_schema and seen.mark.catalog_writes == known.mark.catalog_writes:
            return frozenset()
        if not in_schema and not seen.catalogs:
            return frozenset()
        catalogs = await self._knowledge.catalogs(server, session, schema=in_schema)
        expected = known.baseline.extents if in_schema else template.extents
        names = [name for name in catalogs.names if in_schema or name in seen.catalogs]
        written = await _compare(session, catalogs, expected, names, known, site)
        if in_schema:
            await self._vacuum_shared_catalogs(session, site.database, catalogs, seen.mark)
        else:
            await self._vacuum_catalogs(session, site.database, seen)
        return await _rewritten(session, site, known) if "pg_class" in written else frozenset()

    async def _vacuum_logins(self, session: Session, server: Server) -> None:
        """Bound what handing over logins leaves in the server's catalog of roles."""
        self._renamed[server.name] += 1
        if self._renamed[server.name] > _DEAD_ROWS:
            del self._renamed[server.name]
            await session.execute("VACUUM (SKIP_LOCKED) pg_authid")

    async def _vacuum_catalogs(self, session: Session, database: str, seen: Look) -> None:
        """Bound what temporary tables, for instance, leave in the catalogs."""
        self._dead_rows[database] += seen.dead_catalog_rows
        if self._dead_rows[database] > _DEAD_ROWS:
            del self._dead_rows[database]
            await session.execute(f"VACUUM {', '.join(seen.catalogs)}")

    async def _vacuum_shared_catalogs(
        self, session: Session, database: str, catalogs: Catalogs, mark: Mark
    ) -> None:
        """The same of a shared database, whose catalogs many write to."""
        writes = mark.catalog_writes or 0
        if writes - self._vacuumed_at.setdefault(database, writes) > _SHARED_WRITES:
            self._vacuumed_at[database] = writes
            await session.execute(f"VACUUM (SKIP_LOCKED) {', '.join(catalogs.names)}")


async def _undo_handover(session: Session, before: str, after: str) -> None:
    """Give a login its old name again and close it, so that the database can be made anew for its next one."""
    await session.execute(
        f"ALTER ROLE {quoted(after)} RENAME TO {quoted(before)}; ALTER ROLE {quoted(before)} NOLOGIN"
    )


def _known(server: Server, used: UsedDatabase) -> tuple[Site, Known]:
    if not server.is_superuser:
        raise Unprovable(f"{server.role} is no superuser on the server {server.name}")
    if used.site is None or used.known is None:
        raise Unprovable("nothing is known of what it was like")
    return used.site, used.known


@operation
async def _note(server: Server, knowledge: Knowledge, login: Login, origin: Origin) -> Known:
    site = Site(login.database, login.schema, login.user)
    in_schema = login.schema is not None
    async with server.sessions.inside(login.database) as session:
        catalogs = await knowledge.catalogs(server, session, schema=in_schema)
        baseline, mark = await note(session, site, catalogs)
        await knowledge.learn(server, session, origin, site, baseline.numbers[0])
    return Known(baseline, mark)


async def _compare(
    session: Session,
    catalogs: Catalogs,
    expected: Mapping[str, Extent],
    names: Iterable[str],
    known: Known,
    site: Site,
) -> set[str]:
    """Compare catalogs with what they were.

    Returns:
        those with rows that were written anew, and say the same as before.

    Raises:
        Unprovable: one differs.
    """
    scope, since = known.baseline.scope, known.mark.transaction
    changes = await catalogs.changes(session, since, scope, names)
    written, reason = _written(changes, expected)
    if reason is None:
        number = known.baseline.numbers[0]
        now = await catalogs.extents(session, site.names(number), scope, sorted(written))
        other = [name for name, extent in now.items() if extent.content != expected[name].content]
        reason = f"entries in {', '.join(other)} were changed" if other else None
    if reason is not None:
        raise Unprovable(reason, objects=await catalogs.described(session, since, scope, changes))
    return written


def _written(changes: Mapping[str, Change], expected: Mapping[str, Extent]) -> tuple[set[str], str | None]:
    """The catalogs with rows that were written anew; and why that is more than it may be, if it is."""
    written: set[str] = set()
    for name, change in changes.items():
        then = expected.get(name)
        if then is None or change.own != then.own or change.own_written:
            return written, f"PostgreSQL's own entries in {name} were changed"
        if change.rows != then.rows:
            return written, f"{name} had {then.rows} entries, and has {change.rows}"
        if change.written:
            written.add(name)
    return written, None


async def _rewritten(session: Session, site: Site, known: Known) -> frozenset[Qualified]:
    """Tables whose entry in ``pg_class`` was written since the mark: truncated, or stored anew."""
    rows = await session.fetch(
        f"""
        SELECT CASE WHEN $2::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND {written_since("$1", "c")} AND n.nspname !~ '^pg_'
          AND ($2::text IS NULL OR n.nspname = $2::text)
        """,
        xid(known.mark.transaction),
        site.schema,
    )
    return frozenset((str(row["schema"]), str(row["name"])) for row in rows)
