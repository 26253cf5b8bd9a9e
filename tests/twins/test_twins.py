"""A reused database is like a fresh one: every action of the holders, then every probe of the next lease.

A difference is either on the list of reasons (``REASONS``), or a fault of the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from freshdb_service.lifecycle import Isolation as PoolIsolation
from freshdb_service.postgres import Login, Server, ServerOptions
from tests.integration.postgres.conftest import managed, plain_role
from tests.integration.postgres.stage import Pool, build_template, pg_dump, pool_of
from tests.servers import PostgresServer
from tests.twins.compare import Observed, compare, observe
from tests.twins.holder_actions import ACTIONS, Holder, HolderAction, Isolation
from tests.twins.reasons import Role, without_reason

# Markers in catalogs of the whole server are visible in every database, so these tests do not run side by side.
pytestmark = pytest.mark.xdist_group("twins")
TEMPLATE: Final = Path(__file__).with_name("template.sql").read_text(encoding="utf-8")
CASES: Final = [(action, isolation) for action in ACTIONS for isolation in action.isolations]

_fresh: dict[tuple[int, str, Isolation], Observed] = {}
"""The observations of fresh databases, by version, role and isolation. A difference is compared with one more."""


@asynccontextmanager
async def _server(postgres: PostgresServer, role: Role) -> AsyncIterator[Server]:
    options = ServerOptions(pg_dump=pg_dump(), command_timeout_seconds=30)
    async with AsyncExitStack() as stack:
        dsn = (
            postgres.dsn if role == "superuser" else await stack.enter_async_context(plain_role(postgres.dsn))
        )
        yield await stack.enter_async_context(managed(dsn, options))


def _dsn(server: Server, login: Login) -> str:
    return make_conninfo(
        "",
        host=server.host,
        port=server.port,
        user=login.user,
        password=login.password,
        dbname=login.database,
    )


async def _observe_fresh(pool: Pool, isolation: Isolation) -> Observed:
    database_id = uuid4()
    login = await pool.provision(database_id)
    try:
        return await asyncio.to_thread(observe, _dsn(pool.server, login), isolation)
    finally:
        await pool.drop(database_id)


async def _act(pool: Pool, postgres: PostgresServer, action: HolderAction) -> tuple[Login, list[str]]:
    """Carry out an action, with a reset after each of its leases. Return the last login, and the paths of the resets."""
    database_id = uuid4()
    login, paths = await pool.provision(database_id), list[str]()
    for generation, work in enumerate(action.leases, 2):
        with closing(Holder(_dsn(pool.server, login))) as holder:
            await asyncio.to_thread(work, holder)
            for statement in action.needs:
                await asyncio.to_thread(_as_superuser, postgres, login.database, statement)
            outcome = await pool.reset(database_id, generation)
        login = outcome.login
        paths.append(outcome.path if outcome.cause is None else f"{outcome.path} ({outcome.cause})")
    return login, paths


def _as_superuser(postgres: PostgresServer, database: str, statement: str) -> None:
    with psycopg.connect(make_conninfo(postgres.dsn, dbname=database), autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("role", ["superuser", "plain"])
@pytest.mark.parametrize(
    ("action", "isolation"), CASES, ids=[f"{action.name}, {isolation}" for action, isolation in CASES]
)
async def test_a_reused_database_is_like_a_fresh_one(
    action: HolderAction, isolation: Isolation, role: Role, postgres: PostgresServer
) -> None:
    if postgres.major < action.minimum_version:
        pytest.skip(f"needs PostgreSQL {action.minimum_version}")
    async with _server(postgres, role) as server:
        template = await build_template(server, TEMPLATE)
        pool = await pool_of(server, PoolIsolation(isolation), template)
        key = (postgres.major, role, isolation)
        if key not in _fresh:
            _fresh[key] = await _observe_fresh(pool, isolation)
        login, paths = await _act(pool, postgres, action)
        reused = await asyncio.to_thread(observe, _dsn(server, login), isolation)
        differences = without_reason(compare(_fresh[key], reused), isolation, role)
        if differences:  # compared with a copy of the same template
            fresh = await _observe_fresh(pool, isolation)
            differences = without_reason(compare(fresh, reused), isolation, role)
        assert not differences, "\n".join([", ".join(paths), *map(str, differences)])
