"""What a clean database is like: noted when it is made, and marked each time that it is clean again.

PostgreSQL counts, per table and per system catalog, the rows that were ever inserted, updated and deleted. A backend adds
what it did before it disappears from ``pg_stat_activity``, also when it was terminated, and whether its transaction was
committed or not. So once nobody is in a database any more, what was written to is what has another counter than it had
when it was clean (``look``); the service's own sessions do not count (``sessions``). Nothing is ever reset. Where catalogs
belong to several (those of a shared database to all its schemas; those of roles, databases and settings to the whole
server), one sum is remembered, and if that has grown, it says only that somebody defined something: then it is read what.

A ``Baseline`` is noted once, when a database has been made from its template. The fingerprint of the catalogs is the same
for all clones of a template, and is taken from one of them; schemas made from one differ in all numbers, and each has its
own. A ``Mark`` is set each time that it is clean: the transaction before which everything was as it should be, and which
set of statistics the counters belong to. Statistics are lost when a server crashes, and can be reset by a superuser; either
changes the mark's instants, and then nothing is known and the database is rebuilt.

Sequences have no such counters, but whoever changes one reads a block of it, and that is counted. Prepared transactions are
looked for by the fence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from freshdb_service.postgres.names import array
from freshdb_service.postgres.reset.catalog_fingerprint import STATISTICS, Catalogs, Extent
from freshdb_service.postgres.reset.table_model import Relations, read_relations
from freshdb_service.postgres.server.connections import Connection


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a holder left behind.

    Attributes:
        connections: that were still open.
        prepared_transactions: that nobody had committed or rolled back.
        advisory_locks: that those connections held.
        objects: some of those that were created, or defined in another way, as far as they can be named.
    """

    connections: int = 0
    prepared_transactions: int = 0
    advisory_locks: int = 0
    objects: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Those that there were."""
        found = {
            "connections": self.connections,
            "prepared_transactions": self.prepared_transactions,
            "advisory_locks": self.advisory_locks,
            "objects": self.objects,
        }
        return {name: left for name, left in found.items() if left}


class Cause(StrEnum):
    """The kinds of reasons to make a used database anew."""

    UNKNOWN = "unknown"
    """Nobody noted what it was like, or this process has not seen a fresh copy of the template yet."""
    LOGIN = "login"
    """Its login is gone."""
    SESSIONS = "sessions"
    """Somebody is in it, or on the way in, who cannot be thrown out."""
    PREPARED = "prepared"
    """Transactions were left prepared for a second phase."""
    STATISTICS = "statistics"
    """What PostgreSQL counts says nothing: the server crashed, or somebody reset its statistics."""
    CATALOGS = "catalogs"
    """Something is defined in another way than it was."""
    SURROUNDINGS = "surroundings"
    """Settings, privileges or comments of the database or its login are others than they were."""
    ROWS = "rows"
    """Rows of the template's were changed that cannot be put back as they were, or not cheaply."""
    AUDIT = "audit"
    """An audit found a difference, or needs a fresh copy to compare with."""
    FAILED = "failed"
    """Cleaning it failed."""
    ALWAYS = "always"
    """The engine always does."""


class Unprovable(Exception):
    """It cannot be proved that cleaning would be enough; the text is the reason, and the remedy is to rebuild.

    Attributes:
        cause: the kind of reason.
        leftovers: if it had come so far.
        objects: those that are defined in another way.
        audit: what an audit found.
    """

    def __init__(
        self,
        reason: str,
        leftovers: Leftovers | None = None,
        *,
        cause: Cause,
        objects: Sequence[str] = (),
        audit: Sequence[str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.leftovers = leftovers
        self.objects = tuple(objects)
        self.audit = audit


@dataclass(frozen=True, slots=True)
class Site:
    """A database, or a schema in a shared one, and its login."""

    database: str
    schema: str | None
    login: str

    def names(self, number: int) -> tuple[str, ...]:
        """What differs from one generation, or one database, to the next, though nothing was changed."""
        return (self.login, self.schema or self.login, str(number))


Counts: TypeAlias = tuple[int, int, int]
"""Rows ever inserted, updated, deleted; of a sequence, how often it was read, and twice nothing."""


@dataclass(frozen=True, slots=True)
class Mark:
    """When a database was last clean.

    Attributes:
        transaction: full id of the first transaction after.
        statistics_at: since when the server's statistics exist.
        reset_at: when a counter of this database was last reset.
        writes: rows ever written in the database; with isolation ``schema``, in the catalogs of the shared one.
        shared_writes: rows ever written in the catalogs that belong to the whole server.
        counters: of tables, sequences and, with isolation ``database``, catalogs, by number; where there is none, all are
            zero.
    """

    transaction: int
    statistics_at: str
    reset_at: str | None
    writes: int
    shared_writes: int
    counters: Mapping[int, Counts] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As JSON values. Written with every reset, and so by hand: ``asdict`` copies every counter."""
        return {
            "transaction": self.transaction,
            "statistics_at": self.statistics_at,
            "reset_at": self.reset_at,
            "writes": self.writes,
            "shared_writes": self.shared_writes,
            "counters": self.counters,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Mark:
        """Read what ``to_json`` gave.

        Raises:
            KeyError: a part is missing.
        """
        reset_at, counters = stored["reset_at"], stored.get("counters")
        return cls(
            transaction=int(str(stored["transaction"])),
            statistics_at=str(stored["statistics_at"]),
            reset_at=None if reset_at is None else str(reset_at),
            writes=int(str(stored["writes"])),
            shared_writes=int(str(stored["shared_writes"])),
            counters=_counters(counters) if isinstance(counters, dict) else {},
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a database was like when it was made.

    Attributes:
        site: its names then; the login's has changed since.
        numbers: of the login, the database and the schema (0 if there is none).
        surroundings: hash over what is stored about it outside of it.
        extents: fingerprint of the catalogs; isolation ``schema`` only.
        relations: what has counters; isolation ``schema`` only.
    """

    site: Site
    numbers: tuple[int, int, int]
    surroundings: str
    extents: Mapping[str, Extent]
    relations: Relations | None = None

    @property
    def scope(self) -> tuple[int, ...]:
        """What limits queries over catalogs: the schema and its login, or nothing."""
        login, _, schema = self.numbers
        return (schema, login) if self.site.schema is not None else ()

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        extents = {name: (one.own, one.rows, one.content) for name, one in self.extents.items()}
        return {
            "site": asdict(self.site),
            "numbers": self.numbers,
            "surroundings": self.surroundings,
            "extents": extents,
            "relations": None if self.relations is None else self.relations.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Baseline:
        """Read what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is not what this version wrote.
        """
        site, numbers, extents = stored["site"], stored["numbers"], stored["extents"]
        relations = stored["relations"]
        if not (isinstance(site, dict) and isinstance(numbers, list) and isinstance(extents, dict)):
            raise TypeError("not a baseline")
        login, database, schema = numbers
        return cls(
            Site(**site),
            (int(login), int(database), int(schema)),
            str(stored["surroundings"]),
            {name: Extent(own, rows, content) for name, (own, rows, content) in extents.items()},
            Relations.from_json(relations) if isinstance(relations, dict) else None,
        )


async def note(connection: Connection, site: Site, catalogs: Catalogs) -> tuple[Baseline, Mark]:
    """Note what a database is like that was just made from its template and is nobody's yet.

    Raises:
        Unprovable: it is not there.
    """
    row = await connection.fetchrow(_NOTE, site.login, site.schema)
    if row is None:
        raise Unprovable("its login is gone", cause=Cause.LOGIN)
    baseline = Baseline(site, (row["login"], row["database"], row["schema"] or 0), row["surroundings"], {})
    if site.schema is not None:
        extents = await catalogs.extents(connection, site.names(row["login"]), baseline.scope)
        relations = await read_relations(connection, schema=site.schema)
        baseline = replace(baseline, extents=extents, relations=relations)
    return baseline, await counted_now(connection, site, baseline.relations)


async def counted_now(connection: Connection, site: Site, relations: Relations | None) -> Mark:
    """What to remember of a database that is clean at this moment, and that nobody is in.

    ``relations`` is what a schema has counters of.

    Raises:
        Unprovable: its login is gone; somebody else has the database by now.
    """
    if relations is None:
        written, read = await connection.fetch(_WRITTEN), await connection.fetch(_READ_SEQUENCES)
    else:  # by number: a shared database has many more
        written = await connection.fetch(_WRITTEN_OF, array(relations.tables))
        read = await connection.fetch(_READ_SEQUENCES_OF, array(relations.sequences))
    counters: dict[int, Counts] = {
        one["oid"]: (one["inserted"], one["updated"], one["deleted"]) for one in written
    }
    for one in read:
        counters[one["oid"]] = (one["fetched"], 0, 0)
    return replace(await mark_now(connection, site), counters=counters)


async def mark_now(connection: Connection, site: Site) -> Mark:
    """``counted_now``, but for the counters.

    Raises:
        Unprovable: its login is gone; somebody else has the database by now.
    """
    what = MARK if site.schema is None else MARK_OF_SCHEMA
    row = await connection.fetchrow(f"WITH me AS ({ME}) SELECT {what} FROM me", site.login, site.schema)
    if row is None:
        raise Unprovable("its login is gone", cause=Cause.LOGIN)
    return Mark.from_json(dict(row))


async def changed_outside(connection: Connection, site: Site, baseline: Baseline) -> bool:
    """Whether what is stored about a database and its login outside of it is another than it was."""
    row = await connection.fetchrow(_NOTE, site.login, site.schema)
    return row is None or row["surroundings"] != baseline.surroundings


def _counters(stored: Mapping[str, Sequence[int]]) -> dict[int, Counts]:
    return {int(number): (one[0], one[1], one[2]) for number, one in stored.items()}


_STATISTICS: Final = "', '".join(sorted(STATISTICS))

ME: Final = """
SELECT r.login, d.oid AS database, to_regnamespace(quote_ident($2::text))::oid AS schema
FROM pg_database d, (SELECT to_regrole(quote_ident($1::text))::oid AS login) r
WHERE d.datname = current_database() AND r.login IS NOT NULL
"""
"""The numbers of a login ($1), of this database, and of a schema ($2) or null; no row if there is no such login."""

NUMBERS: Final = "me.login::bigint AS login, me.database::bigint AS database, me.schema::bigint AS schema"

_WRITES: Final = "pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)"

_IN_DATABASE: Final = " + ".join(
    f"pg_stat_get_db_tuples_{how}({{0}})" for how in ("inserted", "updated", "deleted")
)

_SHARED: Final = 0
"""What PostgreSQL counts for no database is the catalogs that belong to all."""

MARK: Final = f"""
       pg_snapshot_xmax(pg_current_snapshot())::text AS transaction,
       pg_stat_get_bgwriter_stat_reset_time()::text AS statistics_at,
       pg_stat_get_db_stat_reset_time(me.database)::text AS reset_at,
       {_IN_DATABASE.format("me.database")} AS writes,
       {_IN_DATABASE.format(_SHARED)} AS shared_writes
"""
"""What a ``Mark`` is made of, but for the counters; about ``me``."""

_CATALOGS: Final = (
    f"c.oid < 16384 AND c.relkind = 'r' AND NOT c.relisshared AND c.relname NOT IN ('{_STATISTICS}')"
)

_LOWEST: Final = "(SELECT * FROM pg_class WHERE oid < 16384 ORDER BY oid LIMIT 4000)"
"""PostgreSQL's own relations, of which there are about 420. The limit cuts off nothing: it has PostgreSQL find them by
index, where it would read all of a large ``pg_class``."""

MARK_OF_SCHEMA: Final = MARK.replace(
    _IN_DATABASE.format("me.database"), f"(SELECT sum({_WRITES}) FROM {_LOWEST} c WHERE {_CATALOGS})::bigint"
)

_COUNTERS: Final = """
SELECT c.oid, c.relname, pg_stat_get_tuples_inserted(c.oid) AS inserted, pg_stat_get_tuples_updated(c.oid) AS updated,
       pg_stat_get_tuples_deleted(c.oid) AS deleted
FROM pg_class c
"""

CATALOG_COUNTERS: Final = f"{_COUNTERS} WHERE {_CATALOGS} AND {_WRITES} > 0"

_NUMBERED: Final = "c.oid = ANY ($1::text::oid[])"

_WRITTEN: Final = f"""{_COUNTERS}
WHERE ({_CATALOGS} OR (c.oid >= 16384 AND c.relkind IN ('r', 'm'))) AND {_WRITES} > 0
"""
_WRITTEN_OF: Final = f"{_COUNTERS} WHERE {_NUMBERED} AND {_WRITES} > 0"

_READS: Final = "SELECT c.oid, pg_stat_get_blocks_fetched(c.oid) AS fetched FROM pg_class c"
_READ_SEQUENCES: Final = f"{_READS} WHERE c.relkind = 'S' AND pg_stat_get_blocks_fetched(c.oid) > 0"
_READ_SEQUENCES_OF: Final = f"{_READS} WHERE {_NUMBERED} AND pg_stat_get_blocks_fetched(c.oid) > 0"

_SURROUNDINGS: Final = """
       md5(concat_ws(E'\\n',
         ROW(r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls, r.rolconnlimit,
             r.rolvaliduntil, shobj_description(r.oid, 'pg_authid'))::text,
         (SELECT string_agg(ROW(s.setdatabase, s.setrole, CASE WHEN $2::text IS NULL
                                THEN replace(s.setconfig::text, $1::text, '\x01') ELSE s.setconfig::text END)::text, E'\\n'
                            ORDER BY s.setdatabase, s.setrole)
          FROM pg_db_role_setting s
          WHERE s.setrole = r.oid OR ($2::text IS NULL AND s.setdatabase = d.oid)),
         (SELECT string_agg(ROW(m.roleid, m.member, m.grantor, m.admin_option)::text, E'\\n'
                            ORDER BY m.roleid, m.member, m.grantor)
          FROM pg_auth_members m WHERE m.roleid = r.oid OR m.member = r.oid),
         (SELECT string_agg(ROW(p.dbid, p.classid, p.objid, p.objsubid, p.deptype)::text, E'\\n'
                            ORDER BY p.dbid, p.classid, p.objid, p.objsubid, p.deptype)
          FROM pg_shdepend p
          WHERE p.refclassid = 'pg_authid'::regclass AND p.refobjid = r.oid AND p.dbid <> d.oid),
         CASE WHEN $2::text IS NULL THEN
           ROW(d.datdba, d.encoding, d.datistemplate, d.datallowconn, d.datconnlimit, d.dattablespace, d.datcollate,
               d.datctype, replace(d.datacl::text, $1::text, '\x01'), shobj_description(d.oid, 'pg_database'))::text
         ELSE  -- what it owns, or was granted, in the shared database: as many things as its schema holds
           (SELECT count(*)::text FROM pg_shdepend p
            WHERE p.refclassid = 'pg_authid'::regclass AND p.refobjid = r.oid AND p.dbid = d.oid)
         END,
         (SELECT string_agg(ROW(l.classoid, l.provider, l.label)::text, E'\\n' ORDER BY l.classoid, l.provider)
          FROM pg_shseclabel l
          WHERE (l.objoid = r.oid AND l.classoid = 'pg_authid'::regclass)
             OR ($2::text IS NULL AND l.objoid = d.oid AND l.classoid = 'pg_database'::regclass))
       ))
"""

_NOTE: Final = f"""
SELECT r.oid::bigint AS login, d.oid::bigint AS database, n.oid::bigint AS schema, {_SURROUNDINGS} AS surroundings
FROM pg_database d JOIN pg_roles r ON r.rolname = $1::text LEFT JOIN pg_namespace n ON n.nspname = $2::text
WHERE d.datname = current_database()
"""
