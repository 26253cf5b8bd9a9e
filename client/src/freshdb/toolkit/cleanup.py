"""One's own PostgreSQL database, made clean where it was touched.

::

    cleanup = Cleanup(engine)
    cleanup.note()                  # as it is now, it is clean
    ...
    cleanup.reset()                 # and so it is again
    cleanup.reset("order", "line")  # or these tables, with their sequences
    cleanup.check()                 # compares everything

This uses ``freshdb_reset``, as the service does: the same model of a template, the same plan in the same order, and the same
statements. But the service fences a database before it inspects it, and this module does not: connections stay open, and
PostgreSQL's counters lag behind what they did. So it queries the tables: an empty one for any row, and every other one for
the numbers of rows that are older and newer than the note. It reads every sequence. This takes a scan of each table with
rows, so exclude a large table that no test writes to.

Definitions are not put back. When a table, a column, an index, a sequence or a view is another than it was, ``reset`` says
so; ``check`` compares all of the catalogs.

Every call has a transaction of its own: all of it is done, or nothing. Each raises ``InTransaction`` if the connection has
one open already, and ``DatabaseInUse`` if another connection writes in one that it has not ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from freshdb.toolkit.asyncpg_adapter import AsyncpgAdapter, at_once
from freshdb.toolkit.engines import AsyncTarget, Awaiting, Blocking, Target, async_engine_of, engine_of
from freshdb.toolkit.errors import CircularTables, NotClean, NotNoted, UnknownTable
from freshdb.toolkit.moment import (
    NOBODY,
    ChangeQuery,
    Changes,
    Layout,
    Moment,
    Note,
    as_text,
    begin,
    concerning,
    read_layout,
    refuse,
    take_note,
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
    """What a reset found and did.

    Attributes:
        path: the dearest thing that was done: nothing, sequences, delete, truncate, reload.
        tables: that had been written to.
        sequences: that had been moved.
    """

    path: str
    tables: tuple[str, ...]
    sequences: tuple[str, ...]


class _Operations:
    """What can be done, on a connection with a transaction for it alone."""

    def __init__(self, exclude: Collection[str]) -> None:
        self._exclude = exclude
        self._noted: Note | None = None
        self._defined_at = 0
        self._loaded: dict[Qualified, int] = {}
        self._question: ChangeQuery | None = None

    def note(self, connection: Connection) -> None:
        """Remember what the database is like: from here on, that is clean."""
        self._take(*begin(connection))

    def note_if_changed(self, connection: Connection) -> None:
        """Do the same, unless rows, sequences and tables are what was noted last: quicker, where that is often so."""
        ask, moment = begin(connection, self._defined_at)
        if self._noted is not None and not self._redefined(ask, self._noted, moment):
            seen = self._asked(ask, self._noted)
            if not seen.tables and not seen.sequences:
                return
        self._take(ask, moment)

    def reset(self, connection: Connection, *tables: str) -> Cleaned:
        """Make these tables, and the sequences that fill their columns, what they were; without names, everything.

        Raises:
            NotNoted: nobody has said what that is.
            UnknownTable: there is no such table.
            NotATable: it is a view, or a partition.
            WouldCascade: others were written to that refer to these, or that these refer to.
            NotClean: something cannot be put back: a definition, or rows of a large table.
        """
        noted = self._clean()
        ask, moment = begin(connection, self._defined_at)
        if changed := self._redefined(ask, noted, moment):
            raise NotClean(
                [f"definitions were changed, which only a new database undoes: {', '.join(changed)}"]
            )
        seen = self._asked(ask, noted)
        if tables or self._exclude:
            seen = concerning(
                noted.layout, self._wanted(connection, noted.layout, tables), seen, all_sequences=not tables
            )
        plan = self._carried_out(ask, noted, seen)
        shown = noted.layout.shown
        return Cleaned(
            plan.path, tuple(map(shown, sorted(seen.tables))), tuple(map(shown, sorted(seen.sequences)))
        )

    def check(self, connection: Connection) -> None:
        """Compare everything with what was noted: every row, every sequence, every entry of the catalogs.

        Raises:
            NotClean: something differs; says what.
            NotNoted: nobody has said what it should be.
        """
        noted = self._clean()
        ask, _ = begin(connection)
        as_text(ask)
        now = at_once(read_digest(ask, noted.layout.version, noted.layout.model, schema=None))
        out = self._excluded(noted.layout)
        found = [*differences(_without(noted.digest, out), _without(now, out))]
        extents = at_once(noted.catalogs.extents(ask, NOBODY, ()))
        found += differences_of_catalogs(noted.extents, extents)
        if found:
            raise NotClean(found)

    def truncate(self, connection: Connection, *tables: str) -> None:
        """Truncate these tables together, or all; their own sequences start again. No other table loses anything.

        Raises:
            WouldCascade: others refer to these: name them, too.
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
        """Delete every row of these tables, or of all, in an order that foreign keys agree with; triggers fire.

        Raises:
            WouldCascade: others have rows that refer to these: name them, too.
            CircularTables: there is no such order.
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
        """Set these sequences, or all: identity's, serial's, those that a column's default names, and free ones.

        Args:
            connection: where.
            sequences: by name; without names, all.
            to: ``noted``: as they were; ``start``: as if nobody had used them; ``max``: so that the next value comes after
                all that are in the columns they fill (before, if they descend). One that fills no column keeps its own.

        Raises:
            UnknownTable: there is no such sequence.
            NotNoted: nobody has said how they were.
        """
        if to not in {"noted", "start", "max"}:
            raise ValueError(f"to={to!r}: wanted noted, start or max")
        noted = self._clean() if to == "noted" else None
        ask, _ = begin(connection)
        layout = read_layout(ask)
        known = {layout.shown(one.name): one for one in layout.counters}
        for name in sequences:
            if name not in known:
                raise UnknownTable(
                    f"there is no sequence {name!r}; there are {', '.join(known) or 'none at all'}"
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

    def _clean(self) -> Note:
        if self._noted is None:
            raise NotNoted("nobody has noted what clean is: call note() while the database is")
        return self._noted

    def _wanted(self, connection: Connection, layout: Layout, tables: Sequence[str]) -> list[str]:
        unknown = [name for name in tables if name not in layout.families]
        if unknown:
            TableMap.of_connection(connection).check(unknown)
            raise UnknownTable(f"{unknown[0]} belongs to an extension, or was made after the note")
        if tables:
            return list(dict.fromkeys(tables))
        return [name for name in layout.families if name not in self._exclude]

    def _excluded(self, layout: Layout) -> set[Qualified]:
        return set(layout.tables(name for name in self._exclude if name in layout.families))

    def _left_alone(self, layout: Layout) -> set[Qualified]:
        """Tables that are left out, and that no foreign key leads to or from: nobody needs to look at them."""
        alone = [one for one in self._exclude if one in layout.families]
        return set(
            layout.tables(one for one in alone if not layout.referring([one]) | layout.referred([one]))
        )

    def _take(self, ask: AsyncpgAdapter, moment: Moment) -> None:
        self._noted, self._question = take_note(ask, moment), None
        self._defined_at = moment.now
        self._loaded = {}

    def _asked(self, ask: AsyncpgAdapter, noted: Note) -> Changes:
        if self._question is None:
            self._question = noted.question(self._left_alone(noted.layout), self._loaded)
        return self._question.asked(ask)

    def _redefined(self, ask: AsyncpgAdapter, noted: Note, moment: Moment) -> list[str]:
        """What was defined anew, as far as that shows in tables, indexes, sequences and views."""
        if moment.relations == noted.moment.relations and not moment.redefined:
            return []
        now = at_once(noted.catalogs.extents(ask, NOBODY, ()))
        names = [name for name, extent in now.items() if extent != noted.extents.get(name)]
        if not names:
            self._defined_at = moment.now  # truncated, say: stored anew, and defined as before
        return at_once(noted.catalogs.described(ask, noted.moment.now, (), names)) or names

    def _carried_out(self, ask: AsyncpgAdapter, noted: Note, seen: Changes) -> Plan:
        """Plan, in an order that foreign keys agree with, or, where there is none, without them; and do it."""
        layout = noted.layout
        try:
            plan = make_plan(noted.profile(layout.model), seen, frozenset(), in_order=True)
        except Unprovable as unprovable:
            if layout.unchecked is None:
                raise NotClean([str(unprovable)]) from unprovable
            try:
                plan = make_plan(noted.profile(layout.unchecked), seen, frozenset())
            except Unprovable as still:
                raise NotClean([str(still)]) from still
            ask.execute("SET LOCAL session_replication_role = replica")
        for statement in _together(plan.deletions(None, noted.moment.now)):
            ask.execute(statement)
        if plan.load:
            as_text(ask)
            self._question = None
        for name in plan.load:
            _load(ask, name, noted)
            self._loaded = {**self._loaded, name: ask.column("SELECT pg_current_xact_id()::text::bigint")[0]}
        for statement in plan.sequence_settings(None):
            ask.execute(statement)
        return plan


class Cleanup:
    """Makes a database clean, blocking.

    Args:
        target: an ``Engine``, a ``Connection`` without a transaction, or a DSN.
        exclude: tables to be left as they are.

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
    """The same, awaited.

    Args:
        target: an ``AsyncEngine``, an ``AsyncConnection`` without a transaction, or a DSN.
        exclude: tables to be left as they are.

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


def _together(statements: list[str]) -> list[str]:
    """Several deletions as one statement: foreign keys are checked at its end, and to ask once takes less time."""
    if len(statements) < 2 or not all(one.startswith("DELETE ") for one in statements):  # noqa: PLR2004 - several
        return statements
    parts = ", ".join(f"d{number} AS ({one})" for number, one in enumerate(statements))
    return [f"WITH {parts} SELECT 1"]


def _has_rows(ask: AsyncpgAdapter, layout: Layout, family: str) -> bool:
    names = layout.families[family]
    found = " OR ".join(f"EXISTS (SELECT FROM ONLY {full_name(name, None)})" for name in names)
    return bool(ask.column(f"SELECT {found}")[0])


def _load(ask: AsyncpgAdapter, name: Qualified, noted: Note) -> None:
    """Put a table's rows back, each from its text."""
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
