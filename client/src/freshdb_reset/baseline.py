"""The baseline of a clean database, and the mark that is set each time that the database is clean again.

PostgreSQL counts, per table and per system catalog, the rows that were ever inserted, updated and deleted. A backend adds
its counts before it disappears from ``pg_stat_activity``, even when it is terminated, and whether its transactions were
committed or not. So once no client is in a database any more, exactly those tables were written to whose counters differ
from the mark (``change_detection``). Sessions with ``track_counts = off`` are not counted. freshdb never resets a counter.

Some catalogs belong to several databases or schemas: a shared database's to all its schemas, and those of roles, databases
and settings to the whole server. For these the mark holds one sum. If the sum has grown, the definitions are read.

A ``Baseline`` is read once, when a database has been created from its template. All clones of a template have the same
fingerprint of the catalogs, which is read from one of them (``TemplateProfile``). Schemas of one template differ in all
OIDs, and each has a fingerprint of its own.

A ``Mark`` is set each time that the database is clean. It holds the first transaction after that, and the instants since
which the statistics exist. A server that crashes loses its statistics, and a superuser can reset them. Either changes these
instants, and then the database is rebuilt.

Sequences have no such counters, but a session that changes a sequence reads a block of it, and reads are counted. Prepared
transactions are not part of a baseline: the service looks for them when it fences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, TypeAlias

from freshdb_reset.catalog_fingerprint import Catalogs, Extent
from freshdb_reset.connection import Connection
from freshdb_reset.quoting import array
from freshdb_reset.table_model import Relations, read_relations
from freshdb_reset.verdict import Cause, Unprovable


@dataclass(frozen=True, slots=True)
class Site:
    """Names of a database, of a schema if the database is shared, and of the login.

    Attributes:
        database: name of the database.
        schema: name of the schema, or ``None`` for isolation ``database``.
        login: name of the login.
    """

    database: str
    schema: str | None
    login: str

    def names(self, number: int) -> tuple[str, ...]:
        """Return texts in the catalogs that differ between generations and databases although no definition changed.

        Args:
            number: OID of the login.
        """
        return (self.login, self.schema or self.login, str(number))


Counts: TypeAlias = tuple[int, int, int, int]
"""Rows ever inserted, updated and deleted, and the number of times that the table was vacuumed or analysed.

For a sequence: the number of its reads, and zeros.
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """State of the statistics when a database was last clean.

    Attributes:
        transaction: full id of the first transaction after that moment.
        statistics_at: instant since which the server's statistics exist.
        reset_at: instant of the last reset of a counter of this database.
        writes: rows ever written in the database. For isolation ``schema``: in the catalogs of the shared database.
        shared_writes: rows ever written in the catalogs that the whole server shares.
        counters: counters by OID, of tables, sequences and, for isolation ``database``, catalogs. A relation that is
            missing has zeros.
    """

    transaction: int
    statistics_at: str
    reset_at: str | None
    writes: int
    shared_writes: int
    counters: Mapping[int, Counts] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return JSON values. This runs with every reset, and ``asdict`` would copy every counter."""
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
        """Read the result of ``to_json``.

        Raises:
            KeyError, ValueError: this version did not write it.
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
    """Definition of a database when it was created.

    Attributes:
        site: names at that time. The login has been renamed since.
        numbers: OIDs of the login, the database and the schema (0 if there is none).
        surroundings: hash over the definitions outside the database that belong to it and its login.
        extents: fingerprint of the catalogs, for isolation ``schema`` only.
        relations: relations that have counters, for isolation ``schema`` only.
    """

    site: Site
    numbers: tuple[int, int, int]
    surroundings: str
    extents: Mapping[str, Extent]
    relations: Relations | None = None

    @property
    def scope(self) -> tuple[int, ...]:
        """OIDs of the schema and its login, which limit queries over catalogs, or empty for a whole database."""
        login, _, schema = self.numbers
        return (schema, login) if self.site.schema is not None else ()

    def to_json(self) -> dict[str, object]:
        """Return JSON values."""
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
        """Read the result of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: this version did not write it.
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


@dataclass(frozen=True, slots=True)
class KnownState:
    """The baseline of a database, and the mark of the last time that it was clean."""

    baseline: Baseline = field(repr=False)
    mark: Mark


async def read_baseline(connection: Connection, site: Site, catalogs: Catalogs) -> KnownState:
    """Read the baseline and the first mark of a database that was just created and that no client has entered.

    Raises:
        Unprovable: its login does not exist.
    """
    row = await connection.fetchrow(_BASELINE, site.login, site.schema)
    if row is None:
        raise Unprovable("its login does not exist any more", cause=Cause.LOGIN)
    baseline = Baseline(site, (row["login"], row["database"], row["schema"] or 0), row["surroundings"], {})
    if site.schema is not None:
        extents = await catalogs.extents(connection, site.names(row["login"]), baseline.scope)
        relations = await read_relations(connection, schema=site.schema)
        baseline = replace(baseline, extents=extents, relations=relations)
    return KnownState(baseline, await read_mark(connection, site, baseline.relations))


async def read_mark(connection: Connection, site: Site, relations: Relations | None) -> Mark:
    """Read the mark of a database that is clean at this moment, and that no client is in.

    Args:
        connection: connection to the database.
        site: names of the database and its login.
        relations: relations of the schema that have counters, or ``None`` for a whole database.

    Raises:
        Unprovable: its login does not exist, so another worker has the database by now.
    """
    if relations is None:
        written, read = await connection.fetch(_WRITTEN), await connection.fetch(_READ_SEQUENCES)
    else:  # by OID, because a shared database has many more relations
        written = await connection.fetch(_WRITTEN_OF, array(relations.tables))
        read = await connection.fetch(_READ_SEQUENCES_OF, array(relations.sequences))
    counters: dict[int, Counts] = {
        one["oid"]: (one["inserted"], one["updated"], one["deleted"], one["maintained"]) for one in written
    }
    for one in read:
        counters[one["oid"]] = (one["fetched"], 0, 0, 0)
    return replace(await read_mark_without_counters(connection, site), counters=counters)


async def read_mark_without_counters(connection: Connection, site: Site) -> Mark:
    """Read the mark as ``read_mark`` does, without counters.

    Raises:
        Unprovable: its login does not exist, so another worker has the database by now.
    """
    what = MARK if site.schema is None else MARK_OF_SCHEMA
    row = await connection.fetchrow(f"WITH me AS ({OIDS}) SELECT {what} FROM me", site.login, site.schema)
    if row is None:
        raise Unprovable("its login does not exist any more", cause=Cause.LOGIN)
    return Mark.from_json(dict(row))


async def read_mark_with_counters_reset(connection: Connection, site: Site, numbers: Collection[int]) -> Mark:
    """Set the counters of these tables and sequences (OIDs) to zero, as in a fresh copy, and read the mark without counters.

    The counters of the tables' indexes and of their values that are stored out of line are set, too.

    This takes a superuser, and a database of its own: all schemas of a shared database would see the reset.

    Raises:
        Unprovable: its login does not exist, so another worker has the database by now.
    """
    row = await connection.fetchrow(
        f"WITH me AS ({OIDS}), done AS MATERIALIZED ("
        "SELECT count(pg_stat_reset_single_table_counters(number)) AS resets FROM ("
        "SELECT unnest($3::text::oid[]) AS number "
        "UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($3::text::oid[]) "
        "UNION ALL SELECT reltoastrelid FROM pg_class WHERE oid = ANY ($3::text::oid[]) AND reltoastrelid <> 0) one"
        f") SELECT {MARK} FROM me, done WHERE done.resets >= 0",
        site.login,
        site.schema,
        array(numbers),
    )
    if row is None:
        raise Unprovable("its login does not exist any more", cause=Cause.LOGIN)
    return Mark.from_json(dict(row))


async def surroundings_changed(connection: Connection, site: Site, baseline: Baseline) -> bool:
    """Return whether definitions outside the database that belong to it or its login changed."""
    row = await connection.fetchrow(_BASELINE, site.login, site.schema)
    return row is None or row["surroundings"] != baseline.surroundings


def _counters(stored: Mapping[str, Sequence[int]]) -> dict[int, Counts]:
    return {
        int(number): (inserted, updated, deleted, maintained)
        for number, (inserted, updated, deleted, maintained) in stored.items()
    }


OIDS: Final = """
SELECT r.login, d.oid AS database, to_regnamespace(quote_ident($2::text))::oid AS schema
FROM pg_database d, (SELECT to_regrole(quote_ident($1::text))::oid AS login) r
WHERE d.datname = current_database() AND r.login IS NOT NULL
"""
"""OIDs of a login ($1), of this database, and of a schema ($2) or null. No row if the login does not exist."""

OID_COLUMNS: Final = "me.login::bigint AS login, me.database::bigint AS database, me.schema::bigint AS schema"

_WRITES: Final = "pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)"

_IN_DATABASE: Final = " + ".join(
    f"pg_stat_get_db_tuples_{how}({{0}})" for how in ("inserted", "updated", "deleted")
)

_SHARED: Final = 0
"""PostgreSQL counts writes to the catalogs that all databases share for database 0."""

MARK: Final = f"""
       pg_snapshot_xmax(pg_current_snapshot())::text AS transaction,
       pg_stat_get_bgwriter_stat_reset_time()::text AS statistics_at,
       pg_stat_get_db_stat_reset_time(me.database)::text AS reset_at,
       {_IN_DATABASE.format("me.database")} AS writes,
       {_IN_DATABASE.format(_SHARED)} AS shared_writes
"""
"""Columns of a ``Mark``, without the counters, for the row ``me``."""

_CATALOGS: Final = "c.oid < 16384 AND c.relkind = 'r' AND NOT c.relisshared"

_LOWEST: Final = "(SELECT * FROM pg_class WHERE oid < 16384 ORDER BY oid LIMIT 4000)"
"""PostgreSQL's own relations, of which there are about 420. The limit cuts off nothing. It only makes PostgreSQL use the
index, where it would otherwise read all of a large ``pg_class``."""

MARK_OF_SCHEMA: Final = MARK.replace(
    _IN_DATABASE.format("me.database"), f"(SELECT sum({_WRITES}) FROM {_LOWEST} c WHERE {_CATALOGS})::bigint"
)

MAINTAINED: Final = " + ".join(
    f"pg_stat_get_{how}_count({{0}})" for how in ("vacuum", "autovacuum", "analyze", "autoanalyze")
)

_COUNTERS: Final = f"""
SELECT c.oid, c.relname, pg_stat_get_tuples_inserted(c.oid) AS inserted, pg_stat_get_tuples_updated(c.oid) AS updated,
       pg_stat_get_tuples_deleted(c.oid) AS deleted, {MAINTAINED.format("c.oid")} AS maintained
FROM pg_class c
"""

CATALOG_COUNTERS: Final = f"{_COUNTERS} WHERE {_CATALOGS} AND {_WRITES} > 0"

_TOUCHED: Final = f"{_WRITES} + {MAINTAINED.format('c.oid')}"

_NUMBERED: Final = "c.oid = ANY ($1::text::oid[])"

_WRITTEN: Final = f"""{_COUNTERS}
WHERE ({_CATALOGS} AND {_WRITES} > 0) OR (c.oid >= 16384 AND c.relkind IN ('r', 'm') AND {_TOUCHED} > 0)
"""
_WRITTEN_OF: Final = f"{_COUNTERS} WHERE {_NUMBERED} AND {_TOUCHED} > 0"

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
         ELSE  -- the number of objects in the shared database that it owns or has privileges on
           (SELECT count(*)::text FROM pg_shdepend p
            WHERE p.refclassid = 'pg_authid'::regclass AND p.refobjid = r.oid AND p.dbid = d.oid)
         END,
         (SELECT string_agg(ROW(l.classoid, l.provider, l.label)::text, E'\\n' ORDER BY l.classoid, l.provider)
          FROM pg_shseclabel l
          WHERE (l.objoid = r.oid AND l.classoid = 'pg_authid'::regclass)
             OR ($2::text IS NULL AND l.objoid = d.oid AND l.classoid = 'pg_database'::regclass))
       ))
"""

_BASELINE: Final = f"""
SELECT r.oid::bigint AS login, d.oid::bigint AS database, n.oid::bigint AS schema, {_SURROUNDINGS} AS surroundings
FROM pg_database d JOIN pg_roles r ON r.rolname = $1::text LEFT JOIN pg_namespace n ON n.nspname = $2::text
WHERE d.datname = current_database()
"""
