from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from freshdb_service.errors import BackendUnavailable
from freshdb_service.store.session import ConstraintViolated, Store
from tests.servers import PostgresServer


@pytest.fixture
async def store(postgres_18: PostgresServer) -> AsyncIterator[Store]:
    store = Store(postgres_18.dsn)
    yield store
    await store.close()


def raising(sqlstate: str) -> str:
    return f"do $$ begin raise exception 'no' using errcode = '{sqlstate}'; end $$"


@pytest.mark.parametrize("sqlstate", ["57P01", "57P03", "53100", "53200"])
async def test_a_server_that_refuses_is_away_also_while_its_connection_is_open(
    store: Store, sqlstate: str
) -> None:
    with pytest.raises(BackendUnavailable, match="control plane"):
        async with store.driver() as driver:
            await driver.execute(raising(sqlstate))
    await store.ping()


async def test_a_constraint_is_no_outage(store: Store) -> None:
    with pytest.raises(ConstraintViolated):
        async with store.driver() as driver:
            await driver.execute(raising("23505"))


async def test_a_mistake_of_ours_is_no_outage(store: Store) -> None:
    with pytest.raises(Exception, match="syntax error"):
        async with store.driver() as driver:
            await driver.execute("selec 1")
