"""Each operation of the client, against the real service."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice

import psycopg
import pytest

from freshdb import (
    AsyncClient,
    BuildGrant,
    Client,
    Event,
    Lease,
    LeaseLost,
    LeaseRequest,
    Template,
    TemplateFailed,
)
from tests.contract.conftest import SCHEMA, unique
from tests.limits import LIMIT_SECONDS
from tests.pools import shrink
from tests.services import Service

FREQUENT_HEARTBEATS = pytest.mark.usefixtures("frequent_heartbeats")


def _wait_for_new_ends(end: Callable[[], datetime | None], times: int) -> None:
    """Wait until the end has been extended this many times."""
    until = time.monotonic() + LIMIT_SECONDS
    known = end()
    for _ in range(times):
        while (new := end()) == known:
            assert time.monotonic() < until, known
            time.sleep(0.01)
        assert known is not None
        assert new is not None
        assert new > known
        known = new


def _names(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("select name from item order by id")]


def _is_open(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_lease_gives_a_clean_database_until_its_end(client: Client, shop: Template) -> None:
    with client.lease(shop.name, holder={"name": "contract"}, labels={"suite": "a"}) as lease:
        assert _names(lease.url) == ["one"]
        with psycopg.connect(lease.dsn) as connection:
            connection.execute("insert into item values (2, 'two')")
        shown = client.get_lease(lease.id)
        assert (shown.state, shown.holder, shown.labels) == ("active", {"name": "contract"}, {"suite": "a"})
        url = lease.url
    until = time.monotonic() + LIMIT_SECONDS
    while _is_open(url):  # the janitor fences it in the background
        assert time.monotonic() < until
    over = client.get_lease(shown.id)
    assert over.state == "released"
    assert over.ended_at is not None


def test_url_works_with_isolation_schema(client: Client, shop: Template) -> None:
    with client.lease(shop.reference, isolation="schema") as lease:
        assert (lease.isolation, lease.schema is not None) == ("schema", True)
        assert _names(lease.url) == ["one"]


def test_lease_is_acquired_renewed_and_released_by_single_calls(client: Client, shop: Template) -> None:
    lease = client.acquire(shop.reference, ttl_seconds=60)
    assert lease.template == shop.reference
    assert lease.expires_at is not None
    renewal = client.renew(lease.id, ttl_seconds=120)
    assert renewal.ttl_seconds == 120
    assert renewal.expires_at > lease.expires_at
    assert client.release(lease.id).state == "released"
    assert client.release(lease.id).state == "released"


def test_same_key_gives_the_same_lease(client: Client, shop: Template) -> None:
    key = unique("key")
    first = client.acquire(shop.name, idempotency_key=key)
    again = client.acquire(shop.name, idempotency_key=key, wait_seconds=1)
    assert (again.id, again.url) == (first.id, first.url)
    client.release(first.id)


def test_batch_gives_one_database_per_request(client: Client, shop: Template) -> None:
    leases = client.acquire_batch(
        [LeaseRequest(shop.name, labels={"nr": str(number)}) for number in range(3)]
    )
    assert len({lease.database for lease in leases}) == 3
    assert [lease.labels["nr"] for lease in leases] == ["0", "1", "2"]
    for lease in leases:
        client.release(lease.id)


def test_leases_are_found_by_each_filter(client: Client, shop: Template) -> None:
    mark = unique("mark")
    with client.lease(shop.name, holder={"name": mark}, labels={"a b": "c&d"}) as lease:
        for found in (
            client.leases(holder={"name": mark}),
            client.leases(labels={"a b": "c&d"}, template=shop.name, isolation="database", state="active"),
        ):
            assert [one.id for one in found] == [lease.id]
            assert found[0].password is None
    assert client.leases(holder={"name": mark}) == []
    assert [one.id for one in client.leases(holder={"name": mark}, state="released")] == [lease.id]


def test_long_list_is_complete_or_ends_at_its_limit(service: Service, shop: Template) -> None:
    with Client(service.url, "") as client:
        leases = client.acquire_batch([LeaseRequest(shop.name, isolation="schema") for _ in range(5)])
        wanted = {one.id for one in leases}
        object.__setattr__(client.operations, "poll_seconds", 1.0)
        assert wanted <= {one.id for one in client.leases()}
        assert len(client.leases(limit=2)) == 2
        for lease in leases:
            client.release(lease.id)


@FREQUENT_HEARTBEATS
def test_revoked_lease_is_lost(client: Client, shop: Template) -> None:
    with (  # noqa: PT012 - the end of the block raises
        pytest.raises(LeaseLost, match="revoked"),
        client.lease(shop.name, ttl_seconds=LIMIT_SECONDS) as lease,
    ):
        assert client.revoke(lease.id).state == "revoked"
        assert lease.lost.wait(LIMIT_SECONDS)
        assert lease.loss is not None


@FREQUENT_HEARTBEATS
def test_each_heartbeat_extends_a_held_lease(client: Client, shop: Template) -> None:
    with client.lease(shop.name, ttl_seconds=LIMIT_SECONDS) as lease:
        first = lease.lease.expires_at
        _wait_for_new_ends(lambda: client.get_lease(lease.id).expires_at, 3)
        lease.check()
        last = client.get_lease(lease.id).expires_at
        assert first is not None
        assert last is not None
        assert last > first
        assert client.get_lease(lease.id).state == "active"
        assert _names(lease.url) == ["one"]


def test_kept_lease_outlives_its_holder(client: Client, shop: Template) -> None:
    with client.lease(shop.name) as lease:
        kept = lease.keep(ttl_seconds=60, reason="failed: a test")
    assert kept.state == "kept"
    assert _names(kept.url) == ["one"]
    [found] = [one for one in client.leases(state="kept") if one.id == kept.id]
    assert found.end_reason == "failed: a test"
    client.release(kept.id)


@FREQUENT_HEARTBEATS
def test_acquired_lease_can_be_held_later(client: Client, shop: Template) -> None:
    acquired = client.acquire(shop.name, ttl_seconds=LIMIT_SECONDS)
    with client.hold(acquired) as lease:
        _wait_for_new_ends(lambda: client.get_lease(lease.id).expires_at, 3)  # the hold itself renews once
        assert _names(lease.url) == ["one"]
    assert client.get_lease(acquired.id).state == "released"


def test_long_wait_takes_several_requests(service: Service, template: Callable[[], Template]) -> None:
    own = template()
    with Client(service.url, "", poll_seconds=0.4) as client:
        first = client.acquire(own.name)
        shrink(client, first.pool_id)
        release = threading.Timer(1.5, client.release, [first.id])
        release.start()
        with client.lease(own.name, wait_seconds=LIMIT_SECONDS) as lease:
            assert _names(lease.url) == ["one"]
            assert lease.lease.generation > first.generation
        release.join()


def test_sql_is_built_into_a_template_once(client: Client) -> None:
    name = unique("sql")
    first = client.ensure_sql(name, [SCHEMA, "create table more ()"])
    again = client.ensure_sql(name, [SCHEMA, "create table more ()"])
    assert first.id == again.id
    assert first.state == "ready"
    assert first.size_bytes
    other = client.ensure_sql(name, [SCHEMA])
    assert other.fingerprint != first.fingerprint
    assert {one.id for one in client.templates(name=name)} == {first.id, other.id}


def test_template_is_found_by_id_name_and_reference(client: Client, shop: Template) -> None:
    for reference in (shop.id, shop.name, shop.reference):
        assert client.template(reference).id == shop.id
        assert client.wait_template(reference).id == shop.id


def test_of_many_clients_exactly_one_builds(client: Client) -> None:
    name = unique("race")
    built: list[str] = []

    def builder(grant: BuildGrant) -> None:
        built.append(grant.database)
        with psycopg.connect(grant.url) as connection:
            connection.execute(SCHEMA)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(client.build, name, "f1", builder) for _ in range(8)]
        templates = {future.result().id for future in futures}
    assert len(built) == 1
    assert len(templates) == 1
    with client.lease(name) as lease:
        assert _names(lease.url) == ["one"]


def test_dead_builder_is_replaced(client: Client) -> None:
    name = unique("dead")
    died = client.register(name, fingerprint="f1", build_seconds=0.5)
    assert died.build is not None

    def builder(grant: BuildGrant) -> None:
        assert died.build is not None
        assert grant.user != died.build.user
        with psycopg.connect(grant.url) as connection:
            connection.execute(SCHEMA)

    assert client.build(name, "f1", builder).state == "ready"


@FREQUENT_HEARTBEATS
def test_slow_builder_keeps_its_build_by_heartbeats(client: Client) -> None:
    name = unique("slow")

    def builder(_: BuildGrant) -> None:
        _wait_for_new_ends(lambda: client.template(name).build_deadline_at, 3)

    assert client.build(name, "f1", builder, build_seconds=LIMIT_SECONDS).state == "ready"


def test_failed_builder_leaves_its_error_and_the_build_to_the_next(client: Client) -> None:
    name = unique("fails")

    def fail(_: BuildGrant) -> None:
        raise RuntimeError("no such migration")

    with pytest.raises(RuntimeError):
        client.build(name, "f1", fail)
    failed = client.template(name)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.message == "RuntimeError: no such migration"
    with pytest.raises(TemplateFailed, match="no such migration"):
        client.wait_template(name)
    assert client.build(name, "f1", lambda _: None).state == "ready"


def test_retired_template_gives_no_more_leases(client: Client, template: Callable[[], Template]) -> None:
    own = template()
    assert client.retire(own.id).state == "retired"
    assert own.id not in {one.id for one in client.templates(name=own.name, state="ready")}


def test_pools_are_listed_shown_and_resized(client: Client, template: Callable[[], Template]) -> None:
    own = template()
    with client.lease(own.name) as lease:
        pool = client.pool(lease.lease.pool_id)
        assert (pool.template, pool.isolation) == (own.reference, "database")
        assert pool.databases["leased"] == 1
    resized = client.resize(pool.id, min_ready=0, max_size=7, idle_seconds=60)
    assert (resized.min_ready, resized.max_size, resized.idle_seconds) == (0, 7, 60.0)
    assert client.resize(pool.id, max_size=8).min_ready == 0
    assert pool.id in {one.id for one in client.pools()}


def test_health_has_the_result_of_each_check(client: Client) -> None:
    health = client.health()
    assert health.ok
    assert health.version == "0.2.0"
    assert health.checks["redis"] == "ok"


def test_events_have_every_transition_of_a_lease(client: Client, shop: Template) -> None:
    following = client.events()
    seen: list[tuple[str, object]] = []
    ids: set[str] = set()
    with client.lease(shop.name) as warm_up:  # creates the event to start from
        ids.add(warm_up.id)
    started = threading.Event()

    def follow() -> None:
        started.set()
        for event in following:
            seen.append((event.kind, event.data.get("lease")))
            if event.kind == "lease.released" and event.data.get("lease") in wanted:
                return

    wanted: set[object] = set()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert started.wait(LIMIT_SECONDS)
    until = time.monotonic() + LIMIT_SECONDS
    while thread.is_alive() and time.monotonic() < until:
        with client.lease(shop.name) as lease:  # repeated, because the time when the stream opens is unknown
            wanted.add(lease.id)
        thread.join(0.3)
    assert not thread.is_alive()
    released = next(
        identifier for kind, identifier in seen if kind == "lease.released" and identifier in wanted
    )
    assert ("lease.acquired", released) in seen or len(seen) == 1


def test_past_events_end_without_follow(client: Client, shop: Template) -> None:
    with client.lease(shop.name) as lease:
        pass
    until = time.monotonic() + LIMIT_SECONDS
    kinds: list[str] = []
    events: list[Event] = []
    while "lease.released" not in kinds and time.monotonic() < until:
        events = list(client.events(follow=False, since="0"))
        kinds = [event.kind for event in events if event.data.get("lease") == lease.id]
    assert kinds == ["lease.acquired", "lease.released"]
    later = list(client.events(follow=False, since=events[-2].id))
    assert later[0].id == events[-1].id


def test_times_are_aware_and_near_now(client: Client, shop: Template) -> None:
    lease: Lease = client.acquire(shop.name)
    assert abs((datetime.now(UTC) - lease.granted_at).total_seconds()) < LIMIT_SECONDS
    client.release(lease.id)


async def test_async_client_has_the_same_operations(service: Service, shop: Template) -> None:
    async with AsyncClient(service.url, "") as client:
        async with client.lease(shop.name, ttl_seconds=60) as lease:
            connection = await psycopg.AsyncConnection.connect(lease.url)
            async with connection:
                cursor = await connection.execute("select count(*) from item")
                assert await cursor.fetchone() == (1,)
            assert (await client.renew(lease.id)).ttl_seconds == 60
        assert (await client.get_lease(lease.id)).state == "released"

        async def builder(grant: BuildGrant) -> None:
            connection = await psycopg.AsyncConnection.connect(grant.url)
            async with connection:
                await connection.execute(SCHEMA)

        built = await client.build(unique("async"), "f1", builder)
        assert built.state == "ready"
        leases = await client.acquire_batch([LeaseRequest(built.name), LeaseRequest(built.name)])
        for one in leases:
            await client.release(one.id)
        assert (await client.health()).ok
        events = [event async for event in client.events(follow=False, since="0")]
        assert events
        assert list(islice(events, 1))


@FREQUENT_HEARTBEATS
async def test_async_revoked_lease_is_lost(service: Service, shop: Template) -> None:
    async with AsyncClient(service.url, "") as client:
        with pytest.raises(LeaseLost, match="revoked"):  # noqa: PT012 - the end of the block raises
            async with client.lease(shop.name, ttl_seconds=LIMIT_SECONDS) as lease:
                await client.revoke(lease.id)
                await asyncio.wait_for(lease.lost.wait(), LIMIT_SECONDS)
