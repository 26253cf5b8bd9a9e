"""The tables of a database, their foreign keys, and the order to insert and delete rows.

::

    tables = TableMap.read(engine)
    tables.insert_order            # ("customer", "order", "order_line"): referenced tables come first
    tables.cycles                  # (("department", "employee"),)
    print(tables.mermaid())        # a diagram, for Markdown

A map is read from PostgreSQL or SQLite by SQLAlchemy's reflection, or created from the ``MetaData`` of declarative models
without a database. Tables have SQLAlchemy's names: ``order``, or ``audit.event`` in a schema that is not on the
search path of the connection. A partitioned table is one table. Of its partitions, the map has only the names.

In a cycle of tables, a reference is *loose* if it is nullable (insert first, set later) or deferrable (checked at the end of
the transaction). The order follows the other references. A cycle without any valid order is ``unbreakable``.
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
        of: table that has the foreign key. For a partition, this is the partitioned table.
        to: table that it refers to. For a partition, this is the partitioned table.
        columns: columns of the foreign key, in its order.
        referred: columns that they refer to, in the same order.
        nullable: true if one of its columns may be null.
        deferrable: true if it can be checked at the end of the transaction.
        on_delete: ``CASCADE``, ``SET NULL``, …, or ``None`` if referenced rows cannot be deleted.
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
        """True if rows can be inserted before the rows that they refer to."""
        return self.nullable or self.deferrable


@dataclass(frozen=True, eq=False)
class TableMap:
    """Tables and their foreign keys.

    Attributes:
        tables: SQLAlchemy's ``Table`` of each, by name, in alphabetical order.
        references: all foreign keys between them, also within one table.
        partitions: name of the partitioned table of each partition.
        views: names of views and materialized views.
    """

    tables: Mapping[str, Table] = field(repr=False)
    references: tuple[Reference, ...]
    partitions: Mapping[str, str]
    views: frozenset[str]

    @classmethod
    def read(cls, target: Target) -> Self:
        """Read the tables of all schemas that the login may use, except tables of extensions.

        Args:
            target: an ``Engine``, a ``Connection`` or a DSN.

        Raises:
            WrongTarget: the target is of another type.
        """
        return run(target, cls.of_connection)

    @classmethod
    async def read_async(cls, target: AsyncTarget) -> Self:
        """Read a map as ``read`` does, from an ``AsyncEngine``, an ``AsyncConnection`` or a DSN."""
        return await run_async(target, cls.of_connection)

    @classmethod
    def of_connection(cls, connection: Connection) -> Self:
        """Read a map as ``read`` does, on an open connection."""
        inspector, metadata, views = inspect(connection), MetaData(), set[str]()
        postgresql = connection.dialect.name == "postgresql"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # types of extensions, indexes over expressions
            for schema in [None, *(connection.scalars(_OTHER_SCHEMAS) if postgresql else ())]:
                metadata.reflect(connection, schema=schema, resolve_fks=False)
                found = inspector.get_view_names(schema)
                found += inspector.get_materialized_view_names(schema) if postgresql else []
                views |= {_qualified(schema, view) for view in found}
        partitions = dict[str, str]()
        for row in connection.execute(_SPECIAL) if postgresql else ():
            name = _qualified(row.schema, row.name)
            if row.root is not None:
                partitions[name] = _qualified(row.root_schema, row.root)
            elif name in metadata.tables:  # the table of an extension
                metadata.remove(metadata.tables[name])
        return cls._create(metadata, partitions, frozenset(views))

    @classmethod
    def of_metadata(cls, metadata: MetaData) -> Self:
        """Create a map from the ``MetaData`` of models, without a database."""
        return cls._create(metadata, {}, frozenset())

    @classmethod
    def _create(cls, metadata: MetaData, partitions: Mapping[str, str], views: frozenset[str]) -> Self:
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
        """All tables, referenced tables first. Within a cycle, loose references are ignored."""
        group_of = {name: group for group in self._groups for name in group}
        needs = {
            group: dict.fromkeys(group_of[to] for name in group for to in self._refers_to[name])
            for group in self._groups
        }
        sorter = TopologicalSorter(
            {group: [one for one in needed if one != group] for group, needed in needs.items()}
        )
        return tuple(name for group in sorter.static_order() for name in self._valid_order(group) or group)

    @cached_property
    def delete_order(self) -> tuple[str, ...]:
        """All tables, referring tables first."""
        return self.insert_order[::-1]

    @cached_property
    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """All cycles of several tables. Each has all tables that are reachable from it and lead back to it."""
        return tuple(group for group in self._groups if len(group) > 1)

    @cached_property
    def unbreakable(self) -> tuple[tuple[str, ...], ...]:
        """The cycles that have no valid order, even if loose references are ignored."""
        return tuple(group for group in self.cycles if self._valid_order(group) is None)

    @cached_property
    def self_references(self) -> tuple[str, ...]:
        """Tables that refer to themselves."""
        return tuple(dict.fromkeys(one.of for one in self.references if one.of == one.to))

    def referring(self, names: Collection[str]) -> set[str]:
        """Return other tables that refer to these, directly or indirectly. A truncation of these would include them."""
        return reachable(names, self._referred_by) - set(names)

    def referred(self, names: Collection[str]) -> set[str]:
        """Return other tables that these refer to, directly or indirectly. These may need rows there."""
        return reachable(names, self._refers_to) - set(names)

    def check(self, names: Iterable[str]) -> None:
        """Check that each name is a table of this map.

        Raises:
            UnknownTable: a table does not exist. The message lists similar names.
            NotATable: a name is a view or a partition.
        """
        for name in names:
            if name in self.tables:
                continue
            if name in self.views:
                raise NotATable(f"{name} is a view: name the tables of its query")
            if name in self.partitions:
                raise NotATable(f"{name} is a partition: name its partitioned table, {self.partitions[name]}")
            similar = get_close_matches(name, self.tables, 3) or list(self.tables)[:10]
            raise UnknownTable(f"there is no table {name!r}; there are {', '.join(similar) or 'no tables'}")

    def mermaid(self) -> str:
        """Draw a Mermaid flowchart, with an arrow to each referenced table. Arrows of loose references are dashed."""
        number = {name: f"t{at}" for at, name in enumerate(self.tables)}
        boxes = [f'  {number[name]}["{name.replace(chr(34), "#quot;")}"]' for name in self.tables]
        arrows = [
            f'  {number[one.of]} {"-.->" if one.loose else "-->"}|"{", ".join(one.columns)}"| {number[one.to]}'
            for one in self.references
        ]
        return "\n".join(["flowchart LR", *boxes, *arrows])

    @cached_property
    def _refers_to(self) -> Mapping[str, list[str]]:
        return adjacency(self.tables, ((one.of, one.to) for one in self.references))

    @cached_property
    def _referred_by(self) -> Mapping[str, list[str]]:
        return adjacency(self.tables, ((one.to, one.of) for one in self.references))

    @cached_property
    def _groups(self) -> tuple[tuple[str, ...], ...]:
        """The strongly connected components of the tables. Most of them have one table."""
        reach = {name: reachable([name], self._refers_to) for name in self.tables}
        groups = (
            tuple(other for other in self.tables if other in reach[name] and name in reach[other])
            for name in self.tables
        )
        return tuple(dict.fromkeys(groups))

    def _valid_order(self, group: tuple[str, ...]) -> tuple[str, ...] | None:
        strict = [one for one in self.references if one.of != one.to and not one.loose]
        try:
            needs = {name: [one.to for one in strict if one.of == name and one.to in group] for name in group}
            return tuple(TopologicalSorter(needs).static_order())
        except CycleError:
            return None


def adjacency(names: Iterable[N], pairs: Iterable[tuple[N, N]]) -> dict[N, list[N]]:
    """Return for each name the names that it is paired with, in the order of the pairs."""
    found: dict[N, list[N]] = {name: [] for name in names}
    for one, other in pairs:
        if other not in found[one]:
            found[one].append(other)
    return found


def reachable(names: Collection[N], adjacency: Mapping[N, Collection[N]]) -> set[N]:
    """Return these names and all names that are reachable from them."""
    found, todo = set(names), list(names)
    while todo:
        more = set(adjacency[todo.pop()]) - found
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


def _qualified(schema: str | None, name: str) -> str:
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
"""Partitions with their root, and tables of extensions without one."""
