"""Retries: the calls that are sent again, the addresses and the time limits."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import time
from itertools import count

import pytest

from freshdb import (
    AsyncClient,
    BackendUnavailable,
    Client,
    LeaseRequest,
    NotConfigured,
    PoolExhausted,
    QuotaExceeded,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from freshdb.messages import Failure, Pause, Send, ServiceCall
from freshdb.retry import RetryPolicy, ServiceAddresses, exchange
from tests.limits import LIMIT_SECONDS
from tests.unit.client.scripted import (
    Asked,
    Reply,
    Script,
    granted,
    methods,
    problem,
    released,
    template_body,
)

HANG_UP = Reply(hang_up=True)
REFUSED = Failure("connection refused", delivered=False, sent_at=0.0)


def _policy(addresses: ServiceAddresses, jitter: float = 0.0) -> RetryPolicy:
    return RetryPolicy(addresses, 1.0, 3600.0, lambda: 0.0, lambda: jitter)


def _pauses(policy: RetryPolicy, number: int) -> list[float]:
    """Let a call fail until it has paused this many times."""
    flow = exchange(ServiceCall("GET", "/"), policy)
    step = next(flow)
    pauses: list[float] = []
    while len(pauses) < number:
        if isinstance(step, Pause):
            pauses.append(step.seconds)
        step = flow.send(None if isinstance(step, Pause) else REFUSED)
    return pauses


@pytest.fixture
def unreachable() -> str:
    """The address of a port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_acquire_is_retried_with_the_same_key_and_body(client: Client, script: Script) -> None:
    script.play(HANG_UP, HANG_UP, granted())
    assert client.acquire("shop").url.startswith("postgresql://")
    keys = {one.headers["idempotency-key"] for one in script.asked}
    assert len(script.asked) == 3
    assert len(keys) == 1
    assert script.asked[0].body == script.asked[1].body == script.asked[2].body


def test_each_acquire_has_its_own_key_unless_one_is_given(client: Client, script: Script) -> None:
    script.play(granted())
    client.acquire("shop")
    client.acquire("shop")
    client.acquire("shop", idempotency_key="mine")
    keys = [one.headers["idempotency-key"] for one in script.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_batch_is_retried_with_the_same_key(client: Client, script: Script) -> None:
    script.play(HANG_UP, Reply(201, {"items": [granted().body, granted().body], "next": None}))
    assert len(client.acquire_batch([LeaseRequest("shop"), LeaseRequest("shop")])) == 2
    assert len({one.headers["idempotency-key"] for one in script.asked}) == 1


def test_release_is_retried_after_a_lost_answer(client: Client, script: Script) -> None:
    script.play(HANG_UP, released())
    assert client.release("x").state == "released"


def test_build_registration_is_not_retried_after_a_lost_answer(client: Client, script: Script) -> None:
    script.play(HANG_UP, Reply(201, template_body("building")))
    with pytest.raises(ServiceUnreachable, match="may have executed it"):
        client.register("shop", fingerprint="abc")
    assert len(script.asked) == 1


def test_sql_registration_is_retried_after_a_lost_answer(client: Client, script: Script) -> None:
    script.play(HANG_UP, Reply(201, template_body()))
    assert client.register("shop", sql=["select 1"]).state == "ready"


def test_refused_connection_goes_to_the_next_address_for_every_call(script: Script, unreachable: str) -> None:
    script.play(Reply(201, template_body()))
    with Client([unreachable, script.url]) as client:
        assert client.register("shop", fingerprint="abc").state == "ready"
        assert client.url == script.url


def test_addresses_and_token_come_from_the_environment(
    script: Script, unreachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRESHDB_URL", f"{unreachable}, {script.url}/")
    monkeypatch.setenv("FRESHDB_TOKEN", "from-the-environment")
    script.play(granted())
    with Client() as client:
        client.acquire("shop")
    assert script.asked[0].headers["authorization"] == "Bearer from-the-environment"


@pytest.mark.parametrize(
    "url", ["", "localhost:8777", "ftp://x", "http://", "http://x:99999", [], "http://[1"]
)
def test_invalid_address_raises_at_once(url: str | list[str]) -> None:
    with pytest.raises(NotConfigured, match="8777"):
        Client(url)


def test_missing_address_names_the_variable_to_set() -> None:
    with pytest.raises(NotConfigured, match="FRESHDB_URL"):
        Client()


def test_unreachable_service_raises_after_retry_seconds(
    unreachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = count()
    monkeypatch.setattr("freshdb.configuration.elapsed_seconds", lambda: 2.0 * next(readings))
    with Client(unreachable, retry_seconds=9) as client, pytest.raises(ServiceUnreachable) as caught:
        client.pools()
    assert unreachable in str(caught.value)
    tried = re.search(r"tried for (\d+) s", str(caught.value))
    assert tried is not None
    # By a clock that advances two seconds with each reading. The default is 30 s.
    assert 4 <= int(tried.group(1)) < 20


def test_unavailable_backend_is_retried_after_retry_after(client: Client, script: Script) -> None:
    script.play(problem(503, "backend_unavailable", retry_after=0.3), Reply(200, {"items": [], "next": None}))
    began = time.monotonic()
    assert client.pools() == []
    assert time.monotonic() - began >= 0.3


def test_retry_after_beyond_retry_seconds_raises_at_once(client: Client, script: Script) -> None:
    script.play(problem(503, "backend_unavailable", retry_after=LIMIT_SECONDS))
    began = time.monotonic()
    with pytest.raises(BackendUnavailable):
        client.pools()
    assert time.monotonic() - began < LIMIT_SECONDS
    assert len(script.asked) == 1


def test_error_of_a_proxy_is_retried(client: Client, script: Script) -> None:
    page = Reply(502, "<html>", content_type="text/html")
    script.play(page, page, Reply(200, {"items": [], "next": None}))
    assert client.pools() == []


def test_error_of_a_proxy_is_not_retried_for_a_call_that_is_not_repeatable(
    client: Client, script: Script
) -> None:
    script.play(Reply(502, "<html>", content_type="text/html"))
    with pytest.raises(UnexpectedAnswer):
        client.register("shop", fingerprint="abc")
    assert len(script.asked) == 1


def test_quota_is_retried_within_the_wait_for_a_database(client: Client, script: Script) -> None:
    refused = problem(429, "quota_exceeded", retry_after=0.2)
    script.play(refused, refused, refused, granted(), refused)
    with pytest.raises(QuotaExceeded):
        client.acquire("shop", wait_seconds=0)
    assert len(script.asked) == 1
    client.acquire("shop", wait_seconds=LIMIT_SECONDS)
    assert len(script.asked) == 4
    with pytest.raises(QuotaExceeded):
        client.acquire("shop", wait_seconds=0.5)


def test_full_pool_raises_at_the_end_of_the_wait(client: Client, script: Script) -> None:
    script.play(problem(503, "pool_exhausted", retry_after=1, queue_position=2, queue_length=4))
    with pytest.raises(PoolExhausted) as caught:
        client.acquire("shop", wait_seconds=0)
    assert (caught.value.queue_position, len(script.asked)) == (2, 1)


def test_long_wait_takes_several_requests_with_one_key(script: Script) -> None:
    def sleep_for_its_wait(asked: Asked) -> Reply:
        time.sleep(asked.body["wait_seconds"])  # type: ignore[index]
        return problem(503, "pool_exhausted", retry_after=1)

    script.play(sleep_for_its_wait, sleep_for_its_wait, granted())
    with Client(script.url, poll_seconds=0.2) as client:
        client.acquire("shop", wait_seconds=30)
    waits = [one.body["wait_seconds"] for one in script.asked]  # type: ignore[index]
    assert waits == [0.2, 0.2, 0.2]
    assert len({one.headers["idempotency-key"] for one in script.asked}) == 1


def test_full_pool_without_retry_after_is_not_polled_in_a_busy_loop(client: Client, script: Script) -> None:
    script.play(problem(503, "pool_exhausted"))
    with pytest.raises(PoolExhausted):
        client.acquire("shop", wait_seconds=1)
    assert len(script.asked) <= 6


def test_list_is_read_page_by_page(client: Client, script: Script) -> None:
    page = {"items": [granted().body] * 2, "next": "c/1"}
    script.play(Reply(200, page), Reply(200, {**page, "next": None}))
    assert len(client.leases(holder={"name": "a&b"}, labels={"x": "y"})) == 4
    assert methods(script.asked)[1] == "GET /v1/leases?holder.name=a%26b&label.x=y&cursor=c%2F1"


def test_list_ends_at_its_limit(client: Client, script: Script) -> None:
    script.play(Reply(200, {"items": [granted().body] * 2, "next": "c"}))
    assert len(client.leases(limit=3)) == 3
    assert methods(script.asked)[1] == "GET /v1/leases?limit=1&cursor=c"


def test_id_is_quoted_in_the_path(client: Client, script: Script) -> None:
    script.play(released())
    for identifier in ("../templates/x?force=true", "..", "a#b"):
        client.release(identifier)
    with pytest.raises(ValueError, match="empty"):
        client.release("")
    assert [one.removeprefix("DELETE /v1/leases/") for one in methods(script.asked)] == [
        "..%2Ftemplates%2Fx%3Fforce%3Dtrue",
        "%2E%2E",
        "a%23b",
    ]


def test_number_that_is_not_finite_is_refused_before_sending(client: Client, script: Script) -> None:
    script.play(granted())
    with pytest.raises(ValueError, match="finite"):
        client.acquire("shop", ttl_seconds=float("nan"))
    assert script.asked == []


def test_pauses_between_attempts_double_up_to_five_seconds() -> None:
    addresses = ServiceAddresses(["http://one"])
    doubled = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert _pauses(_policy(addresses), 9) == pytest.approx(doubled)
    assert _pauses(_policy(addresses, jitter=1.0), 9) == pytest.approx([one / 2 for one in doubled])
    assert _pauses(_policy(addresses), 2000)[-1] == 5.0


def test_every_address_is_tried_before_the_first_pause() -> None:
    addresses = ServiceAddresses(["http://one", "http://two", "http://three"])
    flow = exchange(ServiceCall("GET", "/"), _policy(addresses))
    steps = [next(flow), *(flow.send(REFUSED) for _ in range(3))]
    assert [one.base if isinstance(one, Send) else None for one in steps] == [
        "http://one", "http://two", "http://three", None
    ]  # fmt: skip


def test_two_calls_that_fail_at_the_same_address_advance_it_once() -> None:
    addresses = ServiceAddresses(["http://one", "http://two", "http://three"])
    flows = [exchange(ServiceCall("GET", "/"), _policy(addresses)) for _ in range(2)]
    for flow in flows:
        assert next(flow) == Send("http://one", ServiceCall("GET", "/"), 1.0)
    for flow in flows:
        assert flow.send(REFUSED) == Send("http://two", ServiceCall("GET", "/"), 1.0)
    assert addresses.current == "http://two"
    addresses.leave("http://three")
    assert addresses.current == "http://two"


def test_repr_and_error_hide_the_token(client: Client, unreachable: str) -> None:
    assert "t-secret" not in repr(client) + repr(client.connection) + repr(client.policy) + repr(
        client.operations
    )
    with (
        Client(unreachable, "t-secret", retry_seconds=0) as other,
        pytest.raises(ServiceUnreachable) as caught,
    ):
        other.pools()
    assert "t-secret" not in str(caught.value)


def test_closed_client_raises(script: Script) -> None:
    client = Client(script.url)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.pools()


def test_proxies_of_the_environment_are_not_used_for_loopback(
    script: Script, unreachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", unreachable)
    monkeypatch.setenv("http_proxy", unreachable)
    script.play(Reply(200, {"items": [], "next": None}))
    for urls in ([script.url], [script.url, "http://elsewhere.example"]):
        with Client(urls, retry_seconds=0) as client:
            assert client.pools() == []


async def test_async_client_retries_with_the_same_key(script: Script) -> None:
    script.play(HANG_UP, problem(503, "backend_unavailable", retry_after=0.1), granted(), HANG_UP, released())
    async with AsyncClient(script.url) as client:
        lease = await client.acquire("shop")
        await client.release(lease.id)
    keys = {one.headers["idempotency-key"] for one in script.asked[:3]}
    assert len(keys) == 1
    assert len(script.asked) == 5


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_async_client_can_change_its_event_loop(script: Script) -> None:
    script.play(Reply(200, {"items": [], "next": None}))
    client = AsyncClient(script.url)
    for _ in range(2):
        assert asyncio.run(client.run(client.operations.pools())) == []
    del client
    gc.collect()  # connections of the ended loops warn here
