"""Find what changed in a used database since it was last clean, in one statement that reads as little as possible.

The OIDs of the template's tables and sequences are known, so the statement does not search. It asks for each of them
whether its counter differs from the mark. All other writes (to catalogs, to tables that the template does not have, to
values that are stored out of line) show in a sum: PostgreSQL also counts the rows written in a database as a whole, at the
same moment as those of its tables. If the template's tables account for the whole sum, nothing else was written. Otherwise
a second statement asks which catalogs were written to.

A counter falls only when its table is dropped, which writes to catalogs, or by a reset, whose instant is part of the mark.
So two changes never cancel each other out.

All schemas of a shared database write to its catalogs. The sum of that database is the sum of its catalogs, and it says
only that some schema's definitions changed.

A sequence that was read may have been moved. It is set to the template's state without another query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from freshdb_reset.baseline import (
    CATALOG_COUNTERS,
    MAINTAINED,
    MARK,
    MARK_OF_SCHEMA,
    OID_COLUMNS,
    Baseline,
    Counts,
    Mark,
    Site,
)
from freshdb_reset.connection import Reader
from freshdb_reset.quoting import array
from freshdb_reset.table_model import Qualified, Relations

_NEVER: Final[Counts] = (0, 0, 0, 0)

_HORIZON: Final = 2**31 - 2**20
"""Number of transactions after the mark from which on ``age()`` cannot tell what was written since the mark."""


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """A table that was written to.

    Attributes:
        inserted: number of rows that were inserted.
        updated: number of rows that were updated.
        deleted: number of rows that were deleted.
        pages: size now, in blocks of 8 KiB.
        total: size now with indexes and values that are stored out of line, in blocks.
    """

    inserted: int
    updated: int
    deleted: int
    pages: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """Changes in a used database.

    Attributes:
        mark: mark that would be set now.
        numbers: OIDs of login, database and schema, or ``None`` if there is no schema.
        tables: tables of the template that were written to.
        sequences: sequences of the template that were read or moved.
        maintained: tables of the template that were vacuumed or analysed.
        elsewhere: true if anything else was written to.
        catalogs: catalogs that were written to, once ``inspect_catalogs`` has read them. Empty for a shared database.
        dead_catalog_rows: number of their rows that were replaced or deleted.
        vacuuming: true if autovacuum was at work in the database.
    """

    mark: Mark
    numbers: tuple[int, int, int | None]
    tables: Mapping[Qualified, WrittenTable]
    sequences: frozenset[Qualified]
    maintained: frozenset[Qualified]
    elsewhere: bool
    catalogs: frozenset[str] = frozenset()
    dead_catalog_rows: int = 0
    vacuuming: bool = False


@dataclass(frozen=True, slots=True)
class InspectionQuery:
    """The query that inspects a used database. It returns one row, which ``inspection`` converts.

    Its parameters are the login ($1), the schema or null ($2), and ``values`` ($3 to $7). It needs a table expression
    ``me`` with the row of ``OIDS``.
    """

    site: Site
    relations: Relations
    mark: Mark

    @property
    def query(self) -> str:
        """Text of the query. All databases of one isolation have the same, so that a session prepares it once."""
        return _INSPECT if self.site.schema is None else _INSPECT_SCHEMA

    @property
    def values(self) -> tuple[str, str, str, str, str]:
        """OIDs of tables, OIDs of sequences, and their counters at the time of the mark.

        The counters are the writes to each table, the times it was vacuumed or analysed, and the reads of each sequence.
        """
        tables, sequences = self.relations.tables, self.relations.sequences
        counted = [self.mark.counters.get(number, _NEVER) for number in tables]
        return (
            array(tables),
            array(sum(one[:3]) for one in counted),
            array(one[3] for one in counted),
            array(sequences),
            array(self.mark.counters.get(number, _NEVER)[0] for number in sequences),
        )

    def inspection(self, row: Mapping[str, Any]) -> Inspection:
        """Convert the row. The result is valid if no session of the login was in the database when it was read."""
        mark, counters = self.mark, dict(self.mark.counters)
        tables: dict[Qualified, WrittenTable] = {}
        maintained: set[Qualified] = set()
        accounted = 0
        for number, inserted, updated, deleted, times, pages, total in row["touched"]:
            then, name = counters.get(number, _NEVER), self.relations.tables[number]
            counters[number] = (inserted, updated, deleted, times)
            if times != then[3]:
                maintained.add(name)
            if then[:3] != (inserted, updated, deleted):
                one = WrittenTable(inserted - then[0], updated - then[1], deleted - then[2], pages, total)
                tables[name] = one
                accounted += one.inserted + one.updated + one.deleted
        for number, fetched in row["sequences"]:
            counters[number] = (fetched, 0, 0, 0)
        now = replace(Mark.from_json(row), counters=counters)
        expected = mark.writes + (accounted if self.site.schema is None else 0)
        return Inspection(
            mark=now,
            numbers=(row["login"], row["database"], row["schema"]),
            tables=tables,
            sequences=frozenset(self.relations.sequences[number] for number, _ in row["sequences"]),
            maintained=frozenset(maintained),
            elsewhere=now.writes != expected,
        )


async def inspect_catalogs(connection: Reader, inspection: Inspection) -> Inspection:
    """Add to an inspection which catalogs of the database were written to."""
    counters = dict(inspection.mark.counters)
    written: set[str] = set()
    dead = 0
    for row in await connection.fetch(CATALOG_COUNTERS):
        now: Counts = (row["inserted"], row["updated"], row["deleted"], 0)
        then = counters.get(row["oid"], _NEVER)
        if now != then:
            counters[row["oid"]] = now
            written.add(str(row["relname"]))
            dead += now[1] - then[1] + now[2] - then[2]
    return replace(
        inspection,
        mark=replace(inspection.mark, counters=counters),
        catalogs=frozenset(written),
        dead_catalog_rows=dead,
    )


def why_unreliable(baseline: Baseline, mark: Mark, inspection: Inspection) -> str | None:
    """Return the reason why the counters and OIDs of an inspection cannot be compared, or ``None`` if they can."""
    if inspection.numbers != (*baseline.numbers[:2], baseline.numbers[2] or None):
        return "its login, database or schema was replaced"
    if inspection.mark.statistics_at != mark.statistics_at or inspection.mark.reset_at != mark.reset_at:
        return "the server lost its statistics (a crash, or a reset by a superuser)"
    if inspection.mark.transaction - mark.transaction > _HORIZON:
        return "more transactions passed since it was clean than PostgreSQL can distinguish"
    return None


_INSPECT: Final = f"""
SELECT {OID_COLUMNS}, {MARK},
       (SELECT coalesce(json_agg(json_build_array(
                 number, inserted, updated, deleted, maintained,
                 coalesce(pg_relation_size(number::oid) / current_setting('block_size')::int, 0),
                 coalesce(pg_total_relation_size(number::oid) / current_setting('block_size')::int, 0))), '[]')
        FROM (SELECT oid::bigint AS number, writes, times, pg_stat_get_tuples_inserted(oid) AS inserted,
                     pg_stat_get_tuples_updated(oid) AS updated, pg_stat_get_tuples_deleted(oid) AS deleted,
                     {MAINTAINED.format("oid")} AS maintained
              FROM unnest($3::text::oid[], $4::text::bigint[], $5::text::bigint[]) AS known (oid, writes, times)
              OFFSET 0) one  -- without it, each counter is read once more
        WHERE inserted + updated + deleted <> writes OR maintained <> times) AS touched,
       (SELECT coalesce(json_agg(json_build_array(oid::bigint, pg_stat_get_blocks_fetched(oid))), '[]')
        FROM unnest($6::text::oid[], $7::text::bigint[]) AS known (oid, fetched)
        WHERE pg_stat_get_blocks_fetched(oid) <> fetched) AS sequences
FROM me
"""

_INSPECT_SCHEMA: Final = _INSPECT.replace(MARK, MARK_OF_SCHEMA)
