"""The fingerprint of the system catalogs, by which the definitions in a database or schema are compared.

The fingerprint covers every column of every system catalog that belongs to one database. The list is read from the server,
so it includes the owners, privileges, comments and options of every kind of object that this version of PostgreSQL knows.
These are left out:

* statistics (``pg_statistic``, ``pg_statistic_ext_data``),
* the location and size of a relation's storage, and hints that PostgreSQL clears at any time,
* the schemas of temporary objects, which PostgreSQL creates once and keeps.

The comparison has two steps, and the cheap one comes first.

1. *Was a row written since the mark, or does the number of rows differ?* ``xmin`` answers the first part. Objects that were
   created and dropped again (as temporary tables are), or whose transaction was rolled back, show in neither.
2. *Is the content the same?* The content is a hash over all rows. The names of login and schema and the login's OID are
   replaced before, because they change with every generation, and clones of one template differ in nothing else. A table
   that was truncated has a new row in ``pg_class``, whose content is the same as the old one's.

PostgreSQL's own rows (OIDs below 16384) are not hashed. A login can write few of them, and one that was written, or is
missing, counts as a change.

``age()`` decides which rows were written since the mark. It is exact as long as fewer than 2^31 transactions have passed
since then. An old row can look younger once its own transaction id has wrapped around, and then it is hashed. No row ever
looks older.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from freshdb_reset.connection import Reader
from freshdb_reset.quoting import quoted

FIRST_OID: Final = 16384
"""First OID that is not one of PostgreSQL's own objects."""

STATISTICS: Final = frozenset({"pg_statistic", "pg_statistic_ext_data"})

_IGNORED: Final[Mapping[str, frozenset[str]]] = {
    "pg_class": frozenset(
        (
            *("relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid"),
            *("relminmxid", "relhasindex", "relhasrules", "relhastriggers", "relhassubclass"),
        )
    ),
    "pg_index": frozenset({"indcheckxmin"}),
    "pg_attribute": frozenset({"attcacheoff"}),
}

_NUMBER: Final[Mapping[str, str]] = {
    "pg_aggregate": "aggfnoid",
    "pg_attribute": "attrelid",
    "pg_depend": "objid",
    "pg_description": "objoid",
    "pg_foreign_table": "ftrelid",
    "pg_index": "indexrelid",
    "pg_inherits": "inhrelid",
    "pg_init_privs": "objoid",
    "pg_largeobject": "loid",
    "pg_partitioned_table": "partrelid",
    "pg_range": "rngtypid",
    "pg_seclabel": "objoid",
    "pg_sequence": "seqrelid",
    "pg_subscription_rel": "srsubid",
    "pg_ts_config_map": "mapcfg",
}
"""Column with the OID of the object that a row belongs to, where it is not ``oid``."""

_TEMPORARY: Final[Mapping[str, str]] = {"pg_namespace": "nspname !~ '^pg_(toast_)?temp_[0-9]+$'"}

_NAMED: Final[Mapping[str, str]] = {
    "pg_class": "relkind NOT IN ('t', 'i', 'I')",
    "pg_type": "typtype <> 'c' AND typcategory <> 'A'",
    "pg_rewrite": "rulename <> '_RETURN'",
} | dict.fromkeys(
    (
        *("pg_cast", "pg_collation", "pg_constraint", "pg_conversion", "pg_default_acl", "pg_event_trigger"),
        *("pg_extension", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_language", "pg_namespace"),
        *("pg_opclass", "pg_operator", "pg_opfamily", "pg_policy", "pg_proc", "pg_publication"),
        *("pg_statistic_ext", "pg_transform", "pg_trigger", "pg_ts_config", "pg_ts_dict", "pg_user_mapping"),
    ),
    "true",
)
"""Catalogs whose rows are described to a holder, and a condition for these rows. Other rows follow from them."""

_MOST_DESCRIBED: Final = 20


def _of(name: str) -> str:
    """Write the array of the OIDs of a schema's objects of one kind.

    A query finds them once (``_NUMBERS``), however many of its parts need them. PostgreSQL assumes that an array of unknown
    length is short, and so finds the rows of those objects by index. A join would read all catalogs of a shared database.
    """
    return f"((SELECT numbers FROM of_{name})::oid[])"


_NUMBERS: Final[Mapping[str, str]] = {
    "pg_class": "SELECT oid FROM pg_class WHERE relnamespace = $1",
    "pg_type": "SELECT oid FROM pg_type WHERE typnamespace = $1",
    "pg_proc": "SELECT oid FROM pg_proc WHERE pronamespace = $1",
    "pg_constraint": "SELECT oid FROM pg_constraint WHERE connamespace = $1",
    "pg_trigger": f"SELECT oid FROM pg_trigger WHERE tgrelid = ANY {_of('pg_class')}",
    "pg_rewrite": f"SELECT oid FROM pg_rewrite WHERE ev_class = ANY {_of('pg_class')}",
    "pg_policy": f"SELECT oid FROM pg_policy WHERE polrelid = ANY {_of('pg_class')}",
    "pg_attrdef": f"SELECT oid FROM pg_attrdef WHERE adrelid = ANY {_of('pg_class')}",
    "pg_operator": "SELECT oid FROM pg_operator WHERE oprnamespace = $1",
    "pg_opclass": "SELECT oid FROM pg_opclass WHERE opcnamespace = $1",
    "pg_opfamily": "SELECT oid FROM pg_opfamily WHERE opfnamespace = $1",
    "pg_collation": "SELECT oid FROM pg_collation WHERE collnamespace = $1",
    "pg_conversion": "SELECT oid FROM pg_conversion WHERE connamespace = $1",
    "pg_statistic_ext": "SELECT oid FROM pg_statistic_ext WHERE stxnamespace = $1",
    "pg_ts_config": "SELECT oid FROM pg_ts_config WHERE cfgnamespace = $1",
    "pg_ts_dict": "SELECT oid FROM pg_ts_dict WHERE dictnamespace = $1",
    "pg_namespace": "SELECT $1::oid",
}
"""Queries for the objects of a schema (``$1``), for each catalog that other catalogs refer to."""

_TOAST: Final = f"SELECT reltoastrelid FROM pg_class WHERE oid = ANY {_of('pg_class')}"

_WITH_NUMBERS: Final = "WITH " + ", ".join(
    f"of_{name} (numbers) AS MATERIALIZED (SELECT ARRAY({query}))"
    for name, query in (*_NUMBERS.items(), ("toast", _TOAST))
)


def _about(kind: str, number: str) -> str:
    """Write the condition that a row belongs to an object of the schema."""
    return " OR ".join(f"{kind} = '{name}'::regclass AND {number} = ANY {_of(name)}" for name in _NUMBERS)


_OF_SCHEMA: Final[Mapping[str, str]] = {name: f"oid = ANY {_of(name)}" for name in _NUMBERS} | {
    "pg_aggregate": f"aggfnoid::oid = ANY {_of('pg_proc')}",
    "pg_attribute": f"attrelid = ANY {_of('pg_class')}",
    "pg_cast": " OR ".join(
        (
            f"castsource = ANY {_of('pg_type')}",
            f"casttarget = ANY {_of('pg_type')}",
            f"castfunc = ANY {_of('pg_proc')}",
        )
    ),
    "pg_class": f"oid = ANY {_of('pg_class')} OR oid = ANY {_of('toast')}",
    "pg_default_acl": "defaclrole = $2 OR defaclnamespace = $1",
    "pg_depend": _about("classid", "objid"),
    "pg_description": _about("classoid", "objoid"),
    "pg_enum": f"enumtypid = ANY {_of('pg_type')}",
    "pg_index": f"indrelid = ANY {_of('pg_class')}",
    "pg_inherits": f"inhrelid = ANY {_of('pg_class')}",
    "pg_largeobject_metadata": "lomowner = $2",
    "pg_namespace": "oid = $1",
    "pg_partitioned_table": f"partrelid = ANY {_of('pg_class')}",
    "pg_range": f"rngtypid = ANY {_of('pg_type')}",
    "pg_sequence": f"seqrelid = ANY {_of('pg_class')}",
    "pg_ts_config_map": f"mapcfg = ANY {_of('pg_ts_config')}",
}
"""Conditions for the rows that belong to a schema (``$1``) or its login (``$2``). The login can write no other catalog."""


def written_since(parameter: str, alias: str | None = None) -> str:
    """Write the condition that a row was written since the transaction in ``parameter`` (a value of ``xid``)."""
    xmin = f"{alias}.xmin" if alias else "xmin"
    return f"age({xmin}) <= age({parameter}::text::xid)"


def xid(full: int) -> str:
    """Convert a full transaction id to the value of such a parameter."""
    return str(full % 2**32)


@dataclass(frozen=True, slots=True)
class Extent:
    """Number of rows and content of one catalog, at one moment.

    Attributes:
        own: number of rows of PostgreSQL's own objects.
        rows: number of all other rows.
        content: hash over these other rows.
    """

    own: int
    rows: int
    content: str


@dataclass(frozen=True, slots=True)
class Change:
    """Result of the cheap step of the comparison, for one catalog.

    Attributes:
        own: number of rows of PostgreSQL's own objects.
        rows: number of all other rows.
        own_written: number of PostgreSQL's own rows that were written since the mark.
        written: number of other rows that were written since the mark.
    """

    own: int
    rows: int
    own_written: int
    written: int


class Catalogs:
    """Queries over the catalogs of one server, as far as the role of the connection may read them.

    Args:
        columns: columns of each catalog.
        schema: true to limit all queries to one schema and its login, whose OIDs are the parameters ``$1`` and ``$2``.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], *, schema: bool) -> None:
        self._columns = columns
        self._schema = schema
        self.names = tuple(name for name in columns if not schema or name in _OF_SCHEMA)

    @classmethod
    async def of(cls, connection: Reader, *, schema: bool) -> Catalogs:
        """Read the names of the catalogs and of their columns."""
        rows = await connection.fetch(
            """
            SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) AS columns
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared
              AND has_table_privilege(c.oid, 'SELECT') AND a.attnum > 0 AND NOT a.attisdropped
            GROUP BY c.relname ORDER BY c.relname
            """
        )
        return cls(
            {str(row["relname"]): row["columns"] for row in rows if row["relname"] not in STATISTICS},
            schema=schema,
        )

    async def extents(
        self,
        connection: Reader,
        names: Collection[str],
        scope: Sequence[int],
        only: Iterable[str] | None = None,
    ) -> dict[str, Extent]:
        """Read the fingerprint of some or all catalogs.

        Args:
            connection: connection to the database.
            names: texts that are replaced before hashing (``Site.names``).
            scope: OIDs of schema and login, or empty for a whole database.
            only: names of the catalogs, or ``None`` for all.
        """
        parts = [self._extent(name, len(scope) + 1) for name in (self.names if only is None else only)]
        if not parts:
            return {}
        pattern = rf"\m({'|'.join(names)})\M"
        rows = await connection.fetch(self._query(parts), *scope, pattern)
        return {
            str(row["catalog"]): Extent(int(row["own"]), int(row["present"]), str(row["content"] or ""))
            for row in rows
        }

    async def changes(
        self, connection: Reader, since: int, scope: Sequence[int], names: Iterable[str]
    ) -> dict[str, Change]:
        """Count the rows of these catalogs, and those that were written since the transaction ``since``."""
        parts = [self._change(name, len(scope) + 1) for name in names]
        if not parts:
            return {}
        rows = await connection.fetch(self._query(parts), *scope, xid(since))
        return {
            str(row["catalog"]): Change(
                int(row["own"]), int(row["present"]), int(row["own_written"]), int(row["written"])
            )
            for row in rows
        }

    async def described(
        self, connection: Reader, since: int, scope: Sequence[int], names: Iterable[str]
    ) -> list[str]:
        """Describe objects that were defined since a transaction, as PostgreSQL does. Tables come first.

        The list has at most ``_MOST_DESCRIBED`` entries, and no objects that were dropped.
        """
        parts = [self._described(name, len(scope) + 1) for name in names if name in _NAMED]
        if not parts:
            return []
        query = f"SELECT what FROM ({self._query(parts)}) found ORDER BY rank, what LIMIT {_MOST_DESCRIBED}"
        return [str(row["what"]) for row in await connection.fetch(query, *scope, xid(since))]

    def _query(self, parts: Iterable[str]) -> str:
        return f"{_WITH_NUMBERS if self._schema else ''} {' UNION ALL '.join(parts)}"

    def _described(self, name: str, since_at: int) -> str:
        return (
            f"SELECT {int(name != 'pg_class')} AS rank, pg_describe_object('{name}'::regclass, oid, 0) AS what "
            f"FROM {name} WHERE {self._where(name)} AND {self._ours(name)} AND {written_since(f'${since_at}')} "
            f"AND {_NAMED[name]}"
        )

    def _extent(self, name: str, pattern_at: int) -> str:
        columns = ", ".join(
            quoted(column) for column in self._columns[name] if column not in _IGNORED.get(name, ())
        )
        row = f"regexp_replace(ROW({columns})::text, ${pattern_at}::text, '\x01', 'g') COLLATE \"C\""
        ours = self._ours(name)
        return (
            f"SELECT '{name}' AS catalog, count(*) FILTER (WHERE NOT {ours}) AS own, "
            f"count(*) FILTER (WHERE {ours}) AS present, "
            f"md5(string_agg({row}, E'\\n' ORDER BY {row}) FILTER (WHERE {ours})) AS content "
            f"FROM {name} WHERE {self._where(name)}"
        )

    def _change(self, name: str, since_at: int) -> str:
        ours, written = self._ours(name), written_since(f"${since_at}")
        return (
            f"SELECT '{name}' AS catalog, count(*) FILTER (WHERE NOT {ours}) AS own, "
            f"count(*) FILTER (WHERE {ours}) AS present, "
            f"count(*) FILTER (WHERE NOT {ours} AND {written}) AS own_written, "
            f"count(*) FILTER (WHERE {ours} AND {written}) AS written "
            f"FROM {name} WHERE {self._where(name)}"
        )

    def _ours(self, name: str) -> str:
        """Write the condition for rows that are hashed: all rows of a schema, and of a catalog without OIDs."""
        number = "oid" if "oid" in self._columns[name] else _NUMBER.get(name)
        return "true" if self._schema or number is None else f"{number}::oid >= {FIRST_OID}"

    def _where(self, name: str) -> str:
        # Every query uses both parameters, so that PostgreSQL knows their types.
        scope = f"({_OF_SCHEMA[name]}) AND $1::oid <> $2::oid" if self._schema else "true"
        return f"({scope}) AND {_TEMPORARY.get(name, 'true')}"
