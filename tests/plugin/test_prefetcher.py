"""The background work of the plugin, against a scripted service: order, waiting, and reported problems."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from freshdb import Client
from freshdb.pytest_plugin import prefetch
from freshdb.pytest_plugin.prefetch import FixtureLease, LeaseOrder, Prefetcher
from tests.limits import LIMIT_SECONDS
from tests.plugin.suites import eventually
from tests.unit.client.scripted import (
    LEASE,
    TEMPLATE,
    Asked,
    Reply,
    Script,
    granted,
    lease_body,
    methods,
    problem,
    released,
    renewed,
    scripted_service,
)

ACQUIRE = "POST /v1/leases"
RELEASE = f"DELETE /v1/leases/{LEASE}"
CHECK = f"GET /v1/pools/{TEMPLATE}"
FIRST, SECOND = (
    LeaseOrder("test_first", "shop@abc", "database"),
    LeaseOrder("test_second", "shop@abc", "database"),
)
EXHAUSTED = problem(503, "pool_exhausted", retry_after=1)


class ScriptedService:
    """Answers each request by its method and path."""

    def __init__(self) -> None:
        self.waiting = 0
        self.acquired: Callable[[], Reply] = granted
        self.released = released()
        self.before_release: Callable[[], object] = lambda: None

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "DELETE":
            self.before_release()
            return self.released
        if asked.method == "GET":
            return Reply(200, _pool(self.waiting))
        return renewed() if asked.path.endswith("/renew") else self.acquired()


def _pool(waiting: int) -> dict[str, object]:
    return {
        "id": TEMPLATE, "template": "shop@abc", "template_id": TEMPLATE, "isolation": "database", "server": "one",
        "min_ready": 1, "max_size": 2, "idle_seconds": 1.0, "databases": {}, "waiting": waiting, "refusal": [],
        "last_error": None, "last_acquired_at": None,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep spares without checks, however slow the test is. Tests of the checks set their own intervals."""
    monkeypatch.setattr(prefetch, "_CHECK_SECONDS", ())
    monkeypatch.setattr(prefetch, "_MAX_SPARE_SECONDS", 10 * LIMIT_SECONDS)


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def script(service: ScriptedService) -> Iterator[Script]:
    with scripted_service() as script:
        script.play(service)
        yield script


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, retry_seconds=0) as client:
        yield client


@pytest.fixture
def prefetcher(client: Client) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(client, lambda test: {"test": test}, ttl_seconds=60.0)
    try:
        yield prefetcher
    finally:
        prefetcher.close()


def hold(client: Client) -> FixtureLease:
    exit_stack = ExitStack()
    return FixtureLease(exit_stack.enter_context(client.lease("shop")), exit_stack)


def test_spare_is_acquired_without_waiting_and_taken_without_a_request(
    prefetcher: Prefetcher, script: Script
) -> None:
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    spare = prefetcher.take(FIRST)
    assert spare is not None
    assert spare.held.url
    assert methods(script.asked) == [ACQUIRE]
    body = script.asked[0].body
    assert isinstance(body, dict)
    assert (body["wait_seconds"], body["holder"], body["ttl_seconds"]) == (0.0, {"test": "test_first"}, 60.0)
    assert prefetcher.take(FIRST) is None


def test_take_waits_for_a_spare_that_is_being_acquired(
    prefetcher: Prefetcher, script: Script, service: ScriptedService
) -> None:
    go_on = threading.Event()

    def slowly() -> Reply:
        go_on.wait(LIMIT_SECONDS)
        return granted()

    service.acquired = slowly
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    threading.Timer(0.1, go_on.set).start()
    spare = prefetcher.take(FIRST)
    assert spare is not None
    assert methods(script.asked) == [ACQUIRE]


def test_spare_acquired_after_release_spares_is_released_immediately(
    prefetcher: Prefetcher, script: Script, service: ScriptedService
) -> None:
    go_on = threading.Event()

    def slowly() -> Reply:
        go_on.wait(LIMIT_SECONDS)
        return granted()

    service.acquired = slowly
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    prefetcher.release_spares()
    assert prefetcher.take(FIRST) is None  # at once: a test does not wait for a released spare
    go_on.set()
    script.wait_for(2)
    assert methods(script.asked) == [ACQUIRE, RELEASE]


def test_release_does_not_wait_for_an_acquire(
    prefetcher: Prefetcher, script: Script, client: Client, service: ScriptedService
) -> None:
    lease = hold(client)
    busy, go_on = threading.Event(), threading.Event()

    def slowly() -> Reply:
        busy.set()
        go_on.wait(LIMIT_SECONDS)
        return granted()

    service.acquired = slowly
    prefetcher.prefetch([FIRST])
    assert busy.wait(LIMIT_SECONDS)
    prefetcher.release(lease, "test_before")
    script.wait_for(3)
    go_on.set()
    assert methods(script.asked)[:3] == [ACQUIRE, ACQUIRE, RELEASE]


def test_acquire_does_not_wait_for_a_release(
    prefetcher: Prefetcher, script: Script, client: Client, service: ScriptedService
) -> None:
    lease = hold(client)
    go_on = threading.Event()
    service.before_release = lambda: go_on.wait(LIMIT_SECONDS)
    prefetcher.release(lease, "test_before")
    script.wait_for(2)
    prefetcher.prefetch([FIRST])
    script.wait_for(3)
    spare = prefetcher.take(FIRST)
    assert spare is not None
    assert not go_on.is_set()
    go_on.set()


def test_leases_are_released_in_order_with_a_bounded_queue(
    prefetcher: Prefetcher, script: Script, client: Client, service: ScriptedService
) -> None:
    numbers = iter(range(10))
    service.acquired = lambda: granted(id=f"lease-{next(numbers)}")
    all_lease = [hold(client) for _ in range(7)]
    go_on, released = threading.Event(), threading.Semaphore(0)
    service.before_release = lambda: go_on.wait(LIMIT_SECONDS)

    def finish_tests() -> None:
        for number, lease in enumerate(all_lease):
            prefetcher.release(lease, f"test_{number}")
            released.release()

    tests = threading.Thread(target=finish_tests)
    tests.start()
    for _ in range(5):  # one release is being sent, four are pending
        assert released.acquire(timeout=LIMIT_SECONDS)
    assert not released.acquire(timeout=0.2)
    go_on.set()
    tests.join()
    prefetcher.drain()
    assert methods(script.asked)[7:] == [f"DELETE /v1/leases/lease-{number}" for number in range(7)]


def test_released_lease_has_ended_without_a_loss(prefetcher: Prefetcher, client: Client) -> None:
    lease = hold(client)
    prefetcher.release(lease, "test_before")
    assert lease.held.ended
    assert lease.held.loss is None


def test_acquire_is_retried_when_the_pool_is_exhausted(
    prefetcher: Prefetcher, script: Script, service: ScriptedService
) -> None:
    replies = iter([EXHAUSTED, EXHAUSTED, granted()])
    service.acquired = lambda: next(replies)
    prefetcher.prefetch([FIRST])
    script.wait_for(3)
    spare = prefetcher.take(FIRST)
    assert spare is not None
    assert methods(script.asked) == [ACQUIRE] * 3


def test_other_errors_of_an_acquire_are_not_retried_or_reported(
    prefetcher: Prefetcher, script: Script, service: ScriptedService
) -> None:
    service.acquired = lambda: problem(404, "template_not_found")
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    assert prefetcher.take(FIRST) is None
    assert prefetcher.drain().lost == []
    assert methods(script.asked) == [ACQUIRE]


def test_spare_is_released_when_clients_wait_and_prefetching_pauses(
    prefetcher: Prefetcher, script: Script, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_CHECK_SECONDS", [0.05 * number for number in range(1, 10_000)])
    monkeypatch.setattr(prefetch, "_PAUSE_SECONDS", 10 * LIMIT_SECONDS)
    prefetcher.prefetch([FIRST])
    script.wait_for(4)
    assert methods(script.asked)[:4] == [ACQUIRE, CHECK, CHECK, CHECK]
    service.waiting = 1
    eventually(lambda: RELEASE in methods(script.asked), "the spare is released")
    prefetcher.prefetch([SECOND])
    prefetcher.drain()
    assert methods(script.asked).count(ACQUIRE) == 1


def test_spare_is_released_after_its_maximum_age(
    prefetcher: Prefetcher, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_CHECK_SECONDS", (0.1, 0.2, 0.3, 0.4))
    monkeypatch.setattr(prefetch, "_MAX_SPARE_SECONDS", 0.5)
    prefetcher.prefetch([FIRST])
    eventually(lambda: RELEASE in methods(script.asked), "the spare is released")
    assert methods(script.asked) == [ACQUIRE, CHECK, CHECK, CHECK, CHECK, RELEASE]
    assert prefetcher.take(FIRST) is None
    monkeypatch.setattr(prefetch, "_MAX_SPARE_SECONDS", 10 * LIMIT_SECONDS)
    prefetcher.prefetch([SECOND])
    script.wait_for(7)
    assert prefetcher.take(SECOND) is not None


def test_no_spare_is_acquired_after_an_unused_one_until_a_test_acquires(
    prefetcher: Prefetcher, script: Script
) -> None:
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    eventually(lambda: bool(prefetcher._spares), "the spare is acquired")
    prefetcher.prefetch([SECOND])
    script.wait_for(2)
    assert methods(script.asked) == [ACQUIRE, RELEASE]
    assert prefetcher.take(SECOND) is None
    prefetcher.prefetch([FIRST])
    script.wait_for(3)
    assert prefetcher.take(FIRST) is not None


def test_lost_lease_is_reported_once_with_its_test(
    prefetcher: Prefetcher, client: Client, script: Script, service: ScriptedService
) -> None:
    lease = hold(client)
    service.released = problem(410, "lease_ended", "the lease has ended: revoked")
    prefetcher.release(lease, "test_before")
    found = prefetcher.drain()
    assert [(one.test, one.lease_id, one.reason) for one in found.lost] == [
        ("test_before", LEASE, "the lease has ended: revoked")
    ]
    assert prefetcher.drain().lost == []
    assert methods(script.asked) == [ACQUIRE, RELEASE]


def test_lost_spare_is_not_reported(prefetcher: Prefetcher, script: Script, service: ScriptedService) -> None:
    service.released = problem(410, "lease_ended", "the lease has ended: revoked")
    prefetcher.prefetch([FIRST])
    script.wait_for(1)
    assert prefetcher.drain().lost == []


def test_failed_release_is_retried_when_drained(
    prefetcher: Prefetcher, client: Client, script: Script, service: ScriptedService
) -> None:
    lease = hold(client)
    service.released = problem(503, "backend_unavailable")
    prefetcher.release(lease, "test_before")
    script.wait_for(2)
    eventually(lambda: bool(prefetcher._failed_releases), "the release has failed")
    service.released = Reply(200, lease_body(state="released"))
    found = prefetcher.drain()
    assert (found.lost, found.unreleased) == ([], [])
    assert methods(script.asked)[-1] == RELEASE


def test_release_that_fails_twice_is_reported_as_unreleased(
    prefetcher: Prefetcher, client: Client, service: ScriptedService
) -> None:
    lease = hold(client)
    service.released = problem(503, "backend_unavailable")
    prefetcher.release(lease, "test_before")
    assert prefetcher.drain().unreleased == [LEASE]
    assert prefetcher.drain().unreleased == []
