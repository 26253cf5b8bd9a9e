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

from tests.faults.slow import slow
from tests.faults.stage import Stage, refused, until

pytestmark = pytest.mark.xdist_group("faults")


@contextmanager
def redis_at(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


@slow
def test_slow_redis_costs_time_and_nothing_else(stage: Stage) -> None:
    stage.redis.slow(0.1)
    try:
        answers = stage.many(6, partial(stage.acquire, 15))  # for three databases
        got = [one.json() for one in answers if one.status_code == 201]
        assert len(got) == 3
        assert {one.json()["code"] for one in answers if one.status_code != 201} == {"pool_exhausted"}
        assert len({one["database"] for one in got}) == 3
        for lease in got:
            stage.renew(lease)
            stage.release(lease)
    finally:
        stage.redis.pass_on()
    stage.as_before()


@slow
def test_who_waits_keeps_the_place_while_redis_is_slow(stage: Stage) -> None:
    held = [stage.lease() for _ in range(3)]
    stage.redis.slow(0.1)
    try:
        with ThreadPoolExecutor(2) as crowd:
            first = crowd.submit(stage.acquire)
            until(lambda: stage.waiting() == 1)
            second = crowd.submit(stage.acquire)
            until(lambda: stage.waiting() == 2)
            stage.release(held[0])
            got = first.result()
            assert got.status_code == 201, got.text
            assert not second.done()
            stage.release(held[1])
            assert second.result().status_code == 201
    finally:
        stage.redis.pass_on()
    for lease in (held[2], got.json(), second.result().json()):
        stage.release(lease)
    stage.as_before()


def test_read_only_redis_is_away_and_no_lease_is_lost(stage: Stage) -> None:
    held, given_back = stage.lease(), stage.lease()
    with redis_at(stage.redis_url) as server:
        server.replicaof("127.0.0.1", 1)  # no server listens there
        try:
            assert "Redis" in refused(stage.acquire())
            assert stage.ask("DELETE", f"/v1/leases/{given_back['id']}").status_code == 200
            refused(stage.ask("POST", f"/v1/leases/{held['id']}/renew"))
            _reaches(held)
        finally:
            server.replicaof("NO", "ONE")
    stage.renew(held)
    stage.release(held)
    stage.as_before()


def test_redis_out_of_memory_is_away_and_no_lease_is_lost(stage: Stage) -> None:
    held = stage.lease()
    with redis_at(stage.redis_url) as server:
        server.config_set("maxmemory", 1)
        try:
            assert "Redis" in refused(stage.acquire())
            refused(stage.ask("POST", f"/v1/leases/{held['id']}/renew"))
        finally:
            server.config_set("maxmemory", 0)
    stage.renew(held)
    stage.release(held)
    stage.as_before()


def test_refused_by_redis_is_away_and_no_lease_is_lost(stage: Stage) -> None:
    held = stage.lease()
    stage.redis.refuse()
    try:
        assert "Redis" in refused(stage.acquire())
        assert "Redis" in stage.ask("GET", "/readyz").json()["checks"]["redis"]
    finally:
        stage.redis.pass_on()
    stage.renew(held)
    stage.release(held)
    stage.as_before()


def test_connections_that_were_reset_are_not_used(stage: Stage) -> None:
    held = stage.lease()
    for _ in range(5):
        stage.redis.reset()
        stage.post(f"/v1/leases/{held['id']}/renew", expected=200)  # the first attempt succeeds
    stage.release(held)
    stage.as_before()


@contextmanager
def two(stage: Stage) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """A primary, and its replica with all writes up to now."""
    with redis_at(stage.redis_url) as first, redis_at(stage.other_redis_url) as second:
        there = first.connection_pool.connection_kwargs
        own = second.connection_pool.connection_kwargs["password"]
        second.config_set("masterauth", there["password"])
        second.config_set("requirepass", there["password"])
        second.replicaof(there["host"], there["port"])
        until(lambda: second.info("replication")["master_link_status"] == "up")
        hears(second, of=first)
        try:
            yield first, second
        finally:
            stage.redis.lead_to(stage.redis_url)
            second.replicaof("NO", "ONE")
            second.flushall()
            second.config_set("requirepass", own)


def hears(replica: redis.Redis, *, of: redis.Redis) -> None:
    """Wait until the replica has received all writes."""
    said = uuid4().hex
    of.set("last", said)
    until(lambda: replica.get("last") == said)


def leased(stage: Stage, *ttl_seconds: float) -> list[dict[str, Any]]:
    """Lease databases that are ready already. Creating one first would use up the TTL of the other lease."""
    until(lambda: stage.databases().get("ready", 0) >= len(ttl_seconds))
    return [stage.lease(ttl_seconds=one) for one in ttl_seconds]


def make_due(server: redis.Redis, lease: dict[str, Any]) -> None:
    """Set a lease's deadline in this Redis to a time in the past."""
    [deadlines] = server.keys("freshdb:{*}:deadlines")
    assert server.zadd(deadlines, {lease["id"]: 1}, xx=True, ch=True) == 1


@slow
def test_a_failover_to_a_replica_that_lags_ends_no_lease_early_and_revives_none(stage: Stage) -> None:
    with two(stage) as (first, second):
        forgotten, renewed = leased(stage, 8, 60)
        hears(second, of=first)
        second.replicaof("NO", "ONE")  # from here on, only the first one receives writes
        make_due(second, renewed)
        stage.post(f"/v1/leases/{renewed['id']}/renew", {"ttl_seconds": 600}, 200)
        unheard = stage.post("/v1/leases", {"template": "t", "ttl_seconds": 600})
        stage.redis.lead_to(stage.other_redis_url)
        until(lambda: stage.shown(forgotten)["state"] == "expired")
        for lease in (renewed, unheard):
            assert stage.shown(lease)["state"] == "active"
            stage.post(f"/v1/leases/{lease['id']}/renew", {"ttl_seconds": 60}, 200)
            stage.release(lease)
        stage.as_before()
    stage.as_before()


def test_a_redis_that_comes_back_with_what_it_believed_before_ends_no_lease(stage: Stage) -> None:
    with two(stage) as (first, second):
        held, gone = leased(stage, 60, 3)
        hears(second, of=first)
        second.replicaof("NO", "ONE")
        stage.redis.lead_to(stage.other_redis_url)
        until(
            lambda: (
                stage.ask("POST", f"/v1/leases/{held['id']}/renew", {"ttl_seconds": 600}).status_code == 200
            )
        )
        until(lambda: stage.shown(gone)["state"] == "expired")
        make_due(first, held)
        stage.redis.lead_to(stage.redis_url)  # it knows only the old end of the lease, which has passed
        marker = stage.lease(ttl_seconds=1)
        until(lambda: stage.shown(marker)["state"] == "expired")  # so the reaper has run
        assert stage.shown(held)["state"] == "active"
        stage.release(held)
    stage.as_before()


def _reaches(lease: dict[str, Any]) -> None:
    """Check that the holder can still use its database."""
    with psycopg.connect(lease["url"]) as connection:
        connection.execute("select * from t")
