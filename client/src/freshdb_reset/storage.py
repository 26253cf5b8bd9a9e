"""The storage of tables, as far as a query or a plan of PostgreSQL's planner can show it.

The planner works with the size of a table's files, with numbers in ``pg_class``, and with statistics of the columns. A query
without ``ORDER BY`` returns rows in the order of their positions, and new rows go where there is space. So a database whose
rows equal the template's can still answer differently. This module reads what makes the difference.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from freshdb_reset.connection import Reader, Rights
from freshdb_reset.quoting import array, constant
from freshdb_reset.table_model import Qualified, full_name

Numbers = tuple[float, ...]
"""``relpages``, ``reltuples`` and ``relallvisible``, and from PostgreSQL 18 on ``relallfrozen``."""

NEVER_VACUUMED: Final = -1.0
"""``reltuples`` of a table that was never vacuumed or analysed. The planner takes it for ten blocks at least."""

_FROZEN_VERSION: Final = 18_00_00
FLAGS: Final = ("relhasindex", "relhasrules", "relhastriggers", "relhassubclass")
"""Hints in ``pg_class``. PostgreSQL sets them at once, and clears them later or never."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage of one table.

    Attributes:
        pages: size of its rows, in blocks of 8 KiB.
        total: size with indexes and values that are stored out of line, in blocks.
        indexes: number of its indexes.
        searches_exactly: false if an index answers by its own structure, as approximate searches of vectors do.
        numbers: numbers that the planner reads.
        flags: hints in ``pg_class``, in the order of ``FLAGS``.
        parts: ``relpages`` and ``reltuples`` of its indexes, by name, and of its TOAST table (with an empty name).
        statistics: hash over the statistics of its columns, or empty if there are none.
    """

    pages: int
    total: int
    indexes: int
    searches_exactly: bool
    numbers: Numbers
    flags: tuple[bool, ...]
    parts: Mapping[str, tuple[float, float]]
    statistics: str

    @property
    def spacious(self) -> int:
        """Size in blocks up to which an emptied table may stay as it is: one block for it, and one per index."""
        return self.total + 1 + self.indexes

    @property
    def bound(self) -> int:
        """Size in blocks up to which indexes may have grown: by one block each, or by a tenth."""
        return self.total + max(self.indexes, self.total // 10)

    @property
    def is_new(self) -> bool:
        """True if the numbers are those of a table that was just created or truncated."""
        return self.numbers[1] == NEVER_VACUUMED and not any((self.numbers[0], *self.numbers[2:]))

    def equals_in_files(self, other: Storage, *, shared: bool) -> bool:
        """Return whether the table's own file has the same size and visibility as another's.

        In a shared database (``shared``), sessions in other schemas delay the visibility, so it does not count. Nor does it
        if not all rows of the other one are visible.
        """
        lenient = shared or other.numbers[2] < other.pages
        return self.pages == other.pages and (lenient or self.numbers[2:] == other.numbers[2:])

    def equals_in_catalog(self, other: Storage, *, shared: bool) -> bool:
        """Return whether numbers and hints are the same, but for the visibility in a shared database."""
        compared = 2 if shared else len(self.numbers)
        return self.numbers[:compared] == other.numbers[:compared] and self.flags == other.flags


def number_columns(version: int) -> tuple[str, ...]:
    """Return the columns of ``pg_class`` that a server's planner reads."""
    columns = ("relpages", "reltuples", "relallvisible")
    return (*columns, "relallfrozen") if version >= _FROZEN_VERSION else columns


async def read_storage(
    connection: Reader, rights: Rights, *, schema: str | None, only: Collection[int] | None = None
) -> dict[Qualified, Storage]:
    """Read the storage of tables, materialized views and partitioned tables.

    Args:
        connection: connection to the database.
        rights: what the connection allows. Statistics are those of ``pg_statistic`` for a superuser, else of its views.
        schema: name of the schema, or ``None`` for the whole database.
        only: OIDs of the tables, or ``None`` for all.
    """
    query = (
        _STORAGE.replace("{numbers}", ", ".join(f"c.{name}" for name in number_columns(rights.version)))
        .replace("{flags}", ", ".join(f"c.{name}" for name in FLAGS))
        .replace("{statistics}", _STATISTICS if rights.superuser else _STATISTICS_SHOWN)
    )
    rows = await connection.fetch(query, schema, None if only is None else array(only))
    return {
        (row["schema"], row["name"]): Storage(
            pages=row["pages"],
            total=row["total"],
            indexes=row["indexes"],
            searches_exactly=row["searches_exactly"],
            numbers=tuple(map(float, row["numbers"].split())),
            flags=tuple(one == "t" for one in row["flags"].split()),
            parts={part: (pages, rows) for part, pages, rows in json.loads(row["parts"])},
            statistics=row["statistics"] or "",
        )
        for row in rows
    }


async def read_numbers_digest(connection: Reader, rights: Rights, *, schema: str | None) -> str:
    """Read a hash over the numbers and hints of all tables and indexes. It is cheap, however many tables there are."""
    columns = ", ".join(f"c.{name}" for name in (*number_columns(rights.version), *FLAGS))
    return str(await connection.fetchval(_NUMBERS.replace("{columns}", columns), schema))


async def read_positions(
    connection: Reader, names: Collection[Qualified], schema: str | None
) -> dict[Qualified, str]:
    """Read a hash over the positions of the rows of each table."""
    return {
        name: await connection.fetchval(
            f"SELECT md5(string_agg(ctid::text, ' ' ORDER BY ctid)) FROM ONLY {full_name(name, schema)}"
        )
        for name in names
    }


def numbers_script(version: int, wanted: Mapping[Qualified, Storage], schema: str | None) -> str:
    """Compose the statements with which a superuser sets numbers and hints of tables and their parts where they differ."""
    columns = [*number_columns(version), *FLAGS]
    values = ", ".join(
        f"({_number(name, schema)}, {', '.join(map(_literal, (*one.numbers, *one.flags)))})"
        for name, one in wanted.items()
    )
    mine, theirs = (", ".join(f"{alias}.{name}" for name in columns) for alias in ("c", "w"))
    settings = ", ".join(f"{name} = w.{name}" for name in columns)
    parts = [
        f"({_part(name, part, schema)}, {pages:.9g}, {rows:.9g})"
        for name, one in wanted.items()
        for part, (pages, rows) in one.parts.items()
    ]
    script = (
        f"UPDATE pg_class c SET {settings} FROM (VALUES {values}) w (number, {', '.join(columns)}) "
        f"WHERE c.oid = w.number AND ({mine}) IS DISTINCT FROM ({theirs})"
    )
    if parts:
        script += (
            "; UPDATE pg_class c SET relpages = w.pages, reltuples = w.rows "
            f"FROM (VALUES {', '.join(parts)}) w (number, pages, rows) "
            "WHERE c.oid = w.number AND (c.relpages, c.reltuples) IS DISTINCT FROM (w.pages, w.rows)"
        )
    return script


def clear_statistics_statements(names: Collection[Qualified], schema: str | None) -> list[str]:
    """Compose the statements with which a superuser deletes all statistics of tables and of their indexes."""
    given = f"ANY (ARRAY[{', '.join(_number(name, schema) for name in names)}])"
    indexes = f"SELECT indexrelid FROM pg_index WHERE indrelid = {given}"
    extended = f"SELECT oid FROM pg_statistic_ext WHERE stxrelid = {given}"
    return [
        f"DELETE FROM pg_statistic WHERE starelid = {given} OR starelid IN ({indexes})",
        f"DELETE FROM pg_statistic_ext_data WHERE stxoid IN ({extended})",
    ]


def _part(name: Qualified, part: str, schema: str | None) -> str:
    if part:
        return _number((name[0], part), schema)
    return f"(SELECT reltoastrelid FROM pg_class WHERE oid = {_number(name, schema)})"


def _number(name: Qualified, schema: str | None) -> str:
    return f"{constant(full_name(name, schema))}::regclass::oid"


def _literal(value: float | bool) -> str:  # noqa: FBT001 - a value of a statement
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}"


_NUMBERS: Final = """
SELECT md5(string_agg(concat_ws(' ', {columns}), ',' ORDER BY n.nspname, c.relname))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p', 'i') AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR n.nspname = $1::text)
"""

_STATISTICS: Final = """
(SELECT md5(string_agg(kept, E'\\n' ORDER BY kept)) FROM (
   SELECT i.name || regexp_replace(s::text, '^.\\d+', '') AS kept
   FROM (SELECT c.oid AS number, '' AS name
         UNION ALL SELECT x.indexrelid, o.relname FROM pg_index x JOIN pg_class o ON o.oid = x.indexrelid
         WHERE x.indrelid = c.oid) i JOIN pg_statistic s ON s.starelid = i.number
   UNION ALL
   SELECT e.stxname || regexp_replace(d::text, '^.\\d+', '')
   FROM pg_statistic_ext e JOIN pg_statistic_ext_data d ON d.stxoid = e.oid WHERE e.stxrelid = c.oid) one)
"""

_STATISTICS_SHOWN: Final = """
(SELECT md5(string_agg(kept, E'\\n' ORDER BY kept)) FROM (
   SELECT to_jsonb(s) - 'schemaname' #>> '{}' AS kept FROM pg_stats s
   WHERE s.schemaname = n.nspname
     AND s.tablename IN (SELECT c.relname
                         UNION ALL SELECT o.relname FROM pg_index x JOIN pg_class o ON o.oid = x.indexrelid
                         WHERE x.indrelid = c.oid)
   UNION ALL
   SELECT to_jsonb(e) - 'schemaname' - 'statistics_schemaname' - 'statistics_owner' #>> '{}' FROM pg_stats_ext e
   WHERE e.schemaname = n.nspname AND e.tablename = c.relname) one)
"""
"""The view of extended statistics has a row for each object, with or without data."""

_STORAGE: Final = """
SELECT CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name,
       CASE WHEN c.relkind = 'p' THEN 0
            ELSE (pg_relation_size(c.oid) / current_setting('block_size')::int)::int END AS pages,
       CASE WHEN c.relkind = 'p' THEN 0
            ELSE (pg_total_relation_size(c.oid) / current_setting('block_size')::int)::int END AS total,
       (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid)::int AS indexes,
       NOT EXISTS (SELECT FROM pg_index x JOIN pg_class o ON o.oid = x.indexrelid JOIN pg_am m ON m.oid = o.relam
                   WHERE x.indrelid = c.oid
                     AND m.amname NOT IN ('btree', 'hash', 'gin', 'gist', 'spgist', 'brin')) AS searches_exactly,
       concat_ws(' ', {numbers}) AS numbers, concat_ws(' ', {flags}) AS flags, {statistics} AS statistics,
       (SELECT coalesce(json_agg(json_build_array(o.part, o.relpages, o.reltuples) ORDER BY o.part), '[]')::text
        FROM (SELECT i.relname AS part, i.relpages, i.reltuples
              FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid
              UNION ALL SELECT '', t.relpages, t.reltuples FROM pg_class t WHERE t.oid = c.reltoastrelid) o) AS parts
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p') AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR n.nspname = $1::text) AND ($2::text IS NULL OR c.oid = ANY ($2::text::oid[]))
"""
