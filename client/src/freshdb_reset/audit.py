"""The audit: a full comparison of a database with the content of its template.

A reset relies on the statistics that PostgreSQL counts. An audit does not: it reads every row of every table with its
position, every sequence, every row of the catalogs, and what the planner reads. That costs a full read of the database, so
only a sample of resets is audited. A difference is a fault of freshdb, or a superuser wrote to the database, who can write
without being counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from freshdb_reset.catalog_fingerprint import Catalogs, Extent
from freshdb_reset.clean_state import CleanState
from freshdb_reset.connection import Reader, Rights
from freshdb_reset.storage import Storage, read_storage
from freshdb_reset.table_model import Qualified, TableModel, full_name, sequences_query, shown, states_of


@dataclass(frozen=True, slots=True)
class Digest:
    """Content of a database, small enough to be kept in memory.

    Attributes:
        tables: number of rows of each table, and the sum of their hashes, with or without their positions.
        sequences: state of each sequence (``last_value``, ``is_called``).
    """

    tables: Mapping[Qualified, tuple[int, str]]
    sequences: Mapping[Qualified, tuple[int, bool]]


async def read_digest(
    connection: Reader, version: int, model: TableModel, *, schema: str | None, positions: bool
) -> Digest:
    """Read the whole content of a database, or of one schema in it.

    Args:
        connection: connection to the database.
        version: version of the server (``server_version_num``).
        model: model of the template, whose sequences are read on servers that cannot list their states.
        schema: name of the schema, or ``None`` for the whole database.
        positions: true if rows at other positions, and so perhaps in another order, are a difference.
    """
    rows = _ROWS.replace("{row}", f"ctid::text || {_ROW}" if positions else _ROW)
    tables: dict[Qualified, tuple[int, str]] = {}
    for found in await connection.fetch(_TABLES, schema):
        name: Qualified = (found["schema"], found["name"])
        [row] = await connection.fetch(rows.replace("{table}", full_name(name, schema)))
        tables[name] = (row["rows"], row["content"])
    states = await connection.fetch(sequences_query(version, model.sequences, schema))
    return Digest(tables, states_of(states))


def differences(expected: Digest, found: Digest) -> Iterator[str]:
    """Describe each table and sequence that differs."""
    for name in sorted({*expected.tables, *found.tables}):
        should, there = expected.tables.get(name), found.tables.get(name)
        if should is None or there is None:
            yield f"the table {shown(name)} {'should not be there' if should is None else 'is missing'}"
        elif should[0] != there[0]:
            yield f"the table {shown(name)} has {there[0]} rows instead of {should[0]}"
        elif should != there:
            yield f"rows of the table {shown(name)} differ"
    for name in sorted({*expected.sequences, *found.sequences}):
        if expected.sequences.get(name) != found.sequences.get(name):
            yield (
                f"the sequence {shown(name)} is at {_state(found.sequences.get(name))} "
                f"instead of {_state(expected.sequences.get(name))}"
            )


def differences_of_catalogs(expected: Mapping[str, Extent], found: Mapping[str, Extent]) -> Iterator[str]:
    """Describe each catalog whose fingerprint differs."""
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            yield f"entries in {name} differ"


def differences_of_storage(
    expected: Mapping[Qualified, Storage], found: Mapping[Qualified, Storage], *, shared: bool
) -> Iterator[str]:
    """Describe each table whose planner statistics or sizes differ by more than a reset may leave."""
    for name, now in sorted(found.items()):
        then = expected.get(name)
        if then is None:
            continue  # described as a table that should not be there
        if now.statistics != then.statistics or not now.equals_in_catalog(then, shared=shared):
            yield f"planner statistics of the table {shown(name)} differ"
        longer = bool(then.pages) and now.pages != then.pages
        if longer or now.total > max(then.bound, then.spacious):
            yield f"the table {shown(name)} has {now.total} blocks instead of {then.total}"


async def audit_differences(
    connection: Reader, rights: Rights, catalogs: Catalogs, expected: CleanState, digest: Digest
) -> list[str]:
    """Compare a database that was just cleaned with its template.

    Args:
        connection: connection to the database.
        rights: what the connection allows.
        catalogs: catalogs of the server.
        expected: the state that it should have, with the login's present name.
        digest: digest of a fresh copy of the template.

    Returns:
        the differences.
    """
    site, baseline = expected.site, expected.known.baseline
    extents = await catalogs.extents(connection, site.names(baseline.numbers[0]), baseline.scope)
    found = await read_digest(
        connection, rights.version, expected.template.model, schema=site.schema, positions=True
    )
    storage = await read_storage(connection, rights, schema=site.schema)
    return [
        *differences(digest, found),
        *differences_of_catalogs(expected.extents, extents),
        *differences_of_storage(expected.template.storage or {}, storage, shared=site.schema is not None),
    ]


def _state(state: tuple[int, bool] | None) -> str:
    return "nothing" if state is None else f"{state[0]} ({'called' if state[1] else 'not called'})"


_TABLES: Final = """
SELECT CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR n.nspname = $1::text)
"""

_ROW: Final = "textin(record_out(t.*))"
"""A row as text. ``t::text`` would call a function of the template's author, if there is such a cast."""

_ROWS: Final = """
SELECT count(*) AS rows, coalesce(sum(hashtextextended({row} COLLATE "C", 0)::numeric), 0)::text AS content
FROM ONLY {table} t
"""
