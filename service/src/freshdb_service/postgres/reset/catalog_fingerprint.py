"""The fingerprint of catalogs: how a database's, or a schema's, definitions are compared with what they were.

Every system catalog that belongs to one database is covered, with every column, because the list is read from the server's
own catalogs: whatever kind of object a version of PostgreSQL knows, its owner, privileges, comments and options are in one
of them. Left out are statistics (``pg_statistic``, ``pg_statistic_ext_data``), where a relation's storage lies and how full
it is, hints that PostgreSQL clears when it pleases, and the schemas of temporary objects, which are made once and stay.

Two questions are asked of a catalog, the cheap one first.

1. *Has a row been written since the mark, or does the number of rows differ?* ``xmin`` answers the first part. Objects that
   were made and dropped again, as temporary tables are, or whose transaction was rolled back, leave neither.
2. *Is the content the same?* A hash over all rows, with the names of login and schema and the login's number replaced:
   those change with every generation, and clones of one template differ in nothing else. A truncated table has a new row in
   ``pg_class`` that says the same as the old one.

PostgreSQL's own rows (numbers below 16384) are not hashed: a login may write few of them, and one that was written, or is
missing, counts as a change.

``age()`` decides what was written after the mark. It is exact as long as fewer than 2^31 transactions have passed since.
Rows that were there before can look younger than they are once their own number has wrapped around; they are hashed, then.
None ever looks older.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from freshdb_service.postgres.names import quoted
from freshdb_service.postgres.server.connections import Reader

FIRST_OID: Final = 16384
"""Lower numbers are PostgreSQL's own objects."""

STATISTICS: Final = frozenset({"pg_statistic", "pg_statistic_ext_data"})

_IGNORED: Final[Mapping[str, frozenset[str]]] = {
    "pg_class": frozenset(
        {
            "relfilenode",
            "relpages",
            "reltuples",
            "relallvisible",
            "relallfrozen",
            "relfrozenxid",
            "relminmxid",
            "relhasindex",
            "relhasrules",
            "relhastriggers",
            "relhassubclass",
        }
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
"""The column that says which object a row is about, where it is not ``oid``."""

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
"""Catalogs whose entries a person would name, and which of them: others are there because of these."""

_MOST_DESCRIBED: Final = 20


def _of(name: str) -> str:
    """The numbers of a schema's objects of one kind, as an array.

    Found once for a whole query (``_NUMBERS``), whatever of it asks for them. And PostgreSQL takes an array of unknown
    length for a short one, and so looks up what belongs to those objects by index; to join them, it would read all catalogs
    of a shared database.
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
"""What a schema (``$1``) holds, by the catalogs that other catalogs refer to."""

_TOAST: Final = f"SELECT reltoastrelid FROM pg_class WHERE oid = ANY {_of('pg_class')}"

_WITH_NUMBERS: Final = "WITH " + ", ".join(
    f"of_{name} (numbers) AS MATERIALIZED (SELECT ARRAY({query}))"
    for name, query in (*_NUMBERS.items(), ("toast", _TOAST))
)


def _about(kind: str, number: str) -> str:
    """That a row is about an object of the schema's."""
    return " OR ".join(f"{kind} = '{name}'::regclass AND {number} = ANY {_of(name)}" for name in _NUMBERS)


_OF_SCHEMA: Final[Mapping[str, str]] = {
    "pg_aggregate": f"aggfnoid::oid = ANY {_of('pg_proc')}",
    "pg_attrdef": f"oid = ANY {_of('pg_attrdef')}",
    "pg_attribute": f"attrelid = ANY {_of('pg_class')}",
    "pg_cast": " OR ".join(
        (
            f"castsource = ANY {_of('pg_type')}",
            f"casttarget = ANY {_of('pg_type')}",
            f"castfunc = ANY {_of('pg_proc')}",
        )
    ),
    "pg_class": f"oid = ANY {_of('pg_class')} OR oid = ANY {_of('toast')}",
    "pg_collation": f"oid = ANY {_of('pg_collation')}",
    "pg_constraint": f"oid = ANY {_of('pg_constraint')}",
    "pg_conversion": f"oid = ANY {_of('pg_conversion')}",
    "pg_default_acl": "defaclrole = $2 OR defaclnamespace = $1",
    "pg_depend": _about("classid", "objid"),
    "pg_description": _about("classoid", "objoid"),
    "pg_enum": f"enumtypid = ANY {_of('pg_type')}",
    "pg_index": f"indrelid = ANY {_of('pg_class')}",
    "pg_inherits": f"inhrelid = ANY {_of('pg_class')}",
    "pg_largeobject_metadata": "lomowner = $2",
    "pg_namespace": "oid = $1",
    "pg_opclass": f"oid = ANY {_of('pg_opclass')}",
    "pg_operator": f"oid = ANY {_of('pg_operator')}",
    "pg_opfamily": f"oid = ANY {_of('pg_opfamily')}",
    "pg_partitioned_table": f"partrelid = ANY {_of('pg_class')}",
    "pg_policy": f"oid = ANY {_of('pg_policy')}",
    "pg_proc": f"oid = ANY {_of('pg_proc')}",
    "pg_range": f"rngtypid = ANY {_of('pg_type')}",
    "pg_rewrite": f"oid = ANY {_of('pg_rewrite')}",
    "pg_sequence": f"seqrelid = ANY {_of('pg_class')}",
    "pg_statistic_ext": f"oid = ANY {_of('pg_statistic_ext')}",
    "pg_trigger": f"oid = ANY {_of('pg_trigger')}",
    "pg_ts_config": f"oid = ANY {_of('pg_ts_config')}",
    "pg_ts_config_map": f"mapcfg = ANY {_of('pg_ts_config')}",
    "pg_ts_dict": f"oid = ANY {_of('pg_ts_dict')}",
    "pg_type": f"oid = ANY {_of('pg_type')}",
}
"""What of a catalog belongs to one schema (``$1``) or its login (``$2``); in the others that login can write nothing."""


def written_since(parameter: str, alias: str | None = None) -> str:
    """The condition that a row was written since the transaction that ``parameter`` names (``xid``)."""
    xmin = f"{alias}.xmin" if alias else "xmin"
    return f"age({xmin}) <= age({parameter}::text::xid)"


def xid(full: int) -> str:
    """A full transaction id as the value of such a parameter."""
    return str(full % 2**32)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a catalog holds, and what: what two moments are compared by."""

    own: int
    """Rows of PostgreSQL's own objects."""
    rows: int
    """All other rows."""
    content: str
    """Hash over these."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a catalog since the mark, as far as the cheap question can tell."""

    own: int
    rows: int
    own_written: int
    written: int


class Catalogs:
    """The catalogs of one version of PostgreSQL, as far as our role may read them, and the queries over them.

    ``schema`` limits everything to one schema and its login; their numbers are then the queries' ``$1`` and ``$2``.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], *, schema: bool) -> None:
        self._columns = columns
        self._schema = schema
        self.names = tuple(name for name in columns if not schema or name in _OF_SCHEMA)

    @classmethod
    async def of(cls, connection: Reader, *, schema: bool) -> Catalogs:
        """Read which there are."""
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
        """Count and hash these catalogs, or all of them.

        Args:
            connection: inside the database.
            names: of login and schema, and the login's number; they are replaced.
            scope: the numbers of schema and login; empty for a whole database.
            only: which catalogs.
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
        """Count what these catalogs hold, and what of it was written since the transaction ``since``."""
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
        """What was defined since a transaction, in PostgreSQL's words; at most ``_MOST_DESCRIBED``, tables first.

        What was dropped has left no name.
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
        """Rows that are hashed; of a schema, and of a catalog whose rows cannot be told apart, all of them."""
        number = "oid" if "oid" in self._columns[name] else _NUMBER.get(name)
        return "true" if self._schema or number is None else f"{number}::oid >= {FIRST_OID}"

    def _where(self, name: str) -> str:
        # Both numbers are named in every query, so that their types are known.
        scope = f"({_OF_SCHEMA[name]}) AND $1::oid <> $2::oid" if self._schema else "true"
        return f"({scope}) AND {_TEMPORARY.get(name, 'true')}"
