"""The order in which rows are deleted and loaded where foreign keys are checked.

Sessions with ``session_replication_role = replica`` check no foreign key, and need no order. Other sessions do. A table
whose rows refer to another table is emptied before that table, and loaded after it. Where tables refer to each other in a
circle, these solutions are tried, in this order:

1. A *deferrable* reference is checked at the end of the transaction. One with ``ON DELETE CASCADE``, ``SET NULL`` or
   ``SET DEFAULT`` does not block the deletion.
2. A column that *may be null* is set to null, in the rows that will be deleted.
3. Tables that should be empty are *truncated* together.

When tables of a circle are loaded, one of their references must be deferrable. A partitioned table counts as one table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from freshdb_reset.table_model import Qualified, Reference, TableModel


class CircularReferences(Exception):
    """Tables refer to each other so that no order exists. The text names them."""


@dataclass(slots=True)
class CleaningOrder:
    """The steps of a cleaning, in the order of their execution.

    Attributes:
        deferred: true to check deferrable references at the end of the transaction.
        truncate: tables to truncate in one statement.
        unset: columns to set to null, by table.
        delete: tables from which rows are deleted, one after the other.
        load: tables to load, one after the other.
    """

    deferred: bool = False
    truncate: list[Qualified] = field(default_factory=list)
    unset: list[tuple[Qualified, tuple[str, ...]]] = field(default_factory=list)
    delete: list[Qualified] = field(default_factory=list)
    load: list[Qualified] = field(default_factory=list)


def find_order(
    model: TableModel,
    *,
    empty: Collection[Qualified],
    thin: Collection[Qualified],
    load: Collection[Qualified],
) -> CleaningOrder:
    """Find an order.

    Args:
        model: model of the template.
        empty: tables to lose all rows.
        thin: tables to lose some rows.
        load: tables of ``empty`` that are loaded again.

    Raises:
        CircularReferences: no order exists.
    """
    order = CleaningOrder()
    order.delete = _in_order(
        _families(model, {*empty, *thin}),
        model.references,
        lambda left, references: _loosen_deletion(order, model, left, references, empty=empty, load=load),
        first=lambda one: one.of,
    )
    order.delete = [name for name in order.delete if name not in order.truncate]
    order.load = _in_order(
        _families(model, load),
        model.references,
        lambda left, references: _loosen_load(order, left, references),
        first=lambda one: one.to,
    )
    return order


_Families = dict[Qualified, list[Qualified]]


def _families(model: TableModel, tables: Collection[Qualified]) -> _Families:
    families: _Families = {}
    for name in sorted(tables):
        families.setdefault(model.tables[name].family, []).append(name)
    return families


def _in_order(
    families: _Families,
    references: Sequence[Reference],
    loosen: Callable[[_Families, list[Reference]], list[Reference]],
    *,
    first: Callable[[Reference], Qualified],
) -> list[Qualified]:
    """Sort topologically. Where a circle is left, ``loosen`` removes references."""
    left = dict(families)
    standing = [one for one in references if one.of in left and one.to in left]
    done: list[Qualified] = []
    while left:
        standing = [one for one in standing if one.of in left and one.to in left]
        waiting = {one.of if first(one) == one.to else one.to for one in standing if _blocks(one, left)}
        free = [family for family in left if family not in waiting]
        for family in free:
            done += left.pop(family)
        if not free:
            standing = loosen(left, standing)
    return done


def _blocks(reference: Reference, left: _Families) -> bool:
    """Return whether a reference blocks: one statement may delete rows that refer to each other, several may not."""
    return reference.of != reference.to or len(left[reference.of]) > 1


def _loosen_deletion(
    order: CleaningOrder,
    model: TableModel,
    left: _Families,
    references: list[Reference],
    *,
    empty: Collection[Qualified],
    load: Collection[Qualified],
) -> list[Reference]:
    """Remove references of a circle from which rows are deleted."""
    firm = [one for one in references if one.blocks and not one.deferrable]
    if len(firm) < len(references):
        order.deferred |= any(one.deferrable for one in references)
        obliging = {one.of for one in references if not one.blocks}  # ON DELETE may set their columns to null
        _check_updates_fire_nothing(model, {of: left[of] for of in obliging})
        return firm
    in_circles = [one for one in firm if _blocks(one, left)]
    for one in in_circles:
        if one.unset:
            tables = left[one.of]
            _check_updates_fire_nothing(model, {one.of: tables})
            order.unset += [(name, one.unset) for name in tables]
            return [other for other in firm if other is not one]
    circular = {name for one in left.values() for name in one}
    together = set[Qualified]().union(*(model.closure(name) for name in circular))
    if circular <= set(empty) and all(_may_be_truncated(model, name, load) for name in together):
        order.truncate += sorted(together)
        return []
    raise CircularReferences(f"{_names(left)} refer to each other, by columns that may not be null")


def _loosen_load(order: CleaningOrder, left: _Families, references: list[Reference]) -> list[Reference]:
    """Remove references of a circle that is loaded."""
    firm = [one for one in references if not one.deferrable]
    if len(firm) == len(references):
        raise CircularReferences(
            f"{_names(left)} refer to each other, and cannot be loaded one after the other"
        )
    order.deferred = True
    return firm


def _may_be_truncated(model: TableModel, name: Qualified, load: Collection[Qualified]) -> bool:
    table = model.tables.get(name)
    return table is not None and (table.rows == 0 or name in load) and "truncate" not in table.fires


def _check_updates_fire_nothing(model: TableModel, families: _Families) -> None:
    for name in (name for tables in families.values() for name in tables):
        if "update" in model.tables[name].fires or model.tables[name].runs_code:
            raise CircularReferences(
                f"breaking the circle of foreign keys at {name[1]} would run the template's functions"
            )


def _names(families: Iterable[Qualified]) -> str:
    return " and ".join(name for _, name in sorted(families))


def affected(model: TableModel, tables: Collection[Qualified]) -> Iterator[Qualified]:
    """Return other tables whose rows must be deleted, too, when all rows of ``tables`` are deleted."""
    families = {model.tables[name].family for name in tables}
    todo = set(families)
    referring: set[Qualified] = set()
    while todo:
        one = todo.pop()
        more = {reference.of for reference in model.references if reference.to == one} - referring
        referring |= more
        todo |= more
    for name, table in model.tables.items():
        if table.family in referring and table.rows != 0 and name not in tables:
            yield name
