"""What to do about what a holder left in a database: the plan, which is pure, and its execution.

=========================================  =========================================================================
what was found                             what is done
=========================================  =========================================================================
nothing                                    nothing
rows in a table that has none              delete them; truncate it if it has grown large and nothing seeded refers to it
rows added to a table that has some        delete those that were written since the mark
rows of a small table changed or deleted   delete all, and load the template's again
sequences read or moved                    set them to the template's state
dead rows pile up                          vacuum
anything else                              the database is rebuilt (``Unprovable``)
=========================================  =========================================================================

All of it happens in one transaction, that begins with giving the login its next name and password: its old name is what
shows that nobody else has the database by now, and its row stays locked until the end. A worker that was paused finds no
such login any more, and has changed nothing.

Where the server grants it, rows are deleted and loaded in sessions that fire no triggers and check no foreign keys: what is
put back is what was there, and was consistent. Elsewhere it is done in an order that every foreign key agrees with
(``ordering``), and a table that others refer to is loaded together with those. Tables whose triggers or rules would fire
even so are left to a rebuild when they were touched; loading is out of the question where it would run a function that the
template's author wrote, in a session of the service.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, Protocol

import asyncpg

from freshdb_service.postgres.names import constant, literal, quoted
from freshdb_service.postgres.reset.baseline import Cause, Mark, Unprovable
from freshdb_service.postgres.reset.catalog_fingerprint import written_since, xid
from freshdb_service.postgres.reset.change_detection import WrittenTable
from freshdb_service.postgres.reset.foreign_key_order import (
    CircularReferences,
    CleaningOrder,
    affected,
    order,
)
from freshdb_service.postgres.reset.table_model import Qualified, Table, full_name, shown
from freshdb_service.postgres.reset.template_cache import TemplateProfile
from freshdb_service.postgres.server.session_cache import Session

SPARE_PAGES: Final = 8
"""So many blocks (64 KiB) may a table grow beyond what it has in the template before it is vacuumed."""
TRUNCATED_PAGES: Final = 128
"""From this size (1 MiB) on it is cheaper to truncate a table that should be empty."""


@dataclass(slots=True)
class Plan:
    """What makes a database clean.

    Attributes:
        delete: tables to be emptied.
        delete_new: tables to lose what was written since the mark.
        reload: tables to be emptied and loaded from the template.
        truncate: tables to be truncated, together.
        vacuum: tables and catalogs to be vacuumed afterwards.
        sequences: to be set to the template's state.
        order: of what is done to tables, if it matters.
    """

    delete: list[Qualified] = field(default_factory=list)
    delete_new: list[Qualified] = field(default_factory=list)
    reload: list[Qualified] = field(default_factory=list)
    truncate: list[Qualified] = field(default_factory=list)
    vacuum: list[Qualified] = field(default_factory=list)
    sequences: list[tuple[Qualified, int, bool]] = field(default_factory=list)
    order: CleaningOrder | None = None

    @property
    def path(self) -> str:
        """The dearest thing that is done: how resets are told apart in metrics and events."""
        for name, work in (
            ("reload", self.reload),
            ("truncate", self.truncate),
            ("delete", [*self.delete, *self.delete_new]),
            ("sequences", self.sequences),
        ):
            if work:
                return name
        return "nothing"

    @property
    def writes(self) -> bool:
        """Whether rows, of tables or catalogs, are written, and not only removed."""
        return bool(self.reload or self.truncate)

    @property
    def reason(self) -> str:
        """In words."""
        tables = len(self.delete) + len(self.delete_new) + len(self.reload) + len(self.truncate)
        parts = [
            f"{number} {what}"
            for number, what in ((tables, "tables written to"), (len(self.sequences), "sequences used"))
            if number
        ]
        return ", ".join(parts) or "nothing was changed"


class Inspected(Protocol):
    """As much of a ``Look`` as decides what is done."""

    @property
    def tables(self) -> Mapping[Qualified, WrittenTable]:
        """Those that were written to."""

    @property
    def sequences(self) -> Collection[Qualified]:
        """Those that were read or moved."""


def plan(
    template: TemplateProfile, seen: Inspected, rewritten: frozenset[Qualified], *, in_order: bool = False
) -> Plan:
    """Choose the cheapest way that is sure.

    Args:
        template: what it was made from.
        seen: what became of the database.
        rewritten: tables whose storage is another one (truncated, or stored anew), whatever the counters say.
        in_order: whether foreign keys will be checked.

    Raises:
        Unprovable: nothing less than a rebuild is.
    """
    made, picture = Plan(), template.picture
    for name in sorted({*seen.tables, *rewritten}):
        table, touched = picture.tables.get(name), seen.tables.get(name)
        if table is None:
            raise Unprovable(f"the table {shown(name)} is not the template's", cause=Cause.CATALOGS)
        if table.rows == 0 and touched is None:
            continue  # truncated, and empty it should be
        _choose(made, template, name, table, touched, was_rewritten=name in rewritten)
        if touched is not None and touched.pages > table.pages + SPARE_PAGES and name not in made.truncate:
            made.vacuum.append(name)
    made.sequences = [(name, *picture.sequences[name]) for name in sorted(seen.sequences)]
    made.delete = [name for name in made.delete if name not in made.truncate]
    if in_order:
        _put_in_order(made, template)
    return made


def _put_in_order(made: Plan, template: TemplateProfile) -> None:
    picture = template.picture
    for name in sorted(affected(picture, made.reload)):
        if name in made.delete_new:
            made.delete_new.remove(name)
        _choose_reload(made, template, name, picture.tables[name])
    try:
        made.order = order(
            picture, empty=[*made.delete, *made.reload], thin=made.delete_new, load=made.reload
        )
    except CircularReferences as entangled:
        raise Unprovable(f"the tables {entangled}", cause=Cause.ROWS) from entangled
    made.truncate += [name for name in made.order.truncate if name not in made.truncate]


def _choose(
    made: Plan,
    template: TemplateProfile,
    name: Qualified,
    table: Table,
    touched: WrittenTable | None,
    *,
    was_rewritten: bool,
) -> None:
    """Enter one table into the plan."""
    if table.materialized:
        raise Unprovable(f"the materialized view {shown(name)} was refreshed", cause=Cause.ROWS)
    if table.rows == 0:
        together = template.picture.closure(name)
        large = touched is not None and touched.pages > TRUNCATED_PAGES
        if large and all(
            (one := template.picture.tables.get(each)) is not None
            and one.rows == 0
            and "truncate" not in one.fires
            for each in together
        ):
            made.truncate += sorted(together - set(made.truncate))
        else:
            _see_that_nothing_fires(name, table, "delete")
            made.delete.append(name)
    elif touched is not None and not was_rewritten and touched.updated == touched.deleted == 0:
        _see_that_nothing_fires(name, table, "delete")
        made.delete_new.append(name)
    else:
        _choose_reload(made, template, name, table)


def _choose_reload(made: Plan, template: TemplateProfile, name: Qualified, table: Table) -> None:
    if name not in template.seeds:
        raise Unprovable(
            f"rows of the table {shown(name)} were changed, and it is too large to be loaded again",
            cause=Cause.ROWS,
        )
    if table.runs_code:
        raise Unprovable(
            f"to load the table {shown(name)} would run functions of the template's", cause=Cause.ROWS
        )
    _see_that_nothing_fires(name, table, "delete", "insert")
    made.reload.append(name)


def _see_that_nothing_fires(name: Qualified, table: Table, *events: str) -> None:
    firing = [event for event in events if event in table.fires]
    if firing:
        raise Unprovable(
            f"the table {shown(name)} has triggers or rules that fire when we {firing[0]}", cause=Cause.ROWS
        )


@dataclass(frozen=True, slots=True)
class LoginHandover:
    """From which login to which, and the verifier of its password."""

    old: str
    new: str
    verifier: str


async def carry_out(
    session: Session,
    made: Plan,
    handover: LoginHandover,
    *,
    schema: str | None,
    mark: Mark,
    template: TemplateProfile,
    at_once: bool,
) -> None:
    """Make the database clean, and let the next login in, in one transaction. What is vacuumed, is vacuumed after it.

    ``at_once`` takes a superuser. Otherwise the login has only got its next name by the end, and waits for ``let_in``;
    and what this session wrote has been counted.

    Raises:
        Unprovable: there is no such login: somebody else has the database by now. Nothing was changed.
    """
    in_order = made.order or CleaningOrder(
        delete=[*made.delete, *made.reload, *made.delete_new], load=made.reload
    )
    script = "; ".join(
        [
            *_handing_over(handover, at_once=at_once),
            *removals(made, in_order, schema, mark.transaction),
            *settings_of(made, schema),
        ]
    )
    try:
        if made.reload:
            async with session.transaction():
                await session.execute(script)
                for name in in_order.load:
                    await session.copy_to_table(
                        name[1],
                        source=BytesIO(template.seeds[name]),
                        columns=template.picture.tables[name].columns,
                        schema_name=name[0] or schema,
                        format="text",
                    )
        else:
            await session.execute(script)  # one message is one transaction
    except (asyncpg.DivisionByZeroError, asyncpg.UndefinedObjectError) as error:
        raise Unprovable("its login is gone", cause=Cause.LOGIN) from error
    if made.vacuum:
        await session.execute(
            "VACUUM (INDEX_CLEANUP ON, TRUNCATE ON) "
            + ", ".join(full_name(name, schema) for name in made.vacuum)
        )


async def let_in(session: Session, handover: LoginHandover) -> None:
    """Let the next login in, as a plain role does."""
    await session.execute(f"ALTER ROLE {quoted(handover.new)} LOGIN PASSWORD {literal(handover.verifier)}")


def _handing_over(handover: LoginHandover, *, at_once: bool) -> list[str]:
    if at_once:
        # Not ``ALTER ROLE … PASSWORD``: it hashes the empty password, to see that this is not it, and takes 3 ms for that.
        # And one change of the row instead of two, because every backend of the server hears of each.
        row = (
            f"WITH handed AS (UPDATE pg_authid SET rolname = {literal(handover.new)}, rolcanlogin = true, "
            f"rolpassword = {literal(handover.verifier)} WHERE rolname = {literal(handover.old)} RETURNING 1) "
            "SELECT 1 / count(*) FROM handed"
        )
        return [row]
    return [
        f"ALTER ROLE {quoted(handover.old)} RENAME TO {quoted(handover.new)}",
        "SELECT pg_stat_force_next_flush()",
    ]


def removals(made: Plan, in_order: CleaningOrder, schema: str | None, since: int) -> list[str]:
    """The statements that remove rows; what was written since the transaction ``since`` is new."""
    statements: list[str] = []
    if in_order.deferred:
        statements.append("SET CONSTRAINTS ALL DEFERRED")
    if made.truncate:
        tables = ", ".join(f"ONLY {full_name(name, schema)}" for name in made.truncate)
        statements.append(f"TRUNCATE {tables}")
    new = written_since(f"'{xid(since)}'")
    for name, columns in in_order.unset:
        unset = ", ".join(f"{quoted(column)} = NULL" for column in columns)
        where = f" WHERE {new}" if name in made.delete_new else ""
        statements.append(f"UPDATE ONLY {full_name(name, schema)} SET {unset}{where}")
    for name in in_order.delete:
        where = f" WHERE {new}" if name in made.delete_new else ""
        statements.append(f"DELETE FROM ONLY {full_name(name, schema)}{where}")
    return statements


def settings_of(made: Plan, schema: str | None) -> list[str]:
    """The statement that sets sequences, if any is to be set."""
    calls = ", ".join(
        f"setval({constant(full_name(name, schema))}::regclass, {value:d}, {called})"
        for name, value, called in made.sequences
    )
    return [f"SELECT {calls}"] if calls else []
