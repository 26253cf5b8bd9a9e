"""The catalogs that all databases share stay small where autovacuum is off."""

from __future__ import annotations

from uuid import uuid4

from freshdb_service.postgres import Server, vacuum_shared_catalogs

VACUUMED = "SELECT vacuum_count FROM pg_stat_sys_tables WHERE relname = 'pg_authid'"


async def test_shared_catalogs_are_vacuumed_after_many_writes(server_18: Server) -> None:
    role, now = f"many_{uuid4().hex[:8]}", await vacuum_shared_catalogs(server_18, 0)
    async with server_18.maintenance() as connection:
        await connection.execute(f"CREATE ROLE {role}")
        await connection.execute(
            "DO $$ BEGIN FOR n IN 1..1100 LOOP "
            f"EXECUTE format('ALTER ROLE {role} CONNECTION LIMIT %s', n); END LOOP; END $$"
        )
        await connection.execute(f"DROP ROLE {role}")
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        before = await connection.fetchval(VACUUMED)
    then = await vacuum_shared_catalogs(server_18, now)
    assert then - now >= 1100
    assert await vacuum_shared_catalogs(server_18, then) == then
    async with server_18.maintenance() as connection:
        assert await connection.fetchval(VACUUMED) == before + 1
