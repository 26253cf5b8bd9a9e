"""What a clean database is like, and what is different about a used one.

PostgreSQL counts, per table and per system catalog, the rows that were ever inserted, updated and deleted. A backend adds
what it did before it disappears from ``pg_stat_activity``, also when it was terminated, and whether its transaction was
committed or not. So once nobody is in a database any more, these counters say exactly what was written to. In a clean
database of freshdb's they are **zero**: whatever was cleaned has its counters reset, and the service's own sessions do not
count (``sessions``). In a shared database nothing is reset, and the counters of a schema's tables are remembered; the
catalogs' counters belong to all its schemas there, and a sum that has grown says only that somebody defined something.

A ``Baseline`` is noted once, when a database has been made from its template. The fingerprint of the catalogs is the same
for all clones of a template, and is taken from one of them; schemas made from one differ in all numbers, and each has its
own. A ``Mark`` is set each time that it is clean:
the transaction before which everything was as it should be, and which set of statistics the counters belong to. Statistics
are lost when a server crashes, and can be reset by a superuser; either changes the mark's instants, and then nothing is
known and the database is rebuilt.

Counters do not see everything. Sequences are read. What is stored about a database and its login outside of it (settings,
privileges, memberships, comments, attributes) is hashed. Prepared transactions are looked for by the fence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import asyncpg

from freshdb_service.cluster.catalogs import STATISTICS, Catalogs, Extent
from freshdb_service.cluster.connections import Connection
from freshdb_service.cluster.picture import Picture, Qualified, sequences_query

_HORIZON: Final = 2**31 - 2**20
"""So many transactions after the mark, ``age()`` cannot tell any longer what was written since."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a holder had not closed."""

    connections: int = 0
    prepared_transactions: int = 0
    advisory_locks: int = 0

    def to_json(self) -> dict[str, int]:
        """Those that there were."""
        return {name: number for name, number in asdict(self).items() if number}


class Unprovable(Exception):
    """It cannot be proved that cleaning would be enough; the text is the reason, and the remedy is to rebuild."""

    def __init__(self, reason: str, leftovers: Leftovers | None = None) -> None:
        super().__init__(reason)
        self.leftovers = leftovers or Leftovers()


@dataclass(frozen=True, slots=True)
class Site:
    """A database, or a schema in a shared one, and its login."""

    database: str
    schema: str | None
    login: str

    def names(self, number: int) -> tuple[str, ...]:
        """What differs from one generation, or one database, to the next, though nothing was changed."""
        return (self.login, self.schema or self.login, str(number))


@dataclass(frozen=True, slots=True)
class Mark:
    """When a database was last clean.

    Attributes:
        transaction: full id of the first transaction after.
        statistics_at: since when the server's statistics exist.
        reset_at: when a counter of this database was last reset.
        catalog_writes: sum of the catalogs' counters; isolation ``schema`` only.
        counters: of tables, by number: rows inserted, updated, deleted; where there is none, all are zero.
    """

    transaction: int
    statistics_at: str
    reset_at: str | None
    catalog_writes: int | None
    counters: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Mark:
        """Read what ``to_json`` gave.

        Raises:
            KeyError: a part is missing.
        """
        reset_at, writes, counters = stored["reset_at"], stored["catalog_writes"], stored.get("counters")
        return cls(
            transaction=int(str(stored["transaction"])),
            statistics_at=str(stored["statistics_at"]),
            reset_at=None if reset_at is None else str(reset_at),
            catalog_writes=None if writes is None else int(str(writes)),
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
    """

    site: Site
    numbers: tuple[int, int, int]
    surroundings: str
    extents: Mapping[str, Extent]

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
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Baseline:
        """Read what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is not what this version wrote.
        """
        site, numbers, extents = stored["site"], stored["numbers"], stored["extents"]
        if not (isinstance(site, dict) and isinstance(numbers, list) and isinstance(extents, dict)):
            raise TypeError("not a baseline")
        login, database, schema = numbers
        return cls(
            Site(**site),
            (int(login), int(database), int(schema)),
            str(stored["surroundings"]),
            {name: Extent(own, rows, content) for name, (own, rows, content) in extents.items()},
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """A table that was written to: how often, and how large it is now, in blocks of 8 KiB."""

    number: int
    inserted: int
    updated: int
    deleted: int
    pages: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a used database shows.

    Attributes:
        mark: as it would be set now.
        numbers: of login, database and schema; ``None`` where one is gone.
        surroundings: hash over what is stored about it outside of it.
        tables: what was written to, of the template's tables and of others.
        catalogs: which catalogs were written to, by number; in a shared database, all of them or none.
        dead_catalog_rows: how many rows of the catalogs were replaced or deleted.
        sequences: their state, as ``sequences_query`` gives it.
    """

    mark: Mark
    numbers: tuple[int | None, int, int | None]
    surroundings: str
    tables: Mapping[Qualified, Touched]
    catalogs: Mapping[str, int]
    dead_catalog_rows: int
    sequences: str


async def look(connection: Connection, version: int, site: Site, picture: Picture, mark: Mark) -> Look:
    """Read what became of a database since its mark; nobody may be in it as its login.

    Raises:
        Unprovable: something is missing that should be there.
    """
    sequences = sequences_query(version, list(picture.sequences), site.schema)
    query = _LOOK.replace("{sequences}", sequences)
    try:
        row = await connection.fetchrow(query, site.login, site.schema)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise Unprovable(f"a sequence is gone: {error}") from error
    if row is None:
        raise Unprovable("its login is gone")
    tables: dict[Qualified, Touched] = {}
    catalogs: dict[str, int] = {}
    counters: dict[int, tuple[int, int, int]] = {}
    dead = 0
    for number, schema, name, inserted, updated, deleted, pages in json.loads(row["touched"]):
        if schema is None:
            catalogs[name] = number
            dead += updated + deleted
        else:
            counters[number] = (inserted, updated, deleted)
            before = mark.counters.get(number, (0, 0, 0))
            since = [now - then for now, then in zip(counters[number], before, strict=True)]
            if any(since):
                tables[schema, name] = Touched(number, since[0], since[1], since[2], pages)
    return Look(
        mark=replace(_mark(row), counters=counters),
        numbers=(row["login"], row["database"], row["schema"]),
        surroundings=row["surroundings"],
        tables=tables,
        catalogs=catalogs,
        dead_catalog_rows=dead,
        sequences=row["sequences"],
    )


async def note(connection: Connection, site: Site, catalogs: Catalogs) -> tuple[Baseline, Mark]:
    """Note what a database is like that was just made from its template and is nobody's yet.

    Raises:
        Unprovable: it is not there.
    """
    row = await connection.fetchrow(_SURROUNDINGS, site.login, site.schema)
    if row is None:
        raise Unprovable("its login is gone")
    baseline = Baseline(site, (row["login"], row["database"], row["schema"] or 0), row["surroundings"], {})
    if site.schema is not None:
        extents = await catalogs.extents(connection, site.names(row["login"]), baseline.scope)
        baseline = replace(baseline, extents=extents)
    written = await connection.fetch(_WRITTEN, site.schema)
    if site.schema is None:
        return baseline, await set_mark(connection, site, [one["oid"] for one in written])
    counters = {one["oid"]: (one["inserted"], one["updated"], one["deleted"]) for one in written}
    return baseline, replace(await set_mark(connection, site, []), counters=counters)


async def set_mark(connection: Connection, site: Site, tables: Sequence[int]) -> Mark:
    """Reset the counters of these tables and catalogs, and say that everything is clean from here on.

    Nothing is reset unless there is a login of this name: a worker that was paused must not make others' writes look
    undone. Of a whole database one counter is reset at least, so that there is an instant by which lost statistics are
    noticed.

    Raises:
        Unprovable: there is no such login; somebody else has the database by now.
    """
    row = await connection.fetchrow(_SET_MARK, tables, site.schema, site.login)
    if row is None:
        raise Unprovable("its login is gone")
    return _mark(row)


def changed_outside(baseline: Baseline, mark: Mark, seen: Look) -> str | None:
    """Why counters and numbers say nothing; or what changed outside of the database itself."""
    if seen.numbers != (*baseline.numbers[:2], baseline.numbers[2] or None):
        return "its login, database or schema is another one"
    if seen.mark.statistics_at != mark.statistics_at or seen.mark.reset_at != mark.reset_at:
        return "the server lost its statistics (a crash, or a reset by a superuser)"
    if seen.mark.transaction - mark.transaction > _HORIZON:
        return "it was leased for more transactions than can be told apart"
    if seen.surroundings != baseline.surroundings:
        return "settings, privileges, comments or attributes of the database or its login changed"
    return None


def _counters(stored: Mapping[str, Sequence[int]]) -> dict[int, tuple[int, int, int]]:
    return {int(number): (one[0], one[1], one[2]) for number, one in stored.items()}


def _mark(row: asyncpg.Record) -> Mark:
    return Mark.from_json(dict(row))


_STATISTICS: Final = "', '".join(sorted(STATISTICS))

_MARK: Final = """
       pg_snapshot_xmax(pg_current_snapshot())::text AS transaction,
       pg_stat_get_bgwriter_stat_reset_time()::text AS statistics_at,
       pg_stat_get_db_stat_reset_time(d.oid)::text AS reset_at,
       CASE WHEN $2::text IS NOT NULL THEN (
         SELECT sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
                    + pg_stat_get_tuples_deleted(c.oid))
         FROM pg_class c
         WHERE c.oid < 16384 AND c.relkind = 'r' AND NOT c.relisshared AND c.relname NOT IN ('{statistics}')
       )::bigint END AS catalog_writes
""".replace("{statistics}", _STATISTICS)

_ABOUT: Final = """
       r.oid AS login, d.oid AS database, n.oid AS schema,
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
       )) AS surroundings
"""

_FROM: Final = """
FROM pg_database d JOIN pg_authid r ON r.rolname = $1::text LEFT JOIN pg_namespace n ON n.nspname = $2::text
WHERE d.datname = current_database()
"""

_SURROUNDINGS: Final = f"SELECT {_ABOUT} {_FROM}"

_COUNTED: Final = """
  SELECT c.oid, c.relname, c.relnamespace, pg_stat_get_tuples_inserted(c.oid) AS inserted,
         pg_stat_get_tuples_updated(c.oid) AS updated, pg_stat_get_tuples_deleted(c.oid) AS deleted
  FROM pg_class c
  WHERE c.relkind IN ('r', 'm') AND NOT c.relisshared
    AND CASE WHEN $2::text IS NULL THEN c.oid >= 16384 OR c.relname NOT IN ('{statistics}')
             ELSE c.relnamespace = to_regnamespace(quote_ident($2::text)) END
    AND pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) > 0
""".replace("{statistics}", _STATISTICS)

_WRITTEN: Final = _COUNTED.replace("$2", "$1")

_LOOK: Final = f"""
SELECT {_MARK}, {_ABOUT}, {{sequences}} AS sequences,
       (SELECT coalesce(json_agg(json_build_array(
                 c.oid::bigint,
                 CASE WHEN c.oid < 16384 THEN NULL WHEN $2::text IS NULL THEN s.nspname ELSE '' END,
                 c.relname, c.inserted, c.updated, c.deleted,
                 CASE WHEN c.oid < 16384 THEN 0
                      ELSE pg_relation_size(c.oid) / current_setting('block_size')::int END)), '[]')::text
        FROM ({_COUNTED}) c JOIN pg_namespace s ON s.oid = c.relnamespace) AS touched
{_FROM}
"""

_SET_MARK: Final = f"""
SELECT {_MARK}
FROM (SELECT count(pg_stat_reset_single_table_counters(t.number)) AS times
      FROM pg_authid r,
           unnest(CASE WHEN $2::text IS NULL AND cardinality($1::oid[]) = 0 THEN ARRAY['pg_class'::regclass::oid]
                       ELSE $1::oid[] END) AS t (number)
      WHERE r.rolname = $3::text) done
     JOIN pg_database d ON d.datname = current_database() AND done.times >= 0
     JOIN pg_authid r ON r.rolname = $3::text
"""
