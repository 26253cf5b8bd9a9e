"""Vacuum the control plane's tables, where autovacuum is off, as it is on the embedded server."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from freshdb_service.store.connection import Connection

_DUE: Final = text(
    """
    SELECT string_agg(s.relid::regclass::text, ', ') FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
    WHERE NOT current_setting('autovacuum')::bool
      AND (s.n_dead_tup > 50 + 0.2 * greatest(c.reltuples, 0)
           OR s.n_mod_since_analyze > 50 + 0.1 * greatest(c.reltuples, 0))
    """
)
"""The tables that autovacuum would visit with its default settings."""


async def vacuum_tables(connection: Connection) -> None:
    """Vacuum and analyse the tables that have changed much.

    Args:
        connection: connection on which every statement is a transaction (``Store.statement``).

    Raises:
        BackendUnavailable: the control plane is unavailable.
    """
    due = await connection.scalar(_DUE)
    if due:
        await connection.execute(text(f"VACUUM (SKIP_LOCKED, ANALYZE) {due}"))
