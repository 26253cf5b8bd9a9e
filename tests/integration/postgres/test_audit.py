"""Audits: writes that PostgreSQL did not count, and that resets cannot see, are found by a full comparison."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import CleaningEngine, Login, ResetOutcome, Server
from tests.integration.postgres.stage import Pool, build_template, connected, pool_of

TEMPLATE = """
CREATE TABLE fruit (id serial PRIMARY KEY, name text, t int);  -- t: a column that is called like an alias in a query
INSERT INTO fruit (name) VALUES ('apple'), ('pear');
CREATE TABLE basket (id serial PRIMARY KEY);
"""

SECRET_WORK = {
    "INSERT INTO {0}.basket DEFAULT VALUES": "the table {1}basket has 1 rows instead of 0",
    "UPDATE {0}.fruit SET name = 'fig' WHERE name = 'pear'": "rows of the table {1}fruit differ",
    "SELECT setval('{0}.basket_id_seq', 7)": "the sequence {1}basket_id_seq is at 7 (called) instead of 1 (not called)",
    "CREATE TABLE {0}.secret ()": "the table {1}secret should not be there",
    "COMMENT ON TABLE {0}.fruit IS 'ripe'": "entries in pg_description differ",
}


class Audited:
    """A database whose every reset is audited."""

    def __init__(self, pool: Pool) -> None:
        pool.engine = CleaningEngine(audit_every=1)
        self.pool = pool
        self.database_id: UUID = uuid4()
        self.generation = 1

    @property
    def login(self) -> Login:
        """The login of the present generation."""
        return self.pool.logins[self.database_id]

    async def reset(self) -> ResetOutcome:
        self.generation += 1
        return await self.pool.reset(self.database_id, self.generation)


async def audited(server: Server, isolation: Isolation) -> Audited:
    one = Audited(await pool_of(server, isolation, await build_template(server, TEMPLATE)))
    await one.pool.provision(one.database_id)
    first = await one.reset()
    assert (first.path, first.audit) == ("rebuild", None)
    assert "fresh copy" in first.reason
    return one


async def in_secret(server: Server, login: Login, sql: str) -> None:
    """Write as a superuser whose writes are not counted."""
    async with server.sessions.inside(login.database) as session:
        await session.execute(sql.format(login.schema or "public"))


async def test_audited_database_equals_its_template(server: Server, isolation: Isolation) -> None:
    here = await audited(server, isolation)
    for path, sql in (
        ("nothing", "SELECT 1"),
        ("delete", "INSERT INTO basket DEFAULT VALUES; INSERT INTO fruit (name) VALUES ('fig')"),
        ("reload", "UPDATE fruit SET name = upper(name)"),
        ("sequences", "SELECT nextval('fruit_id_seq')"),
    ):
        async with connected(server, here.login) as connection:
            await connection.execute(sql)
        outcome = await here.reset()
        assert (outcome.path, outcome.audit) == (path, ()), outcome.reason


@pytest.mark.parametrize("sql", SECRET_WORK)
async def test_audit_finds_uncounted_write_and_database_is_rebuilt(
    server: Server, isolation: Isolation, sql: str
) -> None:
    here = await audited(server, isolation)
    await in_secret(server, here.login, sql)
    outcome = await here.reset()
    expected = SECRET_WORK[sql].format("", "" if isolation is Isolation.SCHEMA else "public.")
    assert outcome.path == "rebuild"
    assert outcome.audit is not None
    assert expected in outcome.audit
    again = await here.reset()
    assert (again.path, again.audit) == ("nothing", ())


async def test_audit_every_sets_share_of_audited_resets(server: Server, isolation: Isolation) -> None:
    here = await audited(server, isolation)
    here.pool.engine = CleaningEngine(audit_every=3)
    await here.pool.drop(here.database_id)
    await here.pool.provision(here.database_id)
    seen = [(await here.reset()).audit for _ in range(9)]
    assert seen == [None, None, None, None, None, (), None, None, ()]
