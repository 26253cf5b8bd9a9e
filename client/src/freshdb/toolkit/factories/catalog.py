"""The rules of PostgreSQL's catalogs for the rows of a table: types, lengths, labels, defaults, CHECKs and unique keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK constraint, of a table or of a domain.

    Attributes:
        columns: columns in the expression.
        expression: SQL with the names of the columns.
    """

    name: str
    columns: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        declared: type as it is declared, for casts.
        type: this type, or the base type of a domain, without limits: ``character varying``, ``numeric``, ``integer[]``.
        limits: length, or precision and scale.
        labels: labels of an enum.
        has_default: true for a column with a default or an identity.
        sequence: quoted name of the sequence of its default.
    """

    name: str
    declared: str
    type: str
    limits: tuple[int, ...]
    labels: tuple[str, ...]
    nullable: bool
    has_default: bool
    sequence: str | None


@dataclass(frozen=True, slots=True)
class TableCatalog:
    """The rules of one table, without generated columns, which cannot be written.

    Attributes:
        key: columns of the primary key.
        uniques: sets of columns that are unique together, including the primary key.
        checks: constraints of the table, of its domains, and of the partitions of a partitioned table.
    """

    columns: dict[str, Column]
    key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]


def read_catalog(connection: Connection, schema: str | None, table: str) -> TableCatalog:
    """Read the rules of one table, in two round trips."""
    name = {"schema": schema, "table": table}
    columns: dict[str, Column] = {}
    checks: list[Check] = []
    for row in connection.execute(_COLUMNS, name):
        kind = re.sub(r"\(([\d,]+)\)", "", row.type)
        limits = re.search(r"\(([\d,]+)\)", row.type)
        columns[row.name] = Column(
            row.name,
            row.declared,
            kind,
            tuple(int(one) for one in limits.group(1).split(",")) if limits else (),
            tuple(row.labels or ()),
            row.nullable,
            row.has_default,
            row.sequence,
        )
        quoted = '"' + row.name.replace('"', '""') + '"'
        checks += [
            Check(row.declared, (row.name,), re.sub(r"\bVALUE\b", lambda _: quoted, expression))  # noqa: B023 - used at once
            for expression in row.domain_checks or ()
        ]
    key: tuple[str, ...] = ()
    uniques: list[tuple[str, ...]] = []
    for row in connection.execute(_CONSTRAINTS, name):
        named = tuple(column for column in columns if column in row.columns)
        if row.kind == "check":
            if len(named) == len(row.columns):  # otherwise it has generated columns, which cannot be checked
                checks.append(Check(row.name, named, row.expression))
            continue
        named += tuple(
            one for one in columns if row.expression and re.search(rf"\b{re.escape(one)}\b", row.expression)
        )
        uniques.append(named)
        if row.kind == "key":
            key = tuple(row.columns)
    return TableCatalog(columns, key, tuple(uniques), tuple(checks))


def failing_rows(
    connection: Connection,
    catalog: TableCatalog,
    checks: Sequence[Check],
    rows: Sequence[Sequence[str | None]],
    columns: Sequence[str],
) -> dict[Check, set[int]]:
    """Return the numbers of the rows that violate each check, as PostgreSQL evaluates it."""
    casts = ", ".join(
        f"CAST(v{at} AS {catalog.columns[name].declared}) AS {quoted(name)}"
        for at, name in enumerate(columns)
    )
    values = ", ".join(f"CAST(:v{at} AS text[])" for at in range(len(columns)))
    names = ", ".join(f"v{at}" for at in range(len(columns)))
    results = ", ".join(
        f"array_agg(n) FILTER (WHERE ({_escaped(check.expression)}) IS FALSE)" for check in checks
    )
    statement = text(
        f"SELECT {results} FROM (SELECT n - 1 AS n, {casts} "
        f"FROM unnest({values}) WITH ORDINALITY AS given({names}, n)) AS candidate"
    )
    given = {f"v{at}": [row[at] for row in rows] for at in range(len(columns))}
    found = connection.execute(statement, given).one()
    return {check: set(numbers or ()) for check, numbers in zip(checks, found, strict=True)}


def quoted(name: str) -> str:
    """Quote an identifier for SQLAlchemy's ``text``."""
    return '"' + _escaped(name.replace('"', '""')) + '"'


def _escaped(sql: str) -> str:
    return sql.replace(":", "\\:")


_COLUMNS: Final = text(r"""
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS declared,
       format_type(b.oid, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END) AS type,
       NOT (a.attnotnull OR t.typnotnull) AS nullable,
       d.adbin IS NOT NULL OR a.attidentity <> '' AS has_default,
       coalesce(pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname),
                substring(pg_get_expr(d.adbin, d.adrelid) FROM 'nextval\(''(.+)''\:\:regclass\)')) AS sequence,
       (SELECT array_agg(enumlabel\:\:text ORDER BY enumsortorder) FROM pg_enum
        WHERE enumtypid IN (b.oid, b.typelem)) AS labels,
       (SELECT array_agg(pg_get_expr(conbin, 0)) FROM pg_constraint
        WHERE contypid = t.oid AND contype = 'c') AS domain_checks
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
     JOIN pg_type t ON t.oid = a.atttypid
     JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
     LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = coalesce(:schema, current_schema()) AND c.relname = :table
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
""")

_CONSTRAINTS: Final = text(r"""
WITH it AS (SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = coalesce(:schema, current_schema()) AND c.relname = :table)
SELECT 'check' AS kind, k.conname\:\:text AS name, pg_get_expr(k.conbin, k.conrelid) AS expression,
       (SELECT array_agg(attname\:\:text) FROM pg_attribute a
        WHERE a.attrelid = it.oid AND a.attnum = ANY (k.conkey)) AS columns
FROM it JOIN pg_constraint k ON k.conrelid = it.oid AND k.contype = 'c' AND k.conkey IS NOT NULL
UNION ALL
SELECT CASE WHEN i.indisprimary THEN 'key' ELSE 'unique' END, '', pg_get_expr(i.indexprs, i.indrelid),
       (SELECT coalesce(array_agg(a.attname\:\:text ORDER BY p.at), '{}')
        FROM unnest(i.indkey\:\:int2[]) WITH ORDINALITY AS p(number, at)
             JOIN pg_attribute a ON a.attrelid = it.oid AND a.attnum = p.number
        WHERE p.at <= i.indnkeyatts)
FROM it JOIN pg_index i ON i.indrelid = it.oid AND i.indisunique
UNION ALL
SELECT 'check', 'its partitions', string_agg('(' || pg_get_partition_constraintdef(h.inhrelid) || ')', ' OR '),
       (SELECT array_agg(a.attname\:\:text) FROM pg_partitioned_table p JOIN pg_attribute a
            ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs\:\:int2[]) WHERE p.partrelid = it.oid)
FROM it JOIN pg_inherits h ON h.inhparent = it.oid
WHERE it.relkind = 'p' AND NOT EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = it.oid AND p.partdefid <> 0)
GROUP BY it.oid
""")
