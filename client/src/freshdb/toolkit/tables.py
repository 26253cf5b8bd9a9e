"""The map of a database's tables: what refers to what, and in which order rows go in and out.

::

    tables = TableMap.read(engine)
    tables.insert_order            # ("customer", "order", "order_line"): what is referred to comes first
    tables.cycles                  # (("department", "employee"),)
    print(tables.mermaid())        # a drawing, for Markdown

It is read by SQLAlchemy's reflection, from PostgreSQL or SQLite, or made from the ``MetaData`` of declarative models without
any database. Tables are called what SQLAlchemy calls them: ``order``, or ``audit.event`` in a schema that is not on
the connection's search path. A partitioned table is one table, and its partitions are known by name only.

In a circle of tables, a reference that may be null (insert first, refer later) or that is deferrable (checked when the
transaction ends) is *loose*: the order follows the others. What is left without one is ``unbreakable``.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Final, Self, TypeVar

from sqlalchemy import Connection, ForeignKeyConstraint, MetaData, Table, inspect, text
from sqlalchemy.exc import SAWarning

from freshdb.toolkit.engines import AsyncTarget, Target, run, run_async
from freshdb.toolkit.errors import NotATable, UnknownTable

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key.

    Attributes:
        of: the table that has it; of a partition, the partitioned table.
        to: the table that it refers to, likewise.
        columns: of the first, in the key's order.
        referred: of the second, in the same order.
        nullable: one of its columns may be null, so that it refers to nothing.
        deferrable: it can be checked when the transaction ends.
        on_delete: ``CASCADE``, ``SET NULL``, …, or ``None``: rows that are referred to cannot be deleted.
    """

    of: str
    to: str
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    nullable: bool
    deferrable: bool
    on_delete: str | None

    @property
    def loose(self) -> bool:
        """Whether rows can be inserted before those that they refer to."""
        return self.nullable or self.deferrable


@dataclass(frozen=True, eq=False)
class TableMap:
    """Tables and what they refer to.

    Attributes:
        tables: by name, in alphabetical order; SQLAlchemy's own description of each.
        references: every foreign key between them, also of a table to itself.
        partitions: the partitioned table that each partition belongs to, by name.
        views: names of what can be queried, and holds no rows of its own to be written to.
    """

    tables: Mapping[str, Table] = field(repr=False)
    references: tuple[Reference, ...]
    partitions: Mapping[str, str]
    views: frozenset[str]

    @classmethod
    def read(cls, target: Target) -> Self:
        """Read a database's: of every schema that the login may use, without what belongs to extensions.

        Args:
            target: an ``Engine``, a ``Connection`` or a DSN.

        Raises:
            WrongTarget: this is none of those.
        """
        return run(target, cls.of_connection)

    @classmethod
    async def read_async(cls, target: AsyncTarget) -> Self:
        """Do what ``read`` does, with an ``AsyncEngine``, an ``AsyncConnection`` or a DSN."""
        return await run_async(target, cls.of_connection)

    @classmethod
    def of_connection(cls, connection: Connection) -> Self:
        """Do what ``read`` does, in an operation that has a connection already."""
        inspector, metadata, views = inspect(connection), MetaData(), set[str]()
        postgresql = connection.dialect.name == "postgresql"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # types of extensions, indexes over expressions
            for schema in [None, *(connection.scalars(_OTHER_SCHEMAS) if postgresql else ())]:
                metadata.reflect(connection, schema=schema, resolve_fks=False)
                found = inspector.get_view_names(schema)
                found += inspector.get_materialized_view_names(schema) if postgresql else []
                views |= {_key(schema, view) for view in found}
        partitions = dict[str, str]()
        for row in connection.execute(_SPECIAL) if postgresql else ():
            name = _key(row.schema, row.name)
            if row.root is not None:
                partitions[name] = _key(row.root_schema, row.root)
            elif name in metadata.tables:  # an extension's
                metadata.remove(metadata.tables[name])
        return cls._made(metadata, partitions, frozenset(views))

    @classmethod
    def of_metadata(cls, metadata: MetaData) -> Self:
        """Make it from the ``MetaData`` of models, without any database."""
        return cls._made(metadata, {}, frozenset())

    @classmethod
    def _made(cls, metadata: MetaData, partitions: Mapping[str, str], views: frozenset[str]) -> Self:
        every = metadata.tables
        references = {
            _reference(constraint, partitions.get(name, name), partitions.get(to, to))
            for name, table in every.items()
            for constraint in table.foreign_key_constraints
            if (to := constraint.elements[0].target_fullname.rpartition(".")[0]) in every
        }
        return cls(
            {name: every[name] for name in sorted(every) if name not in partitions},
            tuple(sorted(references, key=lambda one: (one.of, one.to, one.columns))),
            {name: root for name, root in partitions.items() if name in every},
            views,
        )

    @cached_property
    def insert_order(self) -> tuple[str, ...]:
        """All tables, those that others refer to first; in a circle, as far as loose references leave a choice."""
        circle_of = {name: circle for circle in self._circles for name in circle}
        needs = {
            circle: dict.fromkeys(circle_of[to] for name in circle for to in self._refers_to[name])
            for circle in self._circles
        }
        sorter = TopologicalSorter(
            {circle: [one for one in needed if one != circle] for circle, needed in needs.items()}
        )
        return tuple(name for circle in sorter.static_order() for name in self._in_order(circle) or circle)

    @cached_property
    def delete_order(self) -> tuple[str, ...]:
        """All tables, those that refer to others first."""
        return self.insert_order[::-1]

    @cached_property
    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """The circles of several tables; every table that can be reached from one and leads back to it is in it."""
        return tuple(circle for circle in self._circles if len(circle) > 1)

    @cached_property
    def unbreakable(self) -> tuple[tuple[str, ...], ...]:
        """Those circles that have no order, however loose references are used."""
        return tuple(circle for circle in self.cycles if self._in_order(circle) is None)

    @cached_property
    def self_references(self) -> tuple[str, ...]:
        """Tables that refer to themselves."""
        return tuple(dict.fromkeys(one.of for one in self.references if one.of == one.to))

    def referring(self, names: Collection[str]) -> set[str]:
        """Other tables that refer to these, directly or not: what a truncation of these would have to take along."""
        return reached(names, self._referred_by) - set(names)

    def referred(self, names: Collection[str]) -> set[str]:
        """Other tables that these refer to, directly or not: whose rows they may need."""
        return reached(names, self._refers_to) - set(names)

    def check(self, names: Iterable[str]) -> None:
        """See that each is a table of this map.

        Raises:
            UnknownTable: there is none of this name; says which are similar.
            NotATable: it is a view, or a partition of another.
        """
        for name in names:
            if name in self.tables:
                continue
            if name in self.views:
                raise NotATable(f"{name} is a view: name the tables that it shows")
            if name in self.partitions:
                raise NotATable(f"{name} is a partition: name the whole, {self.partitions[name]}")
            similar = get_close_matches(name, self.tables, 3) or list(self.tables)[:10]
            raise UnknownTable(
                f"there is no table {name!r}; there are {', '.join(similar) or 'no tables at all'}"
            )

    def mermaid(self) -> str:
        """Draw it, as a Mermaid flowchart: arrows lead to what is referred to, dashed ones are loose."""
        number = {name: f"t{at}" for at, name in enumerate(self.tables)}
        boxes = [f'  {number[name]}["{name.replace(chr(34), "#quot;")}"]' for name in self.tables]
        arrows = [
            f'  {number[one.of]} {"-.->" if one.loose else "-->"}|"{", ".join(one.columns)}"| {number[one.to]}'
            for one in self.references
        ]
        return "\n".join(["flowchart LR", *boxes, *arrows])

    @cached_property
    def _refers_to(self) -> Mapping[str, list[str]]:
        return neighbours(self.tables, ((one.of, one.to) for one in self.references))

    @cached_property
    def _referred_by(self) -> Mapping[str, list[str]]:
        return neighbours(self.tables, ((one.to, one.of) for one in self.references))

    @cached_property
    def _circles(self) -> tuple[tuple[str, ...], ...]:
        """Every table is in exactly one, most of them alone."""
        reach = {name: reached([name], self._refers_to) for name in self.tables}
        circles = (
            tuple(other for other in self.tables if other in reach[name] and name in reach[other])
            for name in self.tables
        )
        return tuple(dict.fromkeys(circles))

    def _in_order(self, circle: tuple[str, ...]) -> tuple[str, ...] | None:
        firm = [one for one in self.references if one.of != one.to and not one.loose]
        try:
            needs = {name: [one.to for one in firm if one.of == name and one.to in circle] for name in circle}
            return tuple(TopologicalSorter(needs).static_order())
        except CycleError:
            return None


def neighbours(names: Iterable[N], pairs: Iterable[tuple[N, N]]) -> dict[N, list[N]]:
    """Whom each leads to, in the order of the pairs."""
    found: dict[N, list[N]] = {name: [] for name in names}
    for one, other in pairs:
        if other not in found[one]:
            found[one].append(other)
    return found


def reached(names: Collection[N], neighbours: Mapping[N, Collection[N]]) -> set[N]:
    """These, and all that they lead to."""
    found, todo = set(names), list(names)
    while todo:
        more = set(neighbours[todo.pop()]) - found
        found |= more
        todo += more
    return found


def _reference(constraint: ForeignKeyConstraint, of: str, to: str) -> Reference:
    return Reference(
        of,
        to,
        tuple(constraint.column_keys),
        tuple(element.target_fullname.rpartition(".")[2] for element in constraint.elements),
        nullable=any(column.nullable for column in constraint.columns),
        deferrable=bool(constraint.deferrable),
        on_delete=constraint.ondelete,
    )


def _key(schema: str | None, name: str) -> str:
    return name if schema is None else f"{schema}.{name}"


_OTHER_SCHEMAS: Final = text("""
SELECT nspname FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege(oid, 'USAGE')
  AND nspname <> ALL (current_schemas(false))
ORDER BY nspname
""")

_SPECIAL: Final = text("""
SELECT CASE WHEN NOT pg_table_is_visible(c.oid) THEN n.nspname END AS schema, c.relname AS name,
       CASE WHEN NOT pg_table_is_visible(r.oid) THEN m.nspname END AS root_schema, r.relname AS root
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN (pg_class r JOIN pg_namespace m ON m.oid = r.relnamespace)
       ON r.oid = pg_partition_root(c.oid) AND c.relispartition
WHERE c.relkind IN ('r', 'p') AND (c.relispartition OR EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
""")
"""Partitions, and, without a root, tables that belong to extensions."""
