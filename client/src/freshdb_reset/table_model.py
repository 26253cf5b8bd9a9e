"""The model of a template's tables: which tables it has, which of them have rows, its foreign keys and its sequences.

Tables and sequences are identified by their names, ``(schema, name)``. With isolation ``schema`` the schema is left empty,
because every lease has a schema of another name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, TypeAlias

from freshdb_reset.connection import Connection, Reader
from freshdb_reset.quoting import constant, quoted

Qualified: TypeAlias = tuple[str, str]
"""Schema and name."""

COUNTED_PAGES: Final = 512
"""Largest table, in blocks (4 MiB), whose rows are counted. A larger one has "many" rows."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key.

    Attributes:
        of: the table that has the foreign key. A partitioned table counts as a whole.
        to: the table that it refers to. A partitioned table counts as a whole.
        blocks: true if a row cannot be deleted as long as the foreign key refers to it.
        deferrable: true if the check can wait for the end of the transaction, provided that the key only blocks.
        unset: columns to set to null so that the key refers to no row. Empty if no such columns exist.
    """

    of: Qualified
    to: Qualified
    blocks: bool
    deferrable: bool
    unset: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """An ordinary table, a leaf of a partitioned table, or a materialized view.

    Attributes:
        rows: number of rows in the template, or ``None`` for many.
        pages: size in the template, in blocks of 8 KiB.
        materialized: true for a materialized view.
        family: the partitioned table that it is a partition of, or else the table itself.
        fires: events that fire triggers or rules in the session that cleans: insert, update, delete, truncate.
        runs_code: true if loading rows would run functions of the template's author.
        columns: columns that hold values of their own, which generated columns do not.
        referenced_by: tables with foreign keys to this table.
    """

    rows: int | None
    pages: int
    materialized: bool
    family: Qualified
    fires: frozenset[str]
    runs_code: bool
    columns: tuple[str, ...]
    referenced_by: frozenset[Qualified]


@dataclass(frozen=True, slots=True)
class TableModel:
    """Tables, states of sequences (``last_value``, ``is_called``) and foreign keys of a template."""

    tables: Mapping[Qualified, Table]
    sequences: Mapping[Qualified, tuple[int, bool]]
    references: tuple[Reference, ...] = field(default=(), repr=False)

    def closure(self, table: Qualified) -> set[Qualified]:
        """Return a table and all tables that refer to it, directly or not: a truncation must include them."""
        found: set[Qualified] = set()
        todo = {table}
        while todo:
            one = todo.pop()
            found.add(one)
            if one in self.tables:
                todo |= set(self.tables[one].referenced_by) - found
        return found


@dataclass(frozen=True, slots=True)
class Relations:
    """Relations of a database, or of one schema, that have counters, by OID. ``tables`` includes materialized views."""

    tables: Mapping[int, Qualified]
    sequences: Mapping[int, Qualified]

    def to_json(self) -> dict[str, object]:
        """Return JSON values."""
        return {"tables": self.tables, "sequences": self.sequences}

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, Sequence[str]]]) -> Relations:
        """Read the result of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: this version did not write it.
        """
        return cls(_by_number(stored["tables"]), _by_number(stored["sequences"]))


def _by_number(stored: Mapping[str, Sequence[str]]) -> dict[int, Qualified]:
    return {int(number): (schema, name) for number, (schema, name) in stored.items()}


async def read_relations(connection: Reader, *, schema: str | None) -> Relations:
    """Read the relations with counters of a database, or of one schema in it."""
    tables: dict[int, Qualified] = {}
    sequences: dict[int, Qualified] = {}
    for row in await connection.fetch(_RELATIONS, schema):
        kind = sequences if row["is_sequence"] else tables
        kind[row["number"]] = (row["schema"], row["name"])
    return Relations(tables, sequences)


async def read_table_model(
    connection: Reader, version: int, *, schema: str | None, as_replica: bool
) -> TableModel:
    """Read the tables, sequences and foreign keys of a database, or of one schema in it.

    Args:
        connection: connection to the database.
        version: version of the server (``server_version_num``).
        schema: name of the schema, or ``None`` for the whole database.
        as_replica: true if the cleaning session has ``session_replication_role = replica``, and so fires few triggers.
    """
    tables: dict[Qualified, Table] = {}
    for row in await connection.fetch(_TABLES, schema, ["A", "R" if as_replica else "O"], as_replica):
        name: Qualified = (row["schema"], row["name"])
        rows: int | None = 0
        if row["pages"]:
            rows = None
            if row["pages"] <= COUNTED_PAGES:
                rows = await connection.fetchval(f"SELECT count(*) FROM ONLY {full_name(name, schema)}")
        tables[name] = Table(
            rows=rows,
            pages=row["pages"],
            materialized=row["materialized"],
            family=(row["family_schema"], row["family"]),
            fires=frozenset(row["fires"]),
            runs_code=row["runs_code"],
            columns=tuple(row["columns"]),
            referenced_by=frozenset((one["schema"], one["name"]) for one in json.loads(row["referenced_by"])),
        )
    names = [(row["schema"], row["name"]) for row in await connection.fetch(_SEQUENCES, schema)]
    states = await connection.fetch(sequences_query(version, names, schema))
    references = [
        Reference(
            of=(row["of_schema"], row["of_table"]),
            to=(row["to_schema"], row["to_table"]),
            blocks=row["blocks"],
            deferrable=row["deferrable"],
            unset=tuple(row["unset"]),
        )
        for row in await connection.fetch(_REFERENCES, schema)
    ]
    return TableModel(tables, states_of(states), tuple(references))


def states_of(rows: Iterable[Any]) -> dict[Qualified, tuple[int, bool]]:
    """Return ``last_value`` and ``is_called`` of each sequence, from the rows of ``sequences_query``."""
    return {(row["schema"], row["name"]): (row["last_value"], row["is_called"]) for row in rows}


async def copy_out(
    connection: Connection, table: Qualified, columns: tuple[str, ...], schema: str | None
) -> bytes:
    """Read the rows of a table in the order of their positions, in the text format of ``COPY``."""
    rows = BytesIO()
    names = ", ".join(quoted(column) for column in columns)
    await connection.copy_from_query(
        f"SELECT {names} FROM ONLY {full_name(table, schema)} ORDER BY ctid",
        output=rows,
        format="text",
    )
    return rows.getvalue()


def full_name(name: Qualified, schema: str | None) -> str:
    """Quote a name for a statement. ``schema`` is used where the name has none."""
    return f"{quoted(name[0] or schema or '')}.{quoted(name[1])}"


def shown(name: Qualified) -> str:
    """Write a name for a message."""
    return ".".join(part for part in name if part)


def sequences_query(version: int, names: Collection[Qualified], schema: str | None) -> str:
    """Compose a query for ``schema``, ``name``, ``last_value`` and ``is_called`` of sequences.

    Args:
        version: version of the server (``server_version_num``).
        names: names of all sequences, for servers that cannot list their states.
        schema: schema of the sequences, or ``None`` for a whole database.
    """
    if version >= _SEQUENCE_FUNCTION_VERSION:
        where = "true" if schema is None else f"n.nspname = {constant(schema)}"
        said = "n.nspname" if schema is None else "''"
        return (
            f"SELECT {said} AS schema, c.relname AS name, d.last_value, d.is_called "
            "FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace, "
            f"LATERAL pg_get_sequence_data(s.seqrelid) d WHERE {where} AND c.relpersistence <> 't'"
        )
    queries = [
        f"SELECT {constant(name[0])} AS schema, {constant(name[1])} AS name, last_value, is_called "
        f"FROM {full_name(name, schema)}"
        for name in names
    ]
    nothing = "SELECT '' AS schema, '' AS name, 0::bigint AS last_value, false AS is_called WHERE false"
    return " UNION ALL ".join(queries) or nothing


_SEQUENCE_FUNCTION_VERSION: Final = 18_00_00

_RELATIONS: Final = """
SELECT c.oid::bigint AS number, CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name,
       c.relkind = 'S' AS is_sequence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'S') AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1::text))
ORDER BY c.oid
"""

_SEQUENCES: Final = """
SELECT CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND ($1::text IS NULL OR n.nspname = $1::text)
"""

_TABLES: Final = """
WITH code AS (  -- objects that depend on functions or operators of the template's author
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refobjid >= 16384 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
      -- The author may own an extension, and add functions to it. But then no superuser owns them.
      AND NOT (EXISTS (SELECT FROM pg_depend e
                       WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')
               AND EXISTS (SELECT FROM pg_roles r
                           WHERE r.rolsuper AND r.oid IN ((SELECT proowner FROM pg_proc WHERE oid = d.refobjid),
                                                          (SELECT oprowner FROM pg_operator WHERE oid = d.refobjid))))
), typed AS (  -- whether types depend on them, such as domains with checks
    SELECT EXISTS (
        SELECT FROM code WHERE classid IN ('pg_type'::regclass, 'pg_cast'::regclass)
           OR (classid = 'pg_constraint'::regclass
               AND objid IN (SELECT oid FROM pg_constraint WHERE contypid <> 0))) AS by_types,
      EXISTS (
        SELECT FROM code JOIN pg_class p ON p.oid = code.objid AND p.relkind = 'p'
        WHERE code.classid = 'pg_class'::regclass) AS by_partitioning
)
SELECT CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name,
       (pg_relation_size(c.oid) / current_setting('block_size')::int)::int AS pages,
       c.relkind = 'm' AS materialized,
       CASE WHEN $1::text IS NULL THEN (SELECT nspname FROM pg_namespace WHERE oid = family.relnamespace)
            ELSE '' END AS family_schema,
       family.relname AS family,
       ARRAY(SELECT event FROM (VALUES (4, '3', 'insert'), (8, '4', 'delete'), (16, '2', 'update'), (32, '', 'truncate'))
                                 AS e (bit, rule, event)
             WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled::text = ANY ($2::text[])
                             AND ($3::bool OR NOT t.tgisinternal) AND t.tgtype & e.bit <> 0)
                OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_enabled::text = ANY ($2::text[])
                             AND r.ev_type::text = e.rule)) AS fires,
       (typed.by_types AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                                   AND NOT a.attisdropped AND a.atttypid >= 16384))
         OR (typed.by_partitioning AND c.relispartition)
         OR EXISTS (SELECT FROM code WHERE
              (classid = 'pg_constraint'::regclass
               AND objid IN (SELECT oid FROM pg_constraint WHERE conrelid = c.oid))
              OR (classid = 'pg_attrdef'::regclass
                  AND objid IN (SELECT f.oid FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid
                                AND a.attnum = f.adnum WHERE f.adrelid = c.oid AND a.attgenerated <> ''))
              OR (classid = 'pg_class'::regclass
                  AND (objid = c.oid OR objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid)))) AS runs_code,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
             ORDER BY a.attnum) AS columns,
       (SELECT coalesce(json_agg(DISTINCT jsonb_build_object(
                          'schema', CASE WHEN $1::text IS NULL THEN m.nspname ELSE '' END, 'name', o.relname)), '[]')::text
        FROM pg_constraint k JOIN pg_class o ON o.oid = k.conrelid JOIN pg_namespace m ON m.oid = o.relnamespace
        WHERE k.contype = 'f' AND k.confrelid = c.oid) AS referenced_by
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_class family ON family.oid = coalesce(pg_partition_root(c.oid), c.oid), typed
WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR n.nspname = $1::text)
"""

_REFERENCES: Final = """
SELECT CASE WHEN $1::text IS NULL THEN f.nspname ELSE '' END AS of_schema, f.relname AS of_table,
       CASE WHEN $1::text IS NULL THEN t.nspname ELSE '' END AS to_schema, t.relname AS to_table,
       k.confdeltype IN ('a', 'r') AS blocks, k.condeferrable AND k.confdeltype <> 'r' AS deferrable,
       -- With MATCH FULL, all columns have to be null. Otherwise one is enough.
       CASE WHEN k.confmatchtype <> 'f' THEN nullable.columns[1:1]
            WHEN cardinality(nullable.columns) = cardinality(k.conkey) THEN nullable.columns
            ELSE '{}' END AS unset
FROM pg_constraint k
     CROSS JOIN LATERAL (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE c.oid = coalesce(pg_partition_root(k.conrelid), k.conrelid)) f
     CROSS JOIN LATERAL (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE c.oid = coalesce(pg_partition_root(k.confrelid), k.confrelid)) t
     CROSS JOIN LATERAL (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS columns FROM pg_attribute a
                         WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND NOT a.attnotnull
                           AND a.attgenerated = '') nullable
WHERE k.contype = 'f' AND k.conparentid = 0 AND ($1::text IS NULL OR f.nspname = $1::text)
ORDER BY 1, 2, 3, 4, k.conname
"""
