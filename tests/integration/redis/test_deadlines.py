"""Deadlines on a real Redis. Redis's clock cannot be set: where time must pass, a deadline is moved into the past."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from freshdb_service.errors import BackendUnavailable, ConfigurationError
from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.deadlines import Deadline, Deadlines, Refusal, Renewal

POOL = uuid4()


@pytest.fixture
def deadlines(redis: RedisConnection) -> Deadlines:
    return Deadlines(redis)


async def admit(deadlines: Deadlines, lease: UUID, *, ttl: float = 60, longest: float = 3600) -> datetime:
    await run_id(deadlines)
    admission = await deadlines.admit(
        POOL, [lease], ttl_seconds=ttl, max_ttl_seconds=longest, principal="ci", at_head=True
    )
    assert admission.admitted
    return admission.expires_at


async def make_due(redis: RedisConnection, lease: UUID) -> None:
    await redis.client.zadd(redis.key("deadlines"), {str(lease): 1})


async def run_id(deadlines: Deadlines) -> str:
    """Return the run of Redis, after all deadlines were restored."""
    if (run := await deadlines.forgotten_in_run()) is not None:
        await deadlines.restore([], run_id=run)
    return deadlines._run_id


MOMENT = timedelta(milliseconds=2)
"""Redis counts whole milliseconds."""


@dataclass(slots=True)
class Span:
    """The time from just before a request to the moment of the check."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def began_what_ends(self, instant: datetime | None, seconds: float) -> bool:
        """Return whether a time of this length that ends at this instant began within the span."""
        assert instant is not None
        return self.began - MOMENT <= instant - timedelta(seconds=seconds) <= datetime.now(UTC) + MOMENT


async def test_deadline_is_one_ttl_from_now(deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    assert span.began_what_ends(await admit(deadlines, lease, ttl=60), 60)
    assert [span.began_what_ends(one, 60) for one in await deadlines.expiry([lease]) if one] == [True]


async def test_heartbeat_extends_the_deadline_and_returns_the_grant(deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    await admit(deadlines, lease, ttl=50, longest=100)
    granted = await deadlines.renew(lease, ttl_seconds=50, principal="ci")
    assert isinstance(granted, Renewal)
    assert span.began_what_ends(granted.expires_at, 50)
    assert granted.ttl_seconds == pytest.approx(50, abs=0.01)
    passed = (datetime.now(UTC) - span.began + MOMENT).total_seconds()
    assert 50 - passed <= granted.left_seconds <= 50


async def test_heartbeat_returns_the_rest_of_the_ttl(deadlines: Deadlines, redis: RedisConnection) -> None:
    lease = uuid4()
    span = Span()
    ends = await admit(deadlines, lease, ttl=60)
    await redis.client.zadd(
        redis.key("deadlines"), {str(lease): round((ends - timedelta(seconds=50)).timestamp() * 1000)}
    )
    granted = await deadlines.renew(lease, ttl_seconds=None, principal="ci")
    assert isinstance(granted, Renewal)
    passed = (datetime.now(UTC) - span.began + MOMENT).total_seconds()
    assert 10 - passed <= granted.left_seconds <= 10
    assert granted.ttl_seconds == pytest.approx(60, abs=0.01)


async def test_heartbeat_does_not_pass_the_limit(deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    await admit(deadlines, lease, ttl=10, longest=100)
    assert await deadlines.renew(lease, ttl_seconds=5000, principal="ci") is Refusal.LONGER
    assert span.began_what_ends((await deadlines.expiry([lease]))[0], 10)
    await deadlines.extend_ttl(lease, ttl_seconds=5000)  # as when the control plane has stored the new TTL
    granted = await deadlines.renew(lease, ttl_seconds=5000, principal="ci")
    assert isinstance(granted, Renewal)
    assert granted.expires_at == granted.max_expires_at
    assert span.began_what_ends(granted.expires_at, 100)


async def test_heartbeat_does_not_shorten_the_deadline(deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    await admit(deadlines, lease, ttl=60)
    granted = await deadlines.renew(lease, ttl_seconds=1, principal="ci")
    assert isinstance(granted, Renewal)
    assert span.began_what_ends(granted.expires_at, 60)


async def test_heartbeat_without_ttl_uses_that_of_the_lease(deadlines: Deadlines) -> None:
    lease = uuid4()
    await admit(deadlines, lease, ttl=33)
    granted = await deadlines.renew(lease, ttl_seconds=None, principal="ci")
    assert isinstance(granted, Renewal)
    assert granted.ttl_seconds == pytest.approx(33, abs=0.5)


async def test_heartbeat_of_another_principal_is_refused(deadlines: Deadlines) -> None:
    lease = uuid4()
    await admit(deadlines, lease)
    assert await deadlines.renew(lease, ttl_seconds=60, principal="mallory") is Refusal.FOREIGN
    assert await deadlines.renew(uuid4(), ttl_seconds=60, principal="ci") is Refusal.UNKNOWN


async def test_expired_lease_is_not_renewed(redis: RedisConnection, deadlines: Deadlines) -> None:
    lease = uuid4()
    await admit(deadlines, lease)
    await run_id(deadlines)
    await make_due(redis, lease)
    assert await deadlines.renew(lease, ttl_seconds=60, principal="ci") is Refusal.OVER
    assert (await deadlines.due()).lease_ids == [lease]
    assert await deadlines.renew(lease, ttl_seconds=60, principal="ci") is Refusal.UNKNOWN


async def test_due_lease_is_taken_by_one_reaper_and_returned_if_it_dies(
    redis: RedisConnection, deadlines: Deadlines
) -> None:
    lease = uuid4()
    await admit(deadlines, lease)
    await run_id(deadlines)
    await make_due(redis, lease)
    assert (await deadlines.due()).lease_ids == [lease]
    assert (await deadlines.due()).lease_ids == []
    await redis.client.zadd(redis.key("expiring"), {str(lease): 1})  # taken long ago, never settled
    assert (await deadlines.due()).lease_ids == [lease]
    await deadlines.settle([lease])
    assert (await deadlines.due()).lease_ids == []


async def test_no_lease_expires_in_a_restarted_redis(redis: RedisConnection, deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    await admit(deadlines, lease)
    run = await run_id(deadlines)
    await redis.client.set(redis.key("epoch"), "the run before")
    await make_due(redis, lease)  # as in an old snapshot
    due = await deadlines.due()
    assert due.lease_ids == []
    assert due.forgotten_in_run == run
    await deadlines.restore([Deadline(lease, "ci", 60, 3600)], run_id=run)
    assert (await deadlines.due()).lease_ids == []
    [expires_at] = await deadlines.expiry([lease])
    assert expires_at is not None
    assert span.began_what_ends(expires_at, 60)


async def test_restoring_missing_deadlines_keeps_the_others(
    redis: RedisConnection, deadlines: Deadlines
) -> None:
    span = Span()
    known, forgotten, ending = uuid4(), uuid4(), uuid4()
    await admit(deadlines, known, ttl=1000)
    await run_id(deadlines)
    await admit(deadlines, ending)
    await make_due(redis, ending)
    await deadlines.due()
    entries = [Deadline(one, "ci", 60, 3600) for one in (known, forgotten, ending)]
    assert await deadlines.restore(entries, run_id=None) == 1
    first, second, third = await deadlines.expiry([known, forgotten, ending])
    assert first is not None
    assert span.began_what_ends(first, 1000)
    assert second is not None
    assert span.began_what_ends(second, 60)
    assert third is None


async def test_many_deadlines_are_restored_in_chunks(deadlines: Deadlines) -> None:
    entries = [Deadline(uuid4(), "ci", 60, 3600) for _ in range(1203)]
    assert await deadlines.restore(entries, run_id="a run") == 1203
    assert None not in await deadlines.expiry([one.lease_id for one in entries])


async def test_kept_lease_gets_its_own_deadline(deadlines: Deadlines) -> None:
    span = Span()
    lease = uuid4()
    await admit(deadlines, lease, ttl=60, longest=100)
    await deadlines.prolong(lease, ttl_seconds=5000)
    [expires_at] = await deadlines.expiry([lease])
    assert expires_at is not None
    assert span.began_what_ends(expires_at, 5000)


async def test_unavailable_redis_is_one_error() -> None:
    connection = RedisConnection("redis://127.0.0.1:1/0", uuid4())
    with pytest.raises(BackendUnavailable, match="Redis does not answer"):
        await connection.check()
    await connection.close()


def test_invalid_redis_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        RedisConnection("http://example.com", uuid4())


async def test_many_leases_are_settled_in_chunks(deadlines: Deadlines) -> None:
    many = [uuid4() for _ in range(9_000)]  # more than one script accepts
    await deadlines.restore([Deadline(lease, "ci", 60, 3600) for lease in many], run_id=None)
    assert len(await deadlines.noted()) == len(many)
    await deadlines.settle(many)
    assert await deadlines.noted() == set()
