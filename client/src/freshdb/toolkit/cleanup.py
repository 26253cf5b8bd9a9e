"""Clean your own PostgreSQL database in place.

::

    cleanup = Cleanup(engine)
    cleanup.note()                  # the present state is the clean one
    ...
    cleanup.reset()                 # restore all of it
    cleanup.reset("order", "line")  # or these tables, with their sequences
    cleanup.check()                 # compare everything

This uses ``freshdb_reset``, as the service does: the same model of a template, the same plan in the same order, and the same
statements. But the service fences a database before it inspects it, and this module does not: connections stay open, and
PostgreSQL's counters lag behind what they did. So it queries the tables: an empty one for any row, and every other one for
the numbers of rows that are older and newer than the note. It reads every sequence. This takes a scan of each table with
rows, so exclude a large table that no test writes to.

Definitions are not restored. If a table, a column, an index, a sequence or a view was changed, ``reset`` raises
``NotClean``. ``check`` compares all catalogs.

Every call runs in its own transaction. It raises ``InTransaction`` if the connection has an open transaction, and
``DatabaseInUse`` if another connection has written in a transaction that is still open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb.toolkit.asyncpg_adapter import AsyncpgAdapter, run_coroutine
from freshdb.toolkit.engines import AsyncTarget, Awaiting, Blocking, Target, async_engine_of, engine_of
from freshdb.toolkit.errors import CircularTables, NotClean, NotNoted, UnknownTable
from freshdb.toolkit.moment import (
    NO_NAMES,
    ChangeQuery,
    Changes,
    Layout,
    Moment,
    Note,
    begin,
    read_layout,
    read_note,
    refuse,
    select_changes,
    set_formats,
)
from freshdb.toolkit.tables import TableMap
from freshdb_reset import (
    CircularReferences,
    Digest,
    Plan,
    Qualified,
    Unprovable,
    differences,
    differences_of_catalogs,
    full_name,
    make_plan,
    plan_emptying,
    quoted,
    read_digest,
)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Result of a reset.

    Attributes:
        path: most expensive step: nothing, sequences, delete, truncate, reload.
        tables: tables that had been written to.
        sequences: sequences that had been moved.
    """

    path: str
    tables: tuple[str, ...]
    sequences: tuple[str, ...]


class _Operations:
    """The operations, each on a connection with its own transaction."""

    def __init__(self, exclude: Collection[str]) -> None:
        self._exclude = exclude
        self._noted: Note | None = None
        self._defined_at = 0
        self._loaded: dict[Qualified, int] = {}
        self._query: ChangeQuery | None = None

    def note(self, connection: Connection) -> None:
        """Record the present state of the database as the clean one."""
        self._store(*begin(connection))

    def note_if_changed(self, connection: Connection) -> None:
        """Record the present state, unless nothing changed since the last note. This is faster if that is often so."""
        ask, moment = begin(connection, self._defined_at)
        if self._noted is not None and not self._redefined(ask, self._noted, moment):
            seen = self._changes(ask, self._noted)
            if not seen.tables and not seen.sequences:
                return
        self._store(ask, moment)

    def reset(self, connection: Connection, *tables: str) -> Cleaned:
        """Restore these tables, and the sequences that fill their columns. Without names, restore everything.

        Raises:
            NotNoted: there is no note.
            UnknownTable: there is no such table.
            NotATable: it is a view, or a partition.
            WouldCascade: other tables were written to that refer to these, or that these refer to.
            NotClean: a change cannot be undone: a definition, or rows of a large table.
        """
        noted = self._required_note()
        ask, moment = begin(connection, self._defined_at)
        if changed := self._redefined(ask, noted, moment):
            raise NotClean(
                [f"definitions were changed, which only a new database can undo: {', '.join(changed)}"]
            )
        seen = self._changes(ask, noted)
        if tables or self._exclude:
            seen = select_changes(
                noted.layout, self._wanted(connection, noted.layout, tables), seen, all_sequences=not tables
            )
        plan = self._carry_out(ask, noted, seen)
        shown = noted.layout.shown
        return Cleaned(
            plan.path, tuple(map(shown, sorted(seen.tables))), tuple(map(shown, sorted(seen.sequences)))
        )

    def check(self, connection: Connection) -> None:
        """Compare every row, every sequence and every entry of the catalogs with the note.

        Raises:
            NotClean: there are differences, which the error lists.
            NotNoted: there is no note.
        """
        noted = self._required_note()
        ask, _ = begin(connection)
        set_formats(ask)
        now = run_coroutine(
            read_digest(ask, noted.layout.version, noted.layout.model, schema=None, positions=False)
        )
        out = self._excluded(noted.layout)
        found = [*differences(_without(noted.digest, out), _without(now, out))]
        extents = run_coroutine(noted.catalogs.extents(ask, NO_NAMES, ()))
        found += differences_of_catalogs(noted.extents, extents)
        if found:
            raise NotClean(found)

    def truncate(self, connection: Connection, *tables: str) -> None:
        """Truncate these tables, or all, and restart their own sequences. No other table loses rows.

        Raises:
            WouldCascade: other tables refer to these: name them, too.
            UnknownTable: there is no such table.
            NotATable: it is a view, or a partition.
        """
        ask, _ = begin(connection)
        layout = read_layout(ask)
        wanted = self._wanted(connection, layout, tables)
        refuse(sorted(layout.referring(wanted)), "refer to")
        wholes = {(layout.model.tables[name].family, name) for name in layout.tables(wanted)}
        names = sorted(
            {f"{'ONLY ' if whole == name else ''}{full_name(whole, None)}" for whole, name in wholes}
        )
        if names:
            ask.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")

    def delete(self, connection: Connection, *tables: str) -> None:
        """Delete every row of these tables, or of all, in an order that satisfies foreign keys. Triggers fire.

        Raises:
            WouldCascade: other tables have rows that refer to these: name them, too.
            CircularTables: no order satisfies the foreign keys.
            UnknownTable: there is no such table.
            NotATable: it is a view, or a partition.
        """
        ask, _ = begin(connection)
        layout = read_layout(ask)
        wanted = self._wanted(connection, layout, tables)
        refuse(
            [one for one in sorted(layout.referring(wanted)) if _has_rows(ask, layout, one)],
            "have rows that refer to",
        )
        try:
            plan = plan_emptying(layout.model, sorted(layout.tables(wanted)))
        except CircularReferences as circle:
            raise CircularTables(f"{circle}: truncate them instead") from circle
        for statement in plan.deletions(None, 0):
            ask.execute(statement)

    def reset_sequences(
        self, connection: Connection, *sequences: str, to: Literal["noted", "start", "max"] = "max"
    ) -> None:
        """Set these sequences, or all: those of identity and serial columns and of other defaults, and free ones.

        Args:
            connection: connection to the database.
            sequences: names of the sequences. Without names, all are set.
            to: ``noted`` is the state at the note, and ``start`` the state of an unused sequence. With ``max``, the next
                value comes after all values of the columns that the sequence fills (before them, if it descends), and a
                sequence that fills no column keeps its state.

        Raises:
            UnknownTable: there is no such sequence.
            NotNoted: there is no note.
        """
        if to not in {"noted", "start", "max"}:
            raise ValueError(f"to={to!r}: use noted, start or max")
        noted = self._required_note() if to == "noted" else None
        ask, _ = begin(connection)
        layout = read_layout(ask)
        known = {layout.shown(one.name): one for one in layout.counters}
        for name in sequences:
            if name not in known:
                raise UnknownTable(
                    f"there is no sequence {name!r}: the database has {', '.join(known) or 'none'}"
                )
        chosen = [known[name] for name in sequences or known]
        if noted is not None:
            states = noted.layout.model.sequences
            plan = Plan(sequences=[(one.name, *states[one.name]) for one in chosen if one.name in states])
            statements = plan.sequence_settings(None)
        else:
            statements = [one.setting(to) for one in chosen if one.columns or to == "start"]
        for statement in statements:
            ask.execute(statement)

    # Details

    def _required_note(self) -> Note:
        if self._noted is None:
            raise NotNoted("there is no note of the clean database: call note() while it is clean")
        return self._noted

    def _wanted(self, connection: Connection, layout: Layout, tables: Sequence[str]) -> list[str]:
        unknown = [name for name in tables if name not in layout.families]
        if unknown:
            TableMap.of_connection(connection).check(unknown)
            raise UnknownTable(f"{unknown[0]} belongs to an extension, or was created after the note")
        if tables:
            return list(dict.fromkeys(tables))
        return [name for name in layout.families if name not in self._exclude]

    def _excluded(self, layout: Layout) -> set[Qualified]:
        return set(layout.tables(name for name in self._exclude if name in layout.families))

    def _unread(self, layout: Layout) -> set[Qualified]:
        """Return excluded tables without foreign keys to or from other tables: no query needs to read them."""
        alone = [one for one in self._exclude if one in layout.families]
        return set(
            layout.tables(one for one in alone if not layout.referring([one]) | layout.referred([one]))
        )

    def _store(self, ask: AsyncpgAdapter, moment: Moment) -> None:
        self._noted, self._query = read_note(ask, moment), None
        self._defined_at = moment.now
        self._loaded = {}

    def _changes(self, ask: AsyncpgAdapter, noted: Note) -> Changes:
        if self._query is None:
            self._query = noted.change_query(self._unread(noted.layout), self._loaded)
        return self._query.run(ask)

    def _redefined(self, ask: AsyncpgAdapter, noted: Note, moment: Moment) -> list[str]:
        """Describe changed definitions, as far as they show in tables, indexes, sequences and views."""
        if moment.relations == noted.moment.relations and not moment.redefined:
            return []
        now = run_coroutine(noted.catalogs.extents(ask, NO_NAMES, ()))
        names = [name for name, extent in now.items() if extent != noted.extents.get(name)]
        if not names:
            self._defined_at = (
                moment.now
            )  # for example truncated: the storage was replaced, the definition is the same
        return run_coroutine(noted.catalogs.described(ask, noted.moment.now, (), names)) or names

    def _carry_out(self, ask: AsyncpgAdapter, noted: Note, seen: Changes) -> Plan:
        """Carry out a plan whose order satisfies foreign keys, or, where there is none, one without checks."""
        layout = noted.layout
        try:
            plan = make_plan(noted.profile(layout.model), seen, in_order=True)
        except Unprovable as unprovable:
            if layout.unchecked is None:
                raise NotClean([str(unprovable)]) from unprovable
            try:
                plan = make_plan(noted.profile(layout.unchecked), seen)
            except Unprovable as still:
                raise NotClean([str(still)]) from still
            ask.execute("SET LOCAL session_replication_role = replica")
        for statement in _combined(plan.deletions(None, noted.moment.now)):
            ask.execute(statement)
        if plan.load:
            set_formats(ask)
            self._query = None
        for name in plan.load:
            _load(ask, name, noted)
            self._loaded = {**self._loaded, name: ask.column("SELECT pg_current_xact_id()::text::bigint")[0]}
        for statement in plan.sequence_settings(None):
            ask.execute(statement)
        return plan


class Cleanup:
    """Cleans a database, with blocking calls.

    Args:
        target: an ``Engine``, a ``Connection`` without a transaction, or a DSN.
        exclude: tables that are never changed.

    Raises:
        WrongTarget: the target is none of these.
    """

    def __init__(self, target: Target, *, exclude: Collection[str] = ("alembic_version",)) -> None:
        self.target: Target = target if isinstance(target, Connection) else engine_of(target)
        self.operations = _Operations(exclude)

    note = Blocking(_Operations.note)
    note_if_changed = Blocking(_Operations.note_if_changed)
    reset = Blocking(_Operations.reset)
    check = Blocking(_Operations.check)
    truncate = Blocking(_Operations.truncate)
    delete = Blocking(_Operations.delete)
    reset_sequences = Blocking(_Operations.reset_sequences)


class AsyncCleanup:
    """Cleans a database, with calls to be awaited.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` without a transaction, or a DSN.
        exclude: tables that are never changed.

    Raises:
        WrongTarget: the target is none of these.
    """

    def __init__(self, target: AsyncTarget, *, exclude: Collection[str] = ("alembic_version",)) -> None:
        self.target: AsyncTarget = target if isinstance(target, AsyncConnection) else async_engine_of(target)
        self.operations = _Operations(exclude)

    note = Awaiting(_Operations.note)
    note_if_changed = Awaiting(_Operations.note_if_changed)
    reset = Awaiting(_Operations.reset)
    check = Awaiting(_Operations.check)
    truncate = Awaiting(_Operations.truncate)
    delete = Awaiting(_Operations.delete)
    reset_sequences = Awaiting(_Operations.reset_sequences)


def _combined(statements: list[str]) -> list[str]:
    """Combine several deletions into one statement: foreign keys are checked at its end, and it takes one round trip."""
    if len(statements) < 2 or not all(one.startswith("DELETE ") for one in statements):  # noqa: PLR2004 - several
        return statements
    parts = ", ".join(f"d{number} AS ({one})" for number, one in enumerate(statements))
    return [f"WITH {parts} SELECT 1"]


def _has_rows(ask: AsyncpgAdapter, layout: Layout, family: str) -> bool:
    names = layout.families[family]
    found = " OR ".join(f"EXISTS (SELECT FROM ONLY {full_name(name, None)})" for name in names)
    return bool(ask.column(f"SELECT {found}")[0])


def _load(ask: AsyncpgAdapter, name: Qualified, noted: Note) -> None:
    """Load a table's rows, each from its text."""
    said, columns = full_name(name, None), noted.layout.model.tables[name].columns
    into, values = (", ".join(f"{row}{quoted(column)}" for column in columns) for row in ("", "(r)."))
    ask.execute(
        f"INSERT INTO {said} ({into}) OVERRIDING SYSTEM VALUE "
        f"SELECT {values} FROM (SELECT one::{said} AS r FROM unnest($1::text[]) AS given (one) OFFSET 0) rows",
        list(noted.rows[name]),
    )


def _without(digest: Digest, tables: Iterable[Qualified]) -> Digest:
    out = set(tables)
    return replace(digest, tables={name: one for name, one in digest.tables.items() if name not in out})
