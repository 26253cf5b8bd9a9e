"""Tokens and the audit log: the real client against a real service that requires tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from freshdb import (
    AsyncClient,
    Client,
    Conflict,
    Forbidden,
    InvalidRequest,
    QuotaExceeded,
    TokenNotFound,
    Unauthorized,
)
from tests.contract.conftest import SCHEMA, unique
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import start_service

pytestmark = pytest.mark.xdist_group("closed")  # one service for all tests of this module


@pytest.fixture(scope="module")
def boss(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Client]:
    settings = {"tokens": "boss:boss-secret:admin", "trail_flush_seconds": 0.2, "failed_attempts": 2}
    service = start_service([postgres_18.dsn], service_redis_url, settings=settings)
    with Client(service.url, "boss-secret") as client:
        client.ensure_sql("shop", [SCHEMA])
        yield client
    assert service.stop() == 0


def test_token_is_created_used_rotated_and_revoked(boss: Client) -> None:
    name = unique("ci")
    made = boss.create_token(name, scopes=["read", "lease"], expires_seconds=600, quotas={"max_leases": 1})
    assert made.secret is not None
    assert made.secret not in repr(made)
    assert (made.name, made.scopes, made.max_leases, made.max_disk_bytes) == (
        name,
        ("lease", "read"),
        1,
        None,
    )
    assert made.expires_at is not None
    with Client(boss.url, made.secret) as client, client.lease("shop"):
        assert boss.token(name).use == {"leases": 1, "databases": 0, "disk_bytes": 0}
        with pytest.raises(Forbidden):
            client.tokens()
    assert boss.change_token(made.id, {"max_leases": None, "max_databases": 7}).max_databases == 7
    rotated = boss.rotate_token(name, grace_seconds=60)
    assert rotated.secret is not None
    assert rotated.previous_until is not None
    with Client(boss.url, rotated.secret) as client:
        lease = client.acquire("shop")
        assert boss.revoke_token(name, leases=True).revoked_leases == 1
        with pytest.raises(Unauthorized):
            client.renew(lease.id)
    assert boss.token(made.id).revoked_by == "boss"
    assert made.id in [one.id for one in boss.tokens(states=["revoked"])]
    assert made.id not in [one.id for one in boss.tokens()]
    assert all(one.secret is None for one in boss.tokens())


def test_token_errors_have_their_class(boss: Client) -> None:
    made = boss.create_token(unique("one"))
    with pytest.raises(Conflict):
        boss.create_token(made.name)
    with pytest.raises(TokenNotFound):
        boss.rotate_token("nobody")
    with pytest.raises(InvalidRequest) as caught:
        boss.create_token("a b")
    assert caught.value.errors[0][0] == "name"


def test_quota_is_waited_for_only_if_a_wait_helps(boss: Client) -> None:
    secret = boss.create_token(unique("small"), quotas={"max_leases": 1, "max_ttl_seconds": 300}).secret
    with Client(boss.url, secret) as client:
        lease = client.acquire("shop", ttl_seconds=1)
        second = client.acquire("shop", wait_seconds=LIMIT_SECONDS)  # the first one expires
        assert second.id != lease.id
        began = time.monotonic()
        with pytest.raises(QuotaExceeded) as hit:
            client.acquire("shop", ttl_seconds=301, wait_seconds=LIMIT_SECONDS)
        assert time.monotonic() - began < LIMIT_SECONDS
        assert (hit.value.quota, hit.value.limit, hit.value.use) == ("max_ttl_seconds", 300, 301)
        with pytest.raises(QuotaExceeded) as full:
            client.acquire("shop", wait_seconds=0)
        assert (full.value.quota, full.value.limit, full.value.use) == ("max_leases", 1, 1)
        assert full.value.retry_after_seconds == 1
        client.release(second.id)


def test_audit_log_is_read_with_its_filters(boss: Client) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    made = boss.create_token(unique("audited"))
    with Client(boss.url, made.secret) as client, client.lease("shop") as lease:
        client.renew(lease.id)
    records = boss.audit(principal=made.name, since=began, limit=None)
    acts = [one.action for one in records if one.action != "lease.renewed"]
    assert acts == ["lease.released", "lease.acquired"]
    assert {one.address for one in records} == {"127.0.0.1"}
    [created] = boss.audit(action="token.created", subject=made.id)
    assert (created.label, created.principal) == (made.name, "boss")
    assert created.details["scopes"] == ["build", "lease", "read"]
    assert boss.audit(action="pool.*", until=began) == []
    assert len(boss.audit(limit=1)) == 1


async def test_async_client_creates_and_revokes_tokens(boss: Client) -> None:
    async with AsyncClient(boss.url, "boss-secret") as client:
        made = await client.create_token(unique("async"))
        assert (await client.token(made.id)).name == made.name
        assert made.id in [one.id for one in await client.tokens()]
        assert (await client.change_token(made.name, {"max_leases": 2})).max_leases == 2
        assert (await client.rotate_token(made.id)).secret
        assert (await client.revoke_token(made.id)).state == "revoked"
        assert (await client.audit(subject=made.id))[0].action == "token.revoked"


def test_wrong_token_is_reported_as_wrong_when_attempts_are_limited(boss: Client) -> None:
    said: list[object] = []
    for _ in range(4):
        with Client(boss.url, "wrong", retry_seconds=0) as client:
            try:
                client.leases()
            except (Unauthorized, QuotaExceeded) as error:
                said.append(error)
    assert len(said) == 4  # attempts of other tests count, too: the first may exceed the limit already
    last = said[-1]
    assert isinstance(last, QuotaExceeded)
    assert last.quota == "failed_attempts"
    assert last.retry_after_seconds
    assert boss.leases(limit=1) == boss.leases(limit=1)  # the right token is accepted from this address
