"""The control plane's tables stay small where autovacuum is off."""

from __future__ import annotations

import psycopg

from freshdb_service.store.connection import Store
from freshdb_service.store.vacuum import vacuum_tables
from tests.integration.store.plane import Plane

DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'grown'"


async def test_tables_are_vacuumed_after_many_changes(
    plane: Plane, store: Store, superuser: psycopg.Connection[object]
) -> None:
    del plane
    assert superuser.execute("SHOW autovacuum").fetchone() == ("off",)
    superuser.execute("CREATE TABLE grown (n integer)")
    superuser.execute("INSERT INTO grown SELECT generate_series(1, 1000)")
    superuser.execute("UPDATE grown SET n = n + 1")
    superuser.execute("SELECT pg_stat_force_next_flush()")
    assert superuser.execute(DEAD).fetchone() == (1000,)
    async with store.statement() as connection:
        await vacuum_tables(connection)
    assert superuser.execute(DEAD).fetchone() == (0,)
    superuser.execute("DROP TABLE grown")
