"""In which order rows are deleted and loaded where foreign keys are checked.

A superuser's sessions check none, and need no order. A plain role's do. Tables whose rows refer to others' are emptied
first, and loaded last. Where tables refer to each other in a circle, these ways out are tried, in this order:

1. a reference that is *deferrable* is checked when the transaction ends, and one that deletes what refers to it, or sets it
   to null, does not stand in the way;
2. a column that *may be null* is set to null, in those rows that are to be deleted;
3. tables that should be empty are *truncated* together.

What is loaded in a circle must be deferrable. A partitioned table counts as one here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from freshdb_service.postgres.reset.table_model import Qualified, Reference, TableModel


class CircularReferences(Exception):
    """There is no such order; the text says among which tables."""


@dataclass(slots=True)
class CleaningOrder:
    """What to do, from top to bottom.

    Attributes:
        deferred: let deferrable references be checked at the end.
        truncate: these tables, together.
        unset: set these columns of these tables to null.
        delete: empty these tables, or of what is new, one after the other.
        load: these, one after the other.
    """

    deferred: bool = False
    truncate: list[Qualified] = field(default_factory=list)
    unset: list[tuple[Qualified, tuple[str, ...]]] = field(default_factory=list)
    delete: list[Qualified] = field(default_factory=list)
    load: list[Qualified] = field(default_factory=list)


def order(
    picture: TableModel,
    *,
    empty: Collection[Qualified],
    thin: Collection[Qualified],
    load: Collection[Qualified],
) -> CleaningOrder:
    """Find an order.

    Args:
        picture: of the template.
        empty: tables to lose all rows.
        thin: tables to lose some.
        load: tables, among those to be emptied, that are filled again.

    Raises:
        Entangled: there is none.
    """
    made = CleaningOrder()
    made.delete = _in_order(
        _families(picture, {*empty, *thin}),
        picture.references,
        lambda left, references: _let_go(made, picture, left, references, empty=empty, load=load),
        first=lambda one: one.of,
    )
    made.delete = [name for name in made.delete if name not in made.truncate]
    made.load = _in_order(
        _families(picture, load),
        picture.references,
        lambda left, references: _defer(made, left, references),
        first=lambda one: one.to,
    )
    return made


_Families = dict[Qualified, list[Qualified]]


def _families(picture: TableModel, tables: Collection[Qualified]) -> _Families:
    families: _Families = {}
    for name in sorted(tables):
        families.setdefault(picture.tables[name].family, []).append(name)
    return families


def _in_order(
    families: _Families,
    references: Sequence[Reference],
    loosen: Callable[[_Families, list[Reference]], list[Reference]],
    *,
    first: Callable[[Reference], Qualified],
) -> list[Qualified]:
    """Sort topologically; what is entangled, ``loosen`` has to remove a reference from."""
    left = dict(families)
    standing = [one for one in references if one.of in left and one.to in left]
    done: list[Qualified] = []
    while left:
        standing = [one for one in standing if one.of in left and one.to in left]
        waiting = {one.of if first(one) == one.to else one.to for one in standing if _holds(one, left)}
        free = [family for family in left if family not in waiting]
        for family in free:
            done += left.pop(family)
        if not free:
            standing = loosen(left, standing)
    return done


def _holds(reference: Reference, left: _Families) -> bool:
    """One statement over one table may refer to itself; several, over its partitions, may not."""
    return reference.of != reference.to or len(left[reference.of]) > 1


def _let_go(
    made: CleaningOrder,
    picture: TableModel,
    left: _Families,
    references: list[Reference],
    *,
    empty: Collection[Qualified],
    load: Collection[Qualified],
) -> list[Reference]:
    """Loosen what is to be deleted."""
    firm = [one for one in references if one.blocks and not one.deferrable]
    if len(firm) < len(references):
        made.deferred |= any(one.deferrable for one in references)
        obliging = {one.of for one in references if not one.blocks}  # their columns may be set to null
        _see_that_updates_fire_nothing(picture, {of: left[of] for of in obliging})
        return firm
    in_circles = [one for one in firm if _holds(one, left)]
    for one in in_circles:
        if one.unset:
            tables = left[one.of]
            _see_that_updates_fire_nothing(picture, {one.of: tables})
            made.unset += [(name, one.unset) for name in tables]
            return [other for other in firm if other is not one]
    entangled = {name for one in left.values() for name in one}
    together = set[Qualified]().union(*(picture.closure(name) for name in entangled))
    if entangled <= set(empty) and all(_may_be_truncated(picture, name, load) for name in together):
        made.truncate += sorted(together)
        return []
    raise CircularReferences(f"{_names(left)} refer to each other, by columns that may not be null")


def _defer(made: CleaningOrder, left: _Families, references: list[Reference]) -> list[Reference]:
    """Loosen what is to be loaded."""
    firm = [one for one in references if not one.deferrable]
    if len(firm) == len(references):
        raise CircularReferences(
            f"{_names(left)} refer to each other, and cannot be loaded one after the other"
        )
    made.deferred = True
    return firm


def _may_be_truncated(picture: TableModel, name: Qualified, load: Collection[Qualified]) -> bool:
    table = picture.tables.get(name)
    return table is not None and (table.rows == 0 or name in load) and "truncate" not in table.fires


def _see_that_updates_fire_nothing(picture: TableModel, families: _Families) -> None:
    for name in (name for tables in families.values() for name in tables):
        if "update" in picture.tables[name].fires or picture.tables[name].runs_code:
            raise CircularReferences(
                f"to break the circle that {name[1]} is in would run the template's functions"
            )


def _names(families: Iterable[Qualified]) -> str:
    return " and ".join(name for _, name in sorted(families))


def affected(picture: TableModel, tables: Collection[Qualified]) -> Iterator[Qualified]:
    """Tables with rows that must be taken out, too, when all rows of ``tables`` are."""
    families = {picture.tables[name].family for name in tables}
    todo = set(families)
    referring: set[Qualified] = set()
    while todo:
        one = todo.pop()
        more = {reference.of for reference in picture.references if reference.to == one} - referring
        referring |= more
        todo |= more
    for name, table in picture.tables.items():
        if table.family in referring and table.rows != 0 and name not in tables:
            yield name
