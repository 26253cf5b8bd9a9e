"""The auditor: now and then, a database that was just cleaned is compared in full with a fresh copy of its template.

Resets go by what PostgreSQL counts. An audit does not: it reads every row of every table, every sequence and every entry of
the catalogs. It costs as much as all that takes to read, and so only one reset in many is audited. What it finds is a fault
of freshdb's, or somebody wrote behind its back (a superuser can write without being counted).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from freshdb_service.postgres.reset.catalog_fingerprint import Extent
from freshdb_service.postgres.reset.table_model import (
    Qualified,
    TableModel,
    full_name,
    sequences_query,
    shown,
    states_of,
)
from freshdb_service.postgres.server.connections import Reader


@dataclass(frozen=True, slots=True)
class Digest:
    """All that a database holds, small enough to be kept.

    Attributes:
        tables: of each, the number of its rows and the sum of their hashes, which their order does not change.
        sequences: the state of each (``last_value``, ``is_called``).
    """

    tables: Mapping[Qualified, tuple[int, str]]
    sequences: Mapping[Qualified, tuple[int, bool]]


async def read_digest(connection: Reader, version: int, picture: TableModel, *, schema: str | None) -> Digest:
    """Read everything that a database, or one schema in it, holds.

    Args:
        connection: inside the database.
        version: of the server.
        picture: of the template: which sequences there are, for servers that cannot list their states.
        schema: isolation ``schema``: its name.
    """
    tables: dict[Qualified, tuple[int, str]] = {}
    for found in await connection.fetch(_TABLES, schema):
        name: Qualified = (found["schema"], found["name"])
        [row] = await connection.fetch(_ROWS.replace("{table}", full_name(name, schema)))
        tables[name] = (row["rows"], row["content"])
    states = await connection.fetch(sequences_query(version, picture.sequences, schema))
    return Digest(tables, states_of(states))


def differences(expected: Digest, found: Digest) -> Iterator[str]:
    """Say in words what is not as it should be."""
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
    """The same of definitions, by catalog."""
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            yield f"entries in {name} differ"


def _state(state: tuple[int, bool] | None) -> str:
    return "nothing" if state is None else f"{state[0]} ({'called' if state[1] else 'not called'})"


_TABLES: Final = """
SELECT CASE WHEN $1::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND ($1::text IS NULL OR n.nspname = $1::text)
"""

_ROWS: Final = """
SELECT count(*) AS rows, coalesce(sum(hashtextextended((t.*)::text COLLATE "C", 0)::numeric), 0)::text AS content
FROM ONLY {table} t
"""
