"""The note of a clean database, for ``cleanup``, and the query that finds what changed since then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from freshdb.toolkit.asyncpg_adapter import AsyncpgAdapter, run_coroutine
from freshdb.toolkit.engines import check_can_roll_back
from freshdb.toolkit.errors import DatabaseInUse, InTransaction, WouldCascade, WrongTarget
from freshdb.toolkit.tables import adjacency, reachable
from freshdb_reset import (
    FORMATS,
    SEED_ROWS,
    Catalogs,
    Digest,
    Extent,
    Qualified,
    TableModel,
    TemplateProfile,
    WrittenTable,
    constant,
    full_name,
    quoted,
    read_digest,
    read_table_model,
    written_since,
    xid,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

NO_NAMES: Final = ("freshdb_no_name",)
"""Names to replace in the catalogs before hashing: the developer's own database has none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """State of a database that is cheap to read.

    Attributes:
        now: first transaction that has not begun.
        relations: number of tables, indexes, sequences and views.
        redefined: number of these whose row in ``pg_class`` was written since the note.
    """

    now: int
    relations: int
    redefined: int


@dataclass(frozen=True, slots=True)
class SequenceUse:
    """A sequence, and the columns that take their values from it."""

    name: Qualified
    start: int
    ascending: bool
    columns: tuple[tuple[Qualified, str], ...]

    def setting(self, to: str) -> str:
        """Compose the statement that sets the sequence to its start, or to the last of the columns' values."""
        said = f"{constant(full_name(self.name, None))}::regclass"
        if to == "start":
            return f"SELECT setval({said}, {self.start:d}, false)"
        furthest = "max" if self.ascending else "min"
        values = " UNION ALL ".join(
            f"SELECT {furthest}({quoted(column)})::bigint AS value FROM {full_name(table, None)}"
            for table, column in self.columns
        )
        return (
            f"SELECT setval({said}, coalesce(value, {self.start:d}), value IS NOT NULL) "
            f"FROM (SELECT {furthest}(value) AS value FROM ({values}) filled) one"
        )


@dataclass(frozen=True)
class Layout:
    """Tables and sequences of a database, and their names in messages.

    Attributes:
        version: version of the server (``server_version_num``).
        path: schemas whose tables are named without their schema.
        model: model of the tables, for sessions that fire triggers and check foreign keys.
        unchecked: model for sessions that do not, or ``None`` if the role may not have such sessions.
        counters: all sequences.
    """

    version: int
    path: Sequence[str]
    model: TableModel
    unchecked: TableModel | None
    counters: Sequence[SequenceUse]

    def shown(self, name: Qualified) -> str:
        """Return the name of a table or sequence in messages."""
        return name[1] if name[0] in self.path else ".".join(name)

    @cached_property
    def families(self) -> Mapping[str, list[Qualified]]:
        """The tables of each name. A partitioned table has its partitions."""
        found: dict[str, list[Qualified]] = {}
        for name, table in sorted(self.model.tables.items()):
            if not table.materialized:
                found.setdefault(self.shown(table.family), []).append(name)
        return found

    def families_of(self, tables: Iterable[Qualified]) -> set[str]:
        """Return the names of the whole tables that these tables or partitions belong to."""
        return {self.shown(self.model.tables[name].family) for name in tables}

    def tables(self, families: Iterable[str]) -> set[Qualified]:
        """Return the tables and partitions of these names."""
        return {name for family in families for name in self.families[family]}

    def referring(self, families: Collection[str]) -> set[str]:
        """Return other tables that refer to these, directly or not."""
        pairs = [(self.shown(one.to), self.shown(one.of)) for one in self.model.references]
        return reachable(families, adjacency(self.families, pairs)) - set(families)

    def referred(self, families: Collection[str]) -> set[str]:
        """Return other tables that these refer to, directly or not."""
        pairs = [(self.shown(one.of), self.shown(one.to)) for one in self.model.references]
        return reachable(families, adjacency(self.families, pairs)) - set(families)


@dataclass(frozen=True, slots=True)
class Note:
    """Definition and content of a clean database.

    Attributes:
        layout: tables and sequences.
        extents: fingerprint of the catalogs.
        counts: number of rows of each table.
        rows: rows of small tables, as PostgreSQL's text.
        digest: digest of the whole content.
        catalogs: queries over the catalogs.
        moment: moment of the note.
    """

    layout: Layout
    extents: Mapping[str, Extent] = field(repr=False)
    counts: Mapping[Qualified, int]
    rows: Mapping[Qualified, Sequence[str]] = field(repr=False)
    digest: Digest = field(repr=False)
    catalogs: Catalogs = field(repr=False)
    moment: Moment

    def profile(self, model: TableModel) -> TemplateProfile:
        """Return the template's profile that a plan is made from."""
        return TemplateProfile(model, None, dict.fromkeys(self.rows, b""), {})

    def change_query(self, left_out: Collection[Qualified], loaded: Mapping[Qualified, int]) -> ChangeQuery:
        """Compose the query that finds changed tables and sequences.

        Args:
            left_out: tables that the query does not read.
            loaded: transaction that has restored a table's rows, which count as old as the note.
        """
        tables = [name for name in self.counts if name not in left_out]
        sequences = list(self.layout.model.sequences)
        parts = [self._of_table(number, name, loaded.get(name)) for number, name in enumerate(tables)]
        for number, name in enumerate(sequences, len(tables)):
            value, called = self.layout.model.sequences[name]
            parts.append(
                f"SELECT {number}, 0, 0, 0 FROM {full_name(name, None)} "
                f"WHERE (last_value, is_called) IS DISTINCT FROM ({value:d}::bigint, {called})"
            )
        return ChangeQuery(" UNION ALL ".join(parts), tables, sequences, self.counts, frozenset(loaded))

    def _of_table(self, number: int, name: Qualified, loaded: int | None) -> str:
        said = full_name(name, None)
        pages = f"pg_relation_size({constant(said)}::regclass) / current_setting('block_size')::int"
        if self.counts[name] == 0:
            return f"SELECT {number}, 1, 0, {pages} WHERE EXISTS (SELECT FROM ONLY {said})"
        new = written_since(f"'{xid(self.moment.now)}'")
        if loaded is not None:
            new = f"({new} AND xmin <> '{xid(loaded)}'::xid)"
        return (
            f"SELECT {number}, new, old, {pages} FROM (SELECT count(*) FILTER (WHERE {new}) AS new, "
            f"count(*) FILTER (WHERE NOT {new}) AS old FROM ONLY {said}) one WHERE new > 0 OR old <> {self.counts[name]}"
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """The tables that were written to, and the sequences that were moved."""

    tables: Mapping[Qualified, WrittenTable]
    sequences: Collection[Qualified]


@dataclass(frozen=True, slots=True)
class ChangeQuery:
    """One statement that finds the changed tables and sequences.

    Attributes:
        query: text of the statement.
        tables: tables that it reads, by their numbers in its result.
        sequences: sequences that it reads. Their numbers follow those of the tables.
        counts: number of rows of each table at the note.
        loaded: tables whose rows were restored since the note.
    """

    query: str
    tables: Sequence[Qualified]
    sequences: Sequence[Qualified]
    counts: Mapping[Qualified, int]
    loaded: Collection[Qualified]

    def run(self, ask: AsyncpgAdapter) -> Changes:
        """Run the statement."""
        tables, sequences = dict[Qualified, WrittenTable](), set[Qualified]()
        for number, new, old, pages in ask.rows(self.query) if self.query else ():
            if number >= len(self.tables):
                sequences.add(self.sequences[number - len(self.tables)])
                continue
            name = self.tables[number]
            # Restored rows are newer than the note, so a deletion by age would include them.
            missing = self.counts[name] - old or int(name in self.loaded)
            tables[name] = WrittenTable(new, 0, missing, pages)
        return Changes(tables, sequences)


def select_changes(layout: Layout, wanted: Collection[str], seen: Changes, *, all_sequences: bool) -> Changes:
    """Select the changes of these tables and of the sequences that fill their columns, or of every sequence.

    Raises:
        WouldCascade: other changed tables refer to these, or are referred to by them.
    """
    chosen = layout.tables(wanted)
    mine = {name: one for name, one in seen.tables.items() if name in chosen}
    others = layout.families_of(seen.tables.keys() - mine.keys())
    if others:
        lost = [name for name, one in mine.items() if one.deleted]
        refuse(sorted(layout.referring(layout.families_of(mine)) & others), "were written to, and refer to")
        refuse(
            sorted(layout.referred(layout.families_of(lost)) & others),
            "were written to, and are referred to by",
        )
    if all_sequences:
        return Changes(mine, seen.sequences)
    filling = {
        one.name for one in layout.counters if any(layout.shown(table) in wanted for table, _ in one.columns)
    }
    return Changes(mine, filling & set(seen.sequences))


def refuse(tables: Sequence[str], why: str) -> None:
    """Refuse an operation because of these tables, if there are any.

    Raises:
        WouldCascade: there are such tables.
    """
    if tables:
        raise WouldCascade(f"{', '.join(tables)} {why} what was named: name them, too", tables)


def read_note(ask: AsyncpgAdapter, moment: Moment) -> Note:
    """Read the definition and content of the database, for later resets and checks."""
    set_formats(ask)
    layout = read_layout(ask)
    catalogs = run_coroutine(Catalogs.of(ask, schema=False))
    counts, rows = dict[Qualified, int](), dict[Qualified, Sequence[str]]()
    for name, table in layout.model.tables.items():
        said, many = full_name(name, None), table.rows is None
        counts[name] = ask.column(f"SELECT count(*) FROM ONLY {said}")[0] if many else table.rows or 0
        if 0 < counts[name] <= SEED_ROWS and not table.materialized:
            rows[name] = ask.column(f"SELECT t::text FROM ONLY {said} t")
    return Note(
        layout,
        run_coroutine(catalogs.extents(ask, NO_NAMES, ())),
        counts,
        rows,
        run_coroutine(read_digest(ask, layout.version, layout.model, schema=None, positions=False)),
        catalogs,
        moment,
    )


def read_layout(ask: AsyncpgAdapter) -> Layout:
    """Read the tables and sequences of a database."""
    server = ask.row(_SERVER)
    model = run_coroutine(read_table_model(ask, server.version, schema=None, as_replica=False))
    unchecked = None
    if server.may_be_replica:
        unchecked = run_coroutine(read_table_model(ask, server.version, schema=None, as_replica=True))
    counters: dict[Qualified, SequenceUse] = {}
    for row in ask.execute(_COUNTERS):
        name = (row.schema, row.name)
        columns = counters[name].columns if name in counters else ()
        if row.column is not None:
            columns += (((row.table_schema, row.table), row.column),)
        counters[name] = SequenceUse(name, row.start, row.ascending, columns)
    return Layout(server.version, server.path, model, unchecked, list(counters.values()))


def set_formats(ask: AsyncpgAdapter) -> None:
    """Set the formats of values, for the rest of the transaction, so that every connection reads the text the same way."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in FORMATS.items())
    ask.execute(f"SELECT {calls}")


def begin(connection: Connection, since: int | None = None) -> tuple[AsyncpgAdapter, Moment]:
    """Check that an operation may begin on this connection, and read the moment.

    Args:
        connection: connection to the database.
        since: transaction since which a definition counts as changed.

    Raises:
        InTransaction: the connection has an open transaction.
        WrongTarget: the connection does not use transactions, or the server is not PostgreSQL.
        DatabaseInUse: another connection has written in a transaction that is still open.
    """
    if connection.dialect.name != "postgresql":
        raise WrongTarget(f"cleanup is for PostgreSQL, not for {connection.dialect.name}")
    if connection.in_nested_transaction():
        raise InTransaction(
            "the connection has an open transaction: commit it or roll it back first, or pass the engine"
        )
    check_can_roll_back(connection)
    ask = AsyncpgAdapter(connection)
    written = "false" if since is None else written_since(f"'{xid(since)}'")
    now, relations, redefined, writers, _ = ask.row(_MOMENT.replace("{written}", written))
    if writers is not None:
        raise DatabaseInUse(
            f"{writers} writes to this database in a transaction that is still open: end it before cleaning"
        )
    return ask, Moment(now, relations, redefined)


_SERVER: Final = """
SELECT current_setting('server_version_num')::int AS version, current_schemas(false)::text[] AS path,
       has_parameter_privilege('session_replication_role', 'SET') AS may_be_replica
"""

_MOMENT: Final = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, relations, redefined,
       (SELECT string_agg(DISTINCT coalesce(
                 format('%s (process %s)', coalesce(nullif(application_name, ''), 'a connection'), l.pid),
                 'a prepared transaction'), ', ')
        FROM pg_locks l LEFT JOIN LATERAL pg_stat_get_activity(l.pid) a ON l.pid IS NOT NULL
        WHERE l.locktype = 'relation' AND l.relation >= 16384 AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
          AND (l.pid IS NULL OR a.usesysid IS NOT NULL)),
       set_config('row_security', 'off', true)
FROM (SELECT count(*) AS relations, count(*) FILTER (WHERE {written}) AS redefined FROM pg_class
      WHERE oid >= 16384 AND relpersistence <> 't' AND relkind <> 't') c
"""
"""Autovacuum's process has no user. From here on, a query whose rows are filtered by row security fails."""

_COUNTERS: Final = """
SELECT n.nspname AS schema, c.relname AS name, s.seqstart AS start, s.seqincrement > 0 AS ascending,
       m.nspname AS table_schema, t.relname AS table, a.attname AS column
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN LATERAL (
       SELECT d.refobjid AS relation, d.refobjsubid AS number FROM pg_depend d
       WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
         AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
       UNION
       SELECT f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
       WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
     ) used ON true
     LEFT JOIN (pg_class t JOIN pg_namespace m ON m.oid = t.relnamespace) ON t.oid = used.relation AND NOT t.relispartition
     LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = used.number
WHERE c.relpersistence <> 't'
ORDER BY 1, 2, 5, 6
"""
