"""The plan that makes a database clean. It is computed from an inspection, without a connection.

=========================================  =========================================================================
found                                      done
=========================================  =========================================================================
nothing                                    nothing
rows in a table that is empty in the       delete them. If the table has grown: truncate it together with the tables that
template                                   refer to it, or vacuum it if one of these has rows, or there are many
rows added to a table that has rows        delete those that were written since the mark, and vacuum
rows of a small table changed or deleted   truncate it and the tables that refer to it, and load the template's rows again
sequences read or moved                    set them to the template's state
numbers that the planner reads changed     set them, as a superuser
statistics where the template has none     delete them, as a superuser
anything else                              rebuild the database (``Unprovable``)
=========================================  =========================================================================

A table that is empty in the template may keep one block of deleted rows, and one per index. The planner takes a table that
was never vacuumed for ten blocks at least, so it does not see them. In all other tables, the planner would see them, or new
rows would not go where they go in a fresh copy. So after a vacuum, sizes and positions are compared with the template's
(``cleaning``).

Where only rows are restored (a profile without storage), tables are not vacuumed, and rarely truncated.

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
from freshdb_reset.storage import NEVER_VACUUMED, Storage
from freshdb_reset.storage_diff import StorageChanges
from freshdb_reset.table_model import Qualified, Table, TableModel, full_name, shown
from freshdb_reset.verdict import Cause, Unprovable

TRUNCATED_PAGES: Final = 128
"""Size in blocks (1 MiB) above which a table that should be empty is truncated where only rows are restored."""
_PARTS: Final = 5
"""Rows of ``pg_class`` for a usual table: itself, its indexes, its TOAST table and that one's index."""
_TOGETHER: Final = 16
"""Number of tables up to which truncating them costs less than vacuuming one."""


@dataclass(slots=True)
class Plan:
    """The steps that make a database clean.

    Attributes:
        delete: tables to empty.
        delete_new: tables to lose the rows that were written since the mark.
        reload: tables to empty, and to load from the template.
        truncate: tables to truncate in one statement.
        vacuum: tables to vacuum afterwards, and to compare with the template's storage then.
        numbers: tables whose numbers and hints in ``pg_class`` are set to the template's.
        statistics: tables whose planner statistics are deleted.
        sequences: sequences to set, with ``last_value`` and ``is_called``.
        order: order of the steps, or ``None`` if it does not matter.
    """

    delete: list[Qualified] = field(default_factory=list)
    delete_new: list[Qualified] = field(default_factory=list)
    reload: list[Qualified] = field(default_factory=list)
    truncate: list[Qualified] = field(default_factory=list)
    vacuum: list[Qualified] = field(default_factory=list)
    numbers: list[Qualified] = field(default_factory=list)
    statistics: list[Qualified] = field(default_factory=list)
    sequences: list[tuple[Qualified, int, bool]] = field(default_factory=list)
    order: CleaningOrder | None = None

    @property
    def path(self) -> str:
        """Name of the most expensive step, as metrics and events show it."""
        for name, work in (
            ("reload", self.reload),
            ("truncate", self.truncate),
            ("delete", [*self.delete, *self.delete_new]),
            ("statistics", [*self.numbers, *self.statistics]),
            ("sequences", self.sequences),
        ):
            if work:
                return name
        return "nothing"

    @property
    def writes(self) -> bool:
        """True if the plan writes rows of tables or catalogs, and does not only delete."""
        return bool(self.reload or self.truncate or self.vacuum or self.numbers or self.statistics)

    @property
    def catalog_rows(self) -> int:
        """Approximate number of rows of catalogs that the plan replaces."""
        return _PARTS * len(self.truncate) + len(self.numbers) + len(self.statistics)

    @property
    def reason(self) -> str:
        """The changes that were found, in words."""
        tables = len({*self.delete, *self.delete_new, *self.reload, *self.truncate})
        parts = [
            f"{number} {what}"
            for number, what in (
                (tables, "tables written to"),
                (len(self.sequences), "sequences used"),
                (len({*self.numbers, *self.statistics}), "tables vacuumed, analysed or altered"),
            )
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
        truncated = frozenset(self.truncate)
        statements: list[str] = []
        if order.deferred:
            statements.append("SET CONSTRAINTS ALL DEFERRED")
        if self.truncate:
            tables = ", ".join(f"ONLY {full_name(name, schema)}" for name in self.truncate)
            statements.append(f"TRUNCATE {tables}")
        new = written_since(f"'{xid(since)}'")
        for name, columns in order.unset:
            if name in truncated:
                continue
            unset = ", ".join(f"{quoted(column)} = NULL" for column in columns)
            where = f" WHERE {new}" if name in self.delete_new else ""
            statements.append(f"UPDATE ONLY {full_name(name, schema)} SET {unset}{where}")
        for name in order.delete:
            if name in truncated:
                continue
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
    template: TemplateProfile,
    found: Inspected,
    rewritten: frozenset[Qualified] = frozenset(),
    changes: StorageChanges | None = None,
    *,
    in_order: bool = False,
    insufficient: Collection[Qualified] = (),
) -> Plan:
    """Choose the cheapest steps that are proved to be enough.

    Args:
        template: profile of the template.
        found: changes in the database.
        rewritten: tables whose storage was replaced (truncated or rewritten), whatever the counters say.
        changes: tables that differ in what the planner reads.
        in_order: true if the session checks foreign keys.
        insufficient: tables for which deleting and vacuuming was tried, and was not enough.

    Raises:
        Unprovable: only a rebuild is enough.
    """
    choice = _Choice(Plan(), template, frozenset(insufficient))
    plan, model = choice.plan, template.model
    for name in sorted({*found.tables, *rewritten}):
        table, written = model.tables.get(name), found.tables.get(name)
        if table is None:
            raise Unprovable(f"the table {shown(name)} is not part of the template", cause=Cause.CATALOGS)
        if table.rows == 0 and written is None:
            continue  # it was truncated, and should be empty
        choice.add(name, table, written, was_rewritten=name in rewritten)
    plan.sequences = [(name, *model.sequences[name]) for name in sorted(found.sequences)]
    if changes is not None:
        plan.numbers, plan.statistics = sorted(changes.numbers), sorted(changes.statistics)
    if in_order:
        for name in sorted(affected(model, plan.reload)):
            choice.reload(name)
    choice.remove_truncated()
    if changes is not None and not changes.can_be_set:
        for name in sorted(changes.numbers.difference(plan.truncate, plan.vacuum)):
            raise Unprovable(
                f"the table {shown(name)} was vacuumed or analysed, and only a superuser can undo that",
                cause=Cause.PLANNER,
            )
    if in_order:
        _put_in_order(plan, model)
    return plan


def plan_emptying(model: TableModel, names: Collection[Qualified]) -> Plan:
    """Plan to delete all rows of these tables, where foreign keys are checked.

    Raises:
        CircularReferences: no order of deletions satisfies the foreign keys.
    """
    order = find_order(model, empty=names, thin=(), load=names)
    return Plan(delete=[*names], truncate=order.truncate, order=order)


def _put_in_order(plan: Plan, model: TableModel) -> None:
    emptied = [name for name in (*plan.delete, *plan.reload) if name not in plan.truncate]
    try:
        plan.order = find_order(model, empty=emptied, thin=plan.delete_new, load=plan.reload)
    except CircularReferences as circle:
        raise Unprovable(f"the tables {circle}", cause=Cause.ROWS) from circle
    plan.truncate += [name for name in plan.order.truncate if name not in plan.truncate]


@dataclass(frozen=True, slots=True)
class _Choice:
    """The choice of steps, table by table."""

    plan: Plan
    template: TemplateProfile
    insufficient: frozenset[Qualified]

    def add(
        self, name: Qualified, table: Table, written: WrittenTable | None, *, was_rewritten: bool
    ) -> None:
        """Add the steps for one table to the plan."""
        if table.materialized:
            raise Unprovable(f"the materialized view {shown(name)} was refreshed", cause=Cause.ROWS)
        only_added = written is not None and not was_rewritten and written.updated == written.deleted == 0
        if table.rows == 0 and written is not None:
            self._empty(name, written)
        elif only_added and name not in self.insufficient:
            self._delete_new(name)
        else:
            self.reload(name)

    def remove_truncated(self) -> None:
        """Remove what a truncation makes unnecessary."""
        plan, truncated = self.plan, frozenset(self.plan.truncate)
        plan.delete = [name for name in plan.delete if name not in truncated]
        plan.delete_new = [name for name in plan.delete_new if name not in plan.reload]
        loaded = frozenset(plan.reload)
        kept = [name for name in plan.vacuum if name not in truncated and name not in loaded]
        plan.vacuum = [] if self.template.storage is None else [*kept, *plan.reload]

    def reload(self, name: Qualified) -> None:
        """Load the rows of a table again, and of those that are truncated with it."""
        if name in self.plan.reload:
            return
        if self.template.storage is None:
            self._check_loads(name)
            self._check_nothing_fires(name, "delete", "insert")
            self.plan.reload.append(name)
            return
        for one in sorted(self.template.model.closure(name)):
            table = self.template.model.tables.get(one)
            if table is None:
                raise Unprovable(
                    f"the table {shown(name)} cannot be truncated, because the partitioned table {shown(one)} refers to it",
                    cause=Cause.ROWS,
                )
            self._check_nothing_fires(one, "truncate")
            if table.rows != 0 and one not in self.plan.reload:
                self._check_loads(one)
                self._check_nothing_fires(one, "insert")
                self.plan.reload.append(one)
            if one not in self.plan.truncate:
                self.plan.truncate.append(one)

    def _empty(self, name: Qualified, written: WrittenTable) -> None:
        plan, together = self.plan, self.template.model.closure(name)
        storage = self._storage(name)
        if storage is None:
            stays, few = written.pages <= TRUNCATED_PAGES, True
        else:
            stays = (
                written.total <= storage.spacious
                and storage.numbers[1] == NEVER_VACUUMED
                and storage.searches_exactly
                and name not in self.insufficient
            )
            few = len(together) <= _TOGETHER or name in self.insufficient
        if not stays and few and all(self._should_be_empty(one) for one in together):
            plan.truncate += sorted(together - set(plan.truncate))
            return
        if name in self.insufficient:
            raise self._unlike(name)
        self._check_nothing_fires(name, "delete")
        plan.delete.append(name)
        if not stays:
            plan.vacuum.append(name)

    def _should_be_empty(self, name: Qualified) -> bool:
        table = self.template.model.tables.get(name)
        return table is not None and table.rows == 0 and "truncate" not in table.fires

    def _delete_new(self, name: Qualified) -> None:
        storage = self._storage(name)
        if storage is not None and not storage.searches_exactly:
            raise Unprovable(
                f"the table {shown(name)} has an index for approximate searches, which deleted rows change",
                cause=Cause.PLANNER,
            )
        self._check_nothing_fires(name, "delete")
        self.plan.delete_new.append(name)
        self.plan.vacuum.append(name)

    def _check_loads(self, name: Qualified) -> None:
        storage = self._storage(name)
        if name not in self.template.seeds:
            raise Unprovable(
                f"rows of the table {shown(name)} were changed, and it is too large to load again",
                cause=Cause.ROWS,
            )
        if self.template.model.tables[name].runs_code:
            raise Unprovable(
                f"loading the table {shown(name)} would run functions of the template's author",
                cause=Cause.ROWS,
            )
        if name in self.template.unlike or (storage is not None and not storage.searches_exactly):
            raise self._unlike(name)

    def _check_nothing_fires(self, name: Qualified, *events: str) -> None:
        firing = [event for event in events if event in self.template.model.tables[name].fires]
        if firing:
            raise Unprovable(
                f"the table {shown(name)} has triggers or rules that fire on {firing[0]}", cause=Cause.ROWS
            )

    def _storage(self, name: Qualified) -> Storage | None:
        return None if self.template.storage is None else self.template.storage[name]

    def _unlike(self, name: Qualified) -> Unprovable:
        return Unprovable(
            f"rows of the table {shown(name)} would not get the template's positions or space again",
            cause=Cause.PLANNER,
        )
