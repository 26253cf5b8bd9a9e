"""Reset in place, and the leftovers of a release, against the real service."""

from __future__ import annotations

import psycopg
import pytest

from freshdb import AsyncClient, Client, Conflict, LeaseEnded, LeaseLost, Leftovers, Template
from freshdb.models import Isolation
from tests.services import Service

ISOLATIONS = pytest.mark.parametrize("isolation", ["database", "schema"])


def _names(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("select name from item order by id")]


@ISOLATIONS
def test_reset_lease_is_clean_and_has_another_login(
    client: Client, shop: Template, isolation: Isolation
) -> None:
    with client.lease(shop.name, isolation=isolation, labels={"suite": "reset"}) as lease:
        before, generation = lease.url, lease.lease.generation
        with psycopg.connect(before) as connection:
            connection.execute("insert into item values (2, 'two')")
            connection.execute("create table extra ()")
        clean = lease.reset()
        assert (clean.id, clean.state, clean.labels) == (lease.id, "active", {"suite": "reset"})
        assert clean.generation > generation
        assert lease.url == clean.url != before
        with psycopg.connect(lease.url) as connection:
            found = connection.execute("select to_regclass('extra'), (select count(*) from item)").fetchone()
        assert found == (None, 1)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(before)
        assert client.get_lease(lease.id).url == lease.url
        assert client.renew(lease.id).ttl_seconds == lease.lease.ttl_seconds


def test_reset_closes_open_connections(client: Client, shop: Template) -> None:
    with client.lease(shop.name) as lease, psycopg.connect(lease.url, autocommit=True) as connection:
        connection.execute("insert into item values (2, 'two')")
        lease.reset()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
        assert _names(lease.url) == ["one"]


def test_lease_can_be_reset_several_times(client: Client, shop: Template) -> None:
    with client.lease(shop.name) as lease:
        urls = {lease.reset().url for _ in range(3)}
        assert len(urls) == 3
        assert _names(lease.url) == ["one"]


def test_reset_of_a_revoked_lease_raises_lease_lost(client: Client, shop: Template) -> None:
    with pytest.raises(LeaseLost, match="revoked"), client.lease(shop.name) as lease:  # noqa: PT012 - the end of the block raises
        client.revoke(lease.id)
        lease.reset()


def test_ended_or_kept_lease_is_not_reset(client: Client, shop: Template) -> None:
    over = client.acquire(shop.name)
    client.release(over.id)
    with pytest.raises(LeaseEnded):
        client.reset(over.id)
    kept = client.acquire(shop.name)
    client.keep(kept.id)
    with pytest.raises(Conflict, match="kept"):
        client.reset(kept.id)
    client.release(kept.id)


async def test_async_lease_is_reset(service: Service, shop: Template) -> None:
    async with AsyncClient(service.url, "") as client, client.lease(shop.name) as lease:
        before = lease.url
        with psycopg.connect(before) as connection:
            connection.execute("insert into item values (2, 'two')")
        assert (await lease.reset()).url == lease.url != before
        assert _names(lease.url) == ["one"]
        connection = psycopg.connect(lease.url)  # not closed before the end of the lease
        try:
            left = await lease.release()
        finally:
            connection.close()
    assert left == Leftovers(connections=1)


@ISOLATIONS
def test_release_returns_leftovers(client: Client, shop: Template, isolation: Isolation) -> None:
    with client.lease(shop.name, isolation=isolation) as lease:
        connections = [psycopg.connect(lease.url, autocommit=True) for _ in range(2)]
        try:
            connections[0].execute("select pg_advisory_lock(1)")
            left = lease.release()
        finally:
            for connection in connections:
                connection.close()
    assert left == Leftovers(connections=2, prepared_transactions=0, advisory_locks=1)


def test_release_without_leftovers_returns_zeros(client: Client, shop: Template) -> None:
    lease = client.acquire(shop.name)
    assert _names(lease.url) == ["one"]
    released = client.release(lease.id)
    assert released.state == "released"
    assert released.leftovers == Leftovers()
