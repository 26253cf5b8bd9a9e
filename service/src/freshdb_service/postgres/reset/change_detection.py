"""What became of a used database since it was last clean: one statement, which asks about as little as possible.

What the template holds is known by number, so nothing has to be searched for: of each table and sequence it is asked whether
its counter is another one than the mark remembers. Whatever else was written to (catalogs, tables that the template does
not have, values stored out of line) shows in a sum. PostgreSQL counts the rows written in a database as a whole, too, in the
same moment as those of its tables. As long as the template's tables account for all of them, nobody wrote anything else;
if not, a second statement asks which catalogs were written to. A counter never falls, but with its table (and then catalogs
were written to) or by a reset (which has a time of its own in the mark): so nothing can cancel out.

A shared database is written to by all its schemas together. Its sum is that of its catalogs, and says only that somebody
defined something.

A sequence that was read may have been moved, and is set to the template's state without being looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from freshdb_service.postgres.names import array
from freshdb_service.postgres.reset.baseline import (
    CATALOG_COUNTERS,
    MARK,
    MARK_OF_SCHEMA,
    NUMBERS,
    Baseline,
    Counts,
    Mark,
    Site,
)
from freshdb_service.postgres.reset.table_model import Qualified, Relations
from freshdb_service.postgres.server.connections import Connection

_NEVER: Final[Counts] = (0, 0, 0)

_HORIZON: Final = 2**31 - 2**20
"""So many transactions after the mark, ``age()`` cannot tell any longer what was written since."""


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """A table that was written to: how often, and how large it is now, in blocks of 8 KiB."""

    inserted: int
    updated: int
    deleted: int
    pages: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a used database shows.

    Attributes:
        mark: as it would be set now.
        numbers: of login, database and schema; ``None`` if there is no schema.
        tables: those of the template that were written to.
        sequences: those of the template that were read or moved.
        elsewhere: whether anything else was written to.
        catalogs: which catalogs were written to, once ``with_catalogs`` has looked; none in a shared database.
        dead_catalog_rows: how many of their rows were replaced or deleted.
        vacuuming: autovacuum was at work in it.
    """

    mark: Mark
    numbers: tuple[int, int, int | None]
    tables: Mapping[Qualified, WrittenTable]
    sequences: frozenset[Qualified]
    elsewhere: bool
    catalogs: frozenset[str] = frozenset()
    dead_catalog_rows: int = 0
    vacuuming: bool = False


@dataclass(frozen=True, slots=True)
class InspectionQuery:
    """What to ask a used database: a query for one row, of which ``answered`` makes a ``Inspection``.

    The query's parameters are the login ($1), the schema or null ($2), and ``values`` ($3 to $6).
    """

    site: Site
    relations: Relations
    mark: Mark

    @property
    def query(self) -> str:
        """The same for all databases of one isolation, so that a session prepares it once."""
        return _LOOK if self.site.schema is None else _LOOK_AT_SCHEMA

    @property
    def values(self) -> tuple[str, str, str, str]:
        """Numbers of tables, how many rows of each were ever written; numbers of sequences, how often each was read."""
        counted = self.mark.counters
        tables, sequences = self.relations.tables, self.relations.sequences
        return (
            array(tables),
            array(sum(counted.get(number, _NEVER)) for number in tables),
            array(sequences),
            array(counted.get(number, _NEVER)[0] for number in sequences),
        )

    def answered(self, row: Mapping[str, Any]) -> Inspection:
        """Read the answer; it holds if nobody was in the database as its login when it was given."""
        mark, counters = self.mark, dict(self.mark.counters)
        tables: dict[Qualified, WrittenTable] = {}
        accounted = 0
        for number, inserted, updated, deleted, pages in row["touched"]:
            then = counters.get(number, _NEVER)
            counters[number] = (inserted, updated, deleted)
            one = WrittenTable(inserted - then[0], updated - then[1], deleted - then[2], pages)
            tables[self.relations.tables[number]] = one
            accounted += one.inserted + one.updated + one.deleted
        for number, fetched in row["sequences"]:
            counters[number] = (fetched, 0, 0)
        now = replace(Mark.from_json(row), counters=counters)
        expected = mark.writes + (accounted if self.site.schema is None else 0)
        return Inspection(
            mark=now,
            numbers=(row["login"], row["database"], row["schema"]),
            tables=tables,
            sequences=frozenset(self.relations.sequences[number] for number, _ in row["sequences"]),
            elsewhere=now.writes != expected,
        )


async def with_catalogs(connection: Connection, seen: Inspection) -> Inspection:
    """A look that found something written elsewhere, and which catalogs of the database that was."""
    counters = dict(seen.mark.counters)
    written: set[str] = set()
    dead = 0
    for row in await connection.fetch(CATALOG_COUNTERS):
        now: Counts = (row["inserted"], row["updated"], row["deleted"])
        then = counters.get(row["oid"], _NEVER)
        if now != then:
            counters[row["oid"]] = now
            written.add(str(row["relname"]))
            dead += now[1] - then[1] + now[2] - then[2]
    return replace(
        seen,
        mark=replace(seen.mark, counters=counters),
        catalogs=frozenset(written),
        dead_catalog_rows=dead,
    )


def unreliable(baseline: Baseline, mark: Mark, seen: Inspection) -> str | None:
    """Why counters and numbers say nothing, if they do not."""
    if seen.numbers != (*baseline.numbers[:2], baseline.numbers[2] or None):
        return "its login, database or schema is another one"
    if seen.mark.statistics_at != mark.statistics_at or seen.mark.reset_at != mark.reset_at:
        return "the server lost its statistics (a crash, or a reset by a superuser)"
    if seen.mark.transaction - mark.transaction > _HORIZON:
        return "it was leased for more transactions than can be told apart"
    return None


_LOOK: Final = f"""
SELECT {NUMBERS}, {MARK},
       (SELECT coalesce(json_agg(json_build_array(
                 number, inserted, updated, deleted,
                 coalesce(pg_relation_size(number::oid) / current_setting('block_size')::int, 0))), '[]')
        FROM (SELECT oid::bigint AS number, writes, pg_stat_get_tuples_inserted(oid) AS inserted,
                     pg_stat_get_tuples_updated(oid) AS updated, pg_stat_get_tuples_deleted(oid) AS deleted
              FROM unnest($3::text::oid[], $4::text::bigint[]) AS known (oid, writes)
              OFFSET 0) one  -- or each counter is read once more
        WHERE inserted + updated + deleted <> writes) AS touched,
       (SELECT coalesce(json_agg(json_build_array(oid::bigint, pg_stat_get_blocks_fetched(oid))), '[]')
        FROM unnest($5::text::oid[], $6::text::bigint[]) AS known (oid, fetched)
        WHERE pg_stat_get_blocks_fetched(oid) <> fetched) AS sequences
FROM me
"""

_LOOK_AT_SCHEMA: Final = _LOOK.replace(MARK, MARK_OF_SCHEMA)
