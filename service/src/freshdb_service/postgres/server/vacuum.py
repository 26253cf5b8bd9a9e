"""Vacuum the catalogs that all databases of a server share, where autovacuum is off, as it is on the embedded server.

Autovacuum is off there because it would gather statistics in leased databases. Each reset cleans the catalogs of its own
database (``reset.cleaning_engine``).
"""

from __future__ import annotations

from typing import Final

from freshdb_service.postgres.server.server import Server

_DEAD_ROWS: Final = 1_000
"""Number of rows that are written to shared catalogs before a vacuum."""

_WRITES: Final = """
SELECT current_setting('autovacuum')::bool AS by_itself,
       pg_stat_get_db_tuples_inserted(0) + pg_stat_get_db_tuples_updated(0) + pg_stat_get_db_tuples_deleted(0) AS writes
"""

_SHARED: Final = """
SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relisshared AND relkind = 'r'
"""


async def vacuum_shared_catalogs(server: Server, vacuumed_at: int) -> int:
    """Vacuum the shared catalogs if many of their rows were written.

    Args:
        server: where.
        vacuumed_at: number of writes at the last vacuum, or 0.

    Returns:
        the number of writes at the last vacuum, for the next call.

    Raises:
        BackendUnavailable: the server is unavailable.
    """
    if not server.is_superuser:
        return vacuumed_at
    async with server.maintenance() as connection:
        row = await connection.fetchrow(_WRITES)
        if row is None or row["by_itself"] or row["writes"] - vacuumed_at < _DEAD_ROWS:
            return vacuumed_at
        catalogs = await connection.fetchval(_SHARED)
        await connection.execute(f"VACUUM (SKIP_LOCKED, ANALYZE) {catalogs}")
        return int(row["writes"])
