"""Vacuum and analyse tables with rows once, so that every copy has the same planner statistics and visible rows.

Tables without rows are left alone. PostgreSQL treats a table that was never vacuumed in another way, and resets rely on it
(``freshdb_reset.plan``).
"""

from __future__ import annotations

import asyncio
from typing import Final

from freshdb_service.postgres.server.connections import SETTINGS, Connection

_ATTEMPTS: Final = 40
_PAUSE_SECONDS: Final = 0.05


async def vacuum(connection: Connection, options: str, tables: str, *, path: str) -> None:
    """Vacuum tables. Functions in their indexes run with this search path, and no other statement does.

    They run as the tables' owner, in PostgreSQL's restricted mode.
    """
    await connection.execute(f"SET search_path TO {path}")
    try:
        await connection.execute(f"VACUUM ({options}) {tables}")
    finally:
        await connection.execute(f"SET search_path TO {SETTINGS['search_path']}")


async def gather_statistics(connection: Connection, schema: str | None, *, path: str) -> None:
    """Vacuum and analyse the tables that have rows, in one schema or in all.

    A session that is just starting, in any database, delays when rows become visible to all. So this repeats the vacuum, for
    two seconds at most.
    """
    seeded = await connection.fetchval(_SEEDED, schema)
    if seeded is None:
        return
    await vacuum(connection, "FREEZE, ANALYZE, DISABLE_PAGE_SKIPPING", seeded, path=path)
    for _ in range(_ATTEMPTS):
        hidden = await connection.fetchval(_HIDDEN, schema)
        if hidden is None:
            return
        await asyncio.sleep(_PAUSE_SECONDS)
        await vacuum(connection, "FREEZE, DISABLE_PAGE_SKIPPING", hidden, path=path)


async def unset_empty_tables(connection: Connection, schema: str | None) -> None:
    """Let tables without rows, in one schema or in all, count as never vacuumed, as they did before the build vacuumed them.

    This takes a superuser. The tables and their indexes have the numbers of a table that was just truncated.
    """
    await connection.execute(_UNSET, schema)


_OF: Final = "($1::text IS NULL OR n.nspname = $1::text) AND c.oid >= 16384 AND c.relpersistence <> 't'"

_SEEDED: Final = f"""
SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OF}
  AND CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) > 0
           WHEN c.relkind = 'p' THEN EXISTS (SELECT FROM pg_partition_tree(c.oid) t WHERE t.isleaf
                                             AND pg_relation_size(t.relid) > 0) END
  AND NOT EXISTS (
      WITH RECURSIVE below AS (
          SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid
          UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.inhrelid
      ) SELECT FROM below b JOIN pg_class f ON f.oid = b.inhrelid WHERE f.relkind = 'f')
"""
"""Names of the tables that have rows. ``ANALYZE`` of a table with foreign tables below it would connect to their servers."""

_HIDDEN: Final = f"""
SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OF} AND c.relkind IN ('r', 'm') AND c.relallvisible < c.relpages
"""
"""Names of the tables with rows that are not visible to all."""

_UNSET: Final = f"""
WITH empty AS (
    SELECT c.oid, c.reltoastrelid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OF} AND c.relkind = 'r' AND c.relpages = 0 AND c.reltuples <= 0 AND pg_relation_size(c.oid) = 0
), parts AS (
    SELECT oid AS number FROM empty UNION ALL SELECT reltoastrelid FROM empty
    UNION ALL SELECT x.indexrelid FROM pg_index x JOIN empty ON x.indrelid IN (empty.oid, empty.reltoastrelid)
)
UPDATE pg_class c SET relpages = 0, reltuples = -1 FROM parts
WHERE c.oid = parts.number AND (c.relpages, c.reltuples) IS DISTINCT FROM (0, -1)
"""
