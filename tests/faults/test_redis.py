"""Redis runs but does not work normally: slow, read-only, full, refusing, or replaced by one without the last writes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from tests.faults.installation import Installation, assert_unavailable, wait_until
from tests.faults.slow import slow

pytestmark = pytest.mark.xdist_group("faults")


@contextmanager
def redis_at(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


@slow
def test_slow_redis_only_delays_requests(installation: Installation) -> None:
    installation.redis.delay(0.1)
    try:
        answers = installation.in_parallel(6, partial(installation.acquire, 15))  # for three databases
        got = [one.json() for one in answers if one.status_code == 201]
        assert len(got) == 3
        assert {one.json()["code"] for one in answers if one.status_code != 201} == {"pool_exhausted"}
        assert len({one["database"] for one in got}) == 3
        for lease in got:
            installation.renew(lease)
            installation.release(lease)
    finally:
        installation.redis.pass_on()
    installation.check_recovery()


@slow
def test_waiters_keep_their_places_while_redis_is_slow(installation: Installation) -> None:
    held = [installation.lease() for _ in range(3)]
    installation.redis.delay(0.1)
    try:
        with ThreadPoolExecutor(2) as executor:
            first = executor.submit(installation.acquire)
            wait_until(lambda: installation.waiters() == 1)
            second = executor.submit(installation.acquire)
            wait_until(lambda: installation.waiters() == 2)
            installation.release(held[0])
            got = first.result()
            assert got.status_code == 201, got.text
            assert not second.done()
            installation.release(held[1])
            assert second.result().status_code == 201
    finally:
        installation.redis.pass_on()
    for lease in (held[2], got.json(), second.result().json()):
        installation.release(lease)
    installation.check_recovery()


def test_read_only_redis_is_unavailable_and_no_lease_is_lost(installation: Installation) -> None:
    held, released = installation.lease(), installation.lease()
    with redis_at(installation.redis_url) as server:
        server.replicaof("127.0.0.1", 1)  # no server listens there
        try:
            assert "Redis" in assert_unavailable(installation.acquire())
            assert installation.request("DELETE", f"/v1/leases/{released['id']}").status_code == 200
            assert_unavailable(installation.request("POST", f"/v1/leases/{held['id']}/renew"))
            _check_url(held)
        finally:
            server.replicaof("NO", "ONE")
    installation.renew(held)
    installation.release(held)
    installation.check_recovery()


def test_redis_out_of_memory_is_unavailable_and_no_lease_is_lost(installation: Installation) -> None:
    held = installation.lease()
    with redis_at(installation.redis_url) as server:
        server.config_set("maxmemory", 1)
        try:
            assert "Redis" in assert_unavailable(installation.acquire())
            assert_unavailable(installation.request("POST", f"/v1/leases/{held['id']}/renew"))
        finally:
            server.config_set("maxmemory", 0)
    installation.renew(held)
    installation.release(held)
    installation.check_recovery()


def test_redis_that_refuses_connections_is_unavailable_and_no_lease_is_lost(
    installation: Installation,
) -> None:
    held = installation.lease()
    installation.redis.refuse()
    try:
        assert "Redis" in assert_unavailable(installation.acquire())
        assert "Redis" in installation.request("GET", "/readyz").json()["checks"]["redis"]
    finally:
        installation.redis.pass_on()
    installation.renew(held)
    installation.release(held)
    installation.check_recovery()


def test_reset_connections_to_redis_are_not_used(installation: Installation) -> None:
    held = installation.lease()
    for _ in range(5):
        installation.redis.reset()
        installation.post(f"/v1/leases/{held['id']}/renew", expected=200)  # the first attempt succeeds
    installation.release(held)
    installation.check_recovery()


@contextmanager
def primary_and_replica(installation: Installation) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """A primary, and its replica with all writes up to now."""
    with redis_at(installation.redis_url) as first, redis_at(installation.other_redis_url) as second:
        there = first.connection_pool.connection_kwargs
        own_password = second.connection_pool.connection_kwargs["password"]
        second.config_set("masterauth", there["password"])
        second.config_set("requirepass", there["password"])
        second.replicaof(there["host"], there["port"])
        wait_until(lambda: second.info("replication")["master_link_status"] == "up")
        wait_for_replication(second, of=first)
        try:
            yield first, second
        finally:
            installation.redis.switch_to(installation.redis_url)
            second.replicaof("NO", "ONE")
            second.flushall()
            second.config_set("requirepass", own_password)


def wait_for_replication(replica: redis.Redis, *, of: redis.Redis) -> None:
    """Wait until the replica has received all writes."""
    value = uuid4().hex
    of.set("last", value)
    wait_until(lambda: replica.get("last") == value)


def lease_ready_databases(installation: Installation, *ttl_seconds: float) -> list[dict[str, Any]]:
    """Lease databases that are ready already. Creating one first would use up the TTL of the other lease."""
    wait_until(lambda: installation.databases().get("ready", 0) >= len(ttl_seconds))
    return [installation.lease(ttl_seconds=one) for one in ttl_seconds]


def make_due(server: redis.Redis, lease: dict[str, Any]) -> None:
    """Set a lease's deadline in this Redis to a time in the past."""
    [deadlines] = server.keys("freshdb:{*}:deadlines")
    assert server.zadd(deadlines, {lease["id"]: 1}, xx=True, ch=True) == 1


@slow
def test_failover_to_a_lagging_redis_ends_no_lease_early_and_revives_none(installation: Installation) -> None:
    with primary_and_replica(installation) as (first, second):
        expiring, renewed = lease_ready_databases(installation, 8, 60)
        wait_for_replication(second, of=first)
        second.replicaof("NO", "ONE")  # from here on, only the first one receives writes
        make_due(second, renewed)
        installation.post(f"/v1/leases/{renewed['id']}/renew", {"ttl_seconds": 600}, 200)
        unreplicated = installation.post("/v1/leases", {"template": "t", "ttl_seconds": 600})
        installation.redis.switch_to(installation.other_redis_url)
        wait_until(lambda: installation.get_lease(expiring)["state"] == "expired")
        for lease in (renewed, unreplicated):
            assert installation.get_lease(lease)["state"] == "active"
            installation.post(f"/v1/leases/{lease['id']}/renew", {"ttl_seconds": 60}, 200)
            installation.release(lease)
        installation.check_recovery()
    installation.check_recovery()


def test_redis_that_returns_with_old_data_ends_no_lease(installation: Installation) -> None:
    with primary_and_replica(installation) as (first, second):
        held, expiring = lease_ready_databases(installation, 60, 3)
        wait_for_replication(second, of=first)
        second.replicaof("NO", "ONE")
        installation.redis.switch_to(installation.other_redis_url)
        wait_until(
            lambda: (
                installation.request(
                    "POST", f"/v1/leases/{held['id']}/renew", {"ttl_seconds": 600}
                ).status_code
                == 200
            )
        )
        wait_until(lambda: installation.get_lease(expiring)["state"] == "expired")
        make_due(first, held)
        # This one knows only the old end of the lease, which has passed.
        installation.redis.switch_to(installation.redis_url)
        wait_until(lambda: installation.request("GET", "/readyz").status_code == 200)
        marker = installation.lease(ttl_seconds=1)
        wait_until(lambda: installation.get_lease(marker)["state"] == "expired")  # so the reaper has run
        assert installation.get_lease(held)["state"] == "active"
        installation.release(held)
    installation.check_recovery()


def _check_url(lease: dict[str, Any]) -> None:
    """Check that the holder can still use its database."""
    with psycopg.connect(lease["url"]) as connection:
        connection.execute("select * from t")
