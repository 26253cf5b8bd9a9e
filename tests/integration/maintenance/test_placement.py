"""Placement of templates on two servers that no other test uses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import psycopg
import pytest

from freshdb_service.errors import BackendUnavailable
from freshdb_service.status.server_status import all_servers
from freshdb_service.templates.registry import RegisterRequest
from tests.faults.proxy import Proxy
from tests.integration.installations import Bench, new_installation, replica
from tests.servers import PostgresServer, Servers

pytestmark = pytest.mark.xdist_group("placement")

TWO = (18, 16)
_ASKED = 20


@pytest.fixture(scope="module")
def two(servers: Servers) -> tuple[PostgresServer, ...]:
    return tuple(servers.postgres(major, owner="placement") for major in TWO)


@pytest.fixture
def second(two: tuple[PostgresServer, ...]) -> Iterator[Proxy]:
    """A proxy in front of the second server."""
    with Proxy(two[1].dsn) as proxy:
        yield proxy


@pytest.fixture
async def bench(two: tuple[PostgresServer, ...], second: Proxy, redis_url: str) -> AsyncIterator[Bench]:
    ours = new_installation([two[0], replace(two[1], dsn=second.url)], redis_url, max_databases=100)
    async with replica(ours) as one:
        yield one


async def place(bench: Bench, name: str) -> str:
    return (await bench.template(name)).server


async def test_templates_registered_together_are_spread_over_servers(bench: Bench) -> None:
    """Not exactly half each, because the control plane's own connections count, too."""
    places = Counter([await place(bench, f"t{number}") for number in range(8)])
    assert min(places["pg18"], places["pg16"]) >= 3
    await bench.replenisher.run_once()
    assert await bench.states() == {"ready": 16}


async def test_busy_server_gets_fewer_templates(bench: Bench, two: tuple[PostgresServer, ...]) -> None:
    asked = [await psycopg.AsyncConnection.connect(two[0].dsn, autocommit=True) for _ in range(_ASKED)]
    running = [asyncio.ensure_future(one.execute("select pg_sleep(600)")) for one in asked]
    try:
        async with await psycopg.AsyncConnection.connect(two[0].dsn, autocommit=True) as look:
            while True:
                found = await look.execute(
                    "select count(*) from pg_stat_activity where state = 'active' and query ~ '^select pg_sleep'"
                )
                if await found.fetchone() == (_ASKED,):
                    break
        assert [await place(bench, f"t{number}") for number in range(3)] == ["pg16"] * 3
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for one in asked:
            await one.close()


async def test_unavailable_server_gets_no_template(bench: Bench, second: Proxy) -> None:
    second.refuse()
    assert {await place(bench, f"t{number}") for number in range(3)} == {"pg18"}
    second.pass_on()
    assert await place(bench, "again") == "pg16"


async def test_existing_template_is_found_when_all_servers_are_full(
    two: tuple[PostgresServer, ...], redis_url: str
) -> None:
    async with replica(new_installation([two[0]], redis_url, max_databases=1)) as bench:
        there = await bench.template("there")
        with pytest.raises(BackendUnavailable, match="raise max_databases"):
            await bench.template("new")
        assert (await bench.template("there")).id == there.id


async def test_failed_template_does_not_count_for_max_databases(
    two: tuple[PostgresServer, ...], redis_url: str
) -> None:
    async with replica(new_installation([two[0]], redis_url, max_databases=1)) as bench:
        wrong = await bench.templates.register(
            RegisterRequest("wrong", None, ["selec"], [], 60), wait_seconds=60
        )
        assert wrong.template.error
        assert (await place(bench, "right")) == "pg18"
        [server] = await all_servers(bench.at)
        assert server.server.templates == 1
