"""The plan that makes a database clean. It is computed from an inspection, without a connection.

=========================================  =========================================================================
found                                      done
=========================================  =========================================================================
nothing                                    nothing
rows in a table that is empty in the       delete them. If the table has grown large and no table with rows refers to
template                                   it: truncate it
rows added to a table that has rows        delete those that were written since the mark
rows of a small table changed or deleted   delete all rows, and load the template's again
sequences read or moved                    set them to the template's state
dead rows                                  vacuum
anything else                              rebuild the database (``Unprovable``)
=========================================  =========================================================================

Where the server allows it, rows are deleted and loaded in sessions that fire no triggers and check no foreign keys. This is
safe, because the rows that are restored were consistent. Elsewhere the order satisfies every foreign key
(``foreign_key_order``), and a table is loaded together with the tables that refer to it.

A changed table whose triggers or rules would fire even so is left to a rebuild. So is a table whose rows cannot be loaded
without running a function of the template's author, because that function would run in a session of the service.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from freshdb_reset.catalog_fingerprint import written_since, xid
from freshdb_reset.change_detection import WrittenTable
from freshdb_reset.clean_state import TemplateProfile
from freshdb_reset.foreign_key_order import CircularReferences, CleaningOrder, affected, find_order
from freshdb_reset.quoting import constant, quoted
from freshdb_reset.table_model import Qualified, Table, TableModel, full_name, shown
from freshdb_reset.verdict import Cause, Unprovable

SPARE_PAGES: Final = 8
"""Number of blocks (64 KiB) that a table may have more than in the template before it is vacuumed."""
TRUNCATED_PAGES: Final = 128
"""Size in blocks (1 MiB) above which a table that should be empty is truncated, because that is cheaper."""


@dataclass(slots=True)
class Plan:
    """The steps that make a database clean.

    Attributes:
        delete: tables to empty.
        delete_new: tables to lose the rows that were written since the mark.
        reload: tables to empty, and to load from the template.
        truncate: tables to truncate in one statement.
        vacuum: tables to vacuum afterwards.
        sequences: sequences to set, with ``last_value`` and ``is_called``.
        order: order of the steps, or ``None`` if it does not matter.
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
        """Name of the most expensive step, as metrics and events show it."""
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
        """True if the plan writes rows of tables or catalogs, and does not only delete."""
        return bool(self.reload or self.truncate)

    @property
    def reason(self) -> str:
        """The changes that were found, in words."""
        tables = len(self.delete) + len(self.delete_new) + len(self.reload) + len(self.truncate)
        parts = [
            f"{number} {what}"
            for number, what in ((tables, "tables written to"), (len(self.sequences), "sequences used"))
            if number
        ]
        return ", ".join(parts) or "nothing was changed"

    @property
    def load(self) -> list[Qualified]:
        """Tables to load, in order."""
        return self.reload if self.order is None else self.order.load

    def deletions(self, schema: str | None, since: int) -> list[str]:
        """Compose the statements that delete rows.

        Args:
            schema: name of the schema, for isolation ``schema``.
            since: transaction since which rows count as new.
        """
        order = self.order or CleaningOrder(delete=[*self.delete, *self.reload, *self.delete_new])
        statements: list[str] = []
        if order.deferred:
            statements.append("SET CONSTRAINTS ALL DEFERRED")
        if self.truncate:
            tables = ", ".join(f"ONLY {full_name(name, schema)}" for name in self.truncate)
            statements.append(f"TRUNCATE {tables}")
        new = written_since(f"'{xid(since)}'")
        for name, columns in order.unset:
            unset = ", ".join(f"{quoted(column)} = NULL" for column in columns)
            where = f" WHERE {new}" if name in self.delete_new else ""
            statements.append(f"UPDATE ONLY {full_name(name, schema)} SET {unset}{where}")
        for name in order.delete:
            where = f" WHERE {new}" if name in self.delete_new else ""
            statements.append(f"DELETE FROM ONLY {full_name(name, schema)}{where}")
        return statements

    def sequence_settings(self, schema: str | None) -> list[str]:
        """Compose the statement that sets sequences, if there are any to set."""
        calls = ", ".join(
            f"setval({constant(full_name(name, schema))}::regclass, {value:d}, {called})"
            for name, value, called in self.sequences
        )
        return [f"SELECT {calls}"] if calls else []


class Inspected(Protocol):
    """The part of an ``Inspection`` that a plan is made from."""

    @property
    def tables(self) -> Mapping[Qualified, WrittenTable]:
        """Tables that were written to."""

    @property
    def sequences(self) -> Collection[Qualified]:
        """Sequences that were read or moved."""


def make_plan(
    template: TemplateProfile, found: Inspected, rewritten: frozenset[Qualified], *, in_order: bool = False
) -> Plan:
    """Choose the cheapest steps that are proved to be enough.

    Args:
        template: profile of the template.
        found: changes in the database.
        rewritten: tables whose storage was replaced (truncated or rewritten), whatever the counters say.
        in_order: true if the session checks foreign keys.

    Raises:
        Unprovable: only a rebuild is enough.
    """
    plan, model = Plan(), template.model
    for name in sorted({*found.tables, *rewritten}):
        table, written = model.tables.get(name), found.tables.get(name)
        if table is None:
            raise Unprovable(f"the table {shown(name)} is not part of the template", cause=Cause.CATALOGS)
        if table.rows == 0 and written is None:
            continue  # it was truncated, and should be empty
        _choose(plan, template, name, table, written, was_rewritten=name in rewritten)
        if written is not None and written.pages > table.pages + SPARE_PAGES and name not in plan.truncate:
            plan.vacuum.append(name)
    plan.sequences = [(name, *model.sequences[name]) for name in sorted(found.sequences)]
    plan.delete = [name for name in plan.delete if name not in plan.truncate]
    if in_order:
        _put_in_order(plan, template)
    return plan


def plan_emptying(model: TableModel, names: Collection[Qualified]) -> Plan:
    """Plan to delete all rows of these tables, where foreign keys are checked.

    Raises:
        CircularReferences: no order of deletions satisfies the foreign keys.
    """
    order = find_order(model, empty=names, thin=(), load=names)
    return Plan(delete=[*names], truncate=order.truncate, order=order)


def _put_in_order(plan: Plan, template: TemplateProfile) -> None:
    model = template.model
    for name in sorted(affected(model, plan.reload)):
        if name in plan.delete_new:
            plan.delete_new.remove(name)
        _choose_reload(plan, template, name, model.tables[name])
    try:
        plan.order = find_order(
            model, empty=[*plan.delete, *plan.reload], thin=plan.delete_new, load=plan.reload
        )
    except CircularReferences as circle:
        raise Unprovable(f"the tables {circle}", cause=Cause.ROWS) from circle
    plan.truncate += [name for name in plan.order.truncate if name not in plan.truncate]


def _choose(
    plan: Plan,
    template: TemplateProfile,
    name: Qualified,
    table: Table,
    written: WrittenTable | None,
    *,
    was_rewritten: bool,
) -> None:
    """Add the step for one table to the plan."""
    if table.materialized:
        raise Unprovable(f"the materialized view {shown(name)} was refreshed", cause=Cause.ROWS)
    if table.rows == 0:
        together = template.model.closure(name)
        large = written is not None and written.pages > TRUNCATED_PAGES
        if large and all(
            (one := template.model.tables.get(each)) is not None
            and one.rows == 0
            and "truncate" not in one.fires
            for each in together
        ):
            plan.truncate += sorted(together - set(plan.truncate))
        else:
            _check_nothing_fires(name, table, "delete")
            plan.delete.append(name)
    elif written is not None and not was_rewritten and written.updated == written.deleted == 0:
        _check_nothing_fires(name, table, "delete")
        plan.delete_new.append(name)
    else:
        _choose_reload(plan, template, name, table)


def _choose_reload(plan: Plan, template: TemplateProfile, name: Qualified, table: Table) -> None:
    if name not in template.seeds:
        raise Unprovable(
            f"rows of the table {shown(name)} were changed, and it is too large to load again",
            cause=Cause.ROWS,
        )
    if table.runs_code:
        raise Unprovable(
            f"loading the table {shown(name)} would run functions of the template's author", cause=Cause.ROWS
        )
    _check_nothing_fires(name, table, "delete", "insert")
    plan.reload.append(name)


def _check_nothing_fires(name: Qualified, table: Table, *events: str) -> None:
    firing = [event for event in events if event in table.fires]
    if firing:
        raise Unprovable(
            f"the table {shown(name)} has triggers or rules that fire on {firing[0]}", cause=Cause.ROWS
        )
