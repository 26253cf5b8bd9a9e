"""The errands beside the tests, against a service that plays a script: who waits for whom, and what is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from freshdb import Client
from freshdb.pytest_plugin import prefetch as product
from freshdb.pytest_plugin.prefetch import LeaseOrder, Prefetcher, TestLease
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
LOOK = f"GET /v1/pools/{TEMPLATE}"
FIRST, SECOND = (
    LeaseOrder("test_first", "shop@abc", "database"),
    LeaseOrder("test_second", "shop@abc", "database"),
)
EXHAUSTED = problem(503, "pool_exhausted", retry_after=1)


class Desk:
    """Answers by what was asked."""

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
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare stays, and nothing is asked about it, however slow the test is; tests of the looks set their own."""
    monkeypatch.setattr(product, "_LOOK_SECONDS", ())
    monkeypatch.setattr(product, "_KEEP_SECONDS", 10 * LIMIT_SECONDS)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def script(desk: Desk) -> Iterator[Script]:
    with scripted_service() as script:
        script.play(desk)
        yield script


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, retry_seconds=0) as client:
        yield client


@pytest.fixture
def errands(client: Client) -> Iterator[Prefetcher]:
    errands = Prefetcher(client, lambda test: {"test": test}, ttl_seconds=60.0)
    try:
        yield errands
    finally:
        errands.close()


def hold(client: Client) -> TestLease:
    ending = ExitStack()
    return TestLease(ending.enter_context(client.lease("shop")), ending)


def test_a_spare_is_acquired_without_a_wait_and_taken_without_a_word(
    errands: Prefetcher, script: Script
) -> None:
    errands.look_ahead([FIRST])
    script.wait_for(1)
    spare = errands.take(FIRST)
    assert spare is not None
    assert spare.held.url
    assert methods(script.asked) == [ACQUIRE]
    body = script.asked[0].body
    assert isinstance(body, dict)
    assert (body["wait_seconds"], body["holder"], body["ttl_seconds"]) == (0.0, {"test": "test_first"}, 60.0)
    assert errands.take(FIRST) is None


def test_who_asks_while_a_spare_is_being_acquired_gets_it(
    errands: Prefetcher, script: Script, desk: Desk
) -> None:
    hold_back = threading.Event()

    def slowly() -> Reply:
        hold_back.wait(LIMIT_SECONDS)
        return granted()

    desk.acquired = slowly
    errands.look_ahead([FIRST])
    script.wait_for(1)
    threading.Timer(0.1, hold_back.set).start()
    spare = errands.take(FIRST)
    assert spare is not None
    assert methods(script.asked) == [ACQUIRE]


def test_a_spare_that_comes_after_it_was_recalled_goes_back_at_once(
    errands: Prefetcher, script: Script, desk: Desk
) -> None:
    hold_back = threading.Event()

    def slowly() -> Reply:
        hold_back.wait(LIMIT_SECONDS)
        return granted()

    desk.acquired = slowly
    errands.look_ahead([FIRST])
    script.wait_for(1)
    errands.recall()
    assert errands.take(FIRST) is None  # at once: nobody waits for what was recalled
    hold_back.set()
    script.wait_for(2)
    assert methods(script.asked) == [ACQUIRE, RELEASE]


def test_what_is_given_back_does_not_wait_for_what_is_acquired(
    errands: Prefetcher, script: Script, client: Client, desk: Desk
) -> None:
    in_hand = hold(client)
    busy, go_on = threading.Event(), threading.Event()

    def slowly() -> Reply:
        busy.set()
        go_on.wait(LIMIT_SECONDS)
        return granted()

    desk.acquired = slowly
    errands.look_ahead([FIRST])
    assert busy.wait(LIMIT_SECONDS)
    errands.give_back(in_hand, "test_before")
    script.wait_for(3)
    go_on.set()
    assert methods(script.asked)[:3] == [ACQUIRE, ACQUIRE, RELEASE]


def test_what_is_acquired_does_not_wait_for_what_is_given_back(
    errands: Prefetcher, script: Script, client: Client, desk: Desk
) -> None:
    in_hand = hold(client)
    go_on = threading.Event()
    desk.before_release = lambda: go_on.wait(LIMIT_SECONDS)
    errands.give_back(in_hand, "test_before")
    script.wait_for(2)
    errands.look_ahead([FIRST])
    script.wait_for(3)
    spare = errands.take(FIRST)
    assert spare is not None
    assert not go_on.is_set()
    go_on.set()


def test_leases_are_given_back_in_order_and_no_more_than_a_few_are_left_to_be(
    errands: Prefetcher, script: Script, client: Client, desk: Desk
) -> None:
    numbers = iter(range(10))
    desk.acquired = lambda: granted(id=f"lease-{next(numbers)}")
    all_in_hand = [hold(client) for _ in range(7)]
    go_on, given_back = threading.Event(), threading.Semaphore(0)
    desk.before_release = lambda: go_on.wait(LIMIT_SECONDS)

    def finish_tests() -> None:
        for number, in_hand in enumerate(all_in_hand):
            errands.give_back(in_hand, f"test_{number}")
            given_back.release()

    tests = threading.Thread(target=finish_tests)
    tests.start()
    for _ in range(5):  # one is on its way, four are to be
        assert given_back.acquire(timeout=LIMIT_SECONDS)
    assert not given_back.acquire(timeout=0.2)
    go_on.set()
    tests.join()
    errands.settle()
    assert methods(script.asked)[7:] == [f"DELETE /v1/leases/lease-{number}" for number in range(7)]


def test_an_address_that_was_given_back_cannot_be_had_any_more(errands: Prefetcher, client: Client) -> None:
    in_hand = hold(client)
    errands.give_back(in_hand, "test_before")
    assert in_hand.held.ended
    assert in_hand.held.loss is None


def test_an_exhausted_pool_is_asked_again_a_few_times(
    errands: Prefetcher, script: Script, desk: Desk
) -> None:
    replies = iter([EXHAUSTED, EXHAUSTED, granted()])
    desk.acquired = lambda: next(replies)
    errands.look_ahead([FIRST])
    script.wait_for(3)
    spare = errands.take(FIRST)
    assert spare is not None
    assert methods(script.asked) == [ACQUIRE] * 3


def test_any_other_refusal_is_nobodys_business(errands: Prefetcher, script: Script, desk: Desk) -> None:
    desk.acquired = lambda: problem(404, "template_not_found")
    errands.look_ahead([FIRST])
    script.wait_for(1)
    assert errands.take(FIRST) is None
    assert errands.settle().losses == []
    assert methods(script.asked) == [ACQUIRE]


def test_a_spare_goes_back_when_somebody_waits_and_none_is_acquired_for_a_while(
    errands: Prefetcher, script: Script, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "_LOOK_SECONDS", [0.05 * number for number in range(1, 10_000)])
    monkeypatch.setattr(product, "_CONTENDED_SECONDS", 10 * LIMIT_SECONDS)
    errands.look_ahead([FIRST])
    script.wait_for(4)
    assert methods(script.asked)[:4] == [ACQUIRE, LOOK, LOOK, LOOK]
    desk.waiting = 1
    eventually(lambda: RELEASE in methods(script.asked), "it is given back")
    errands.look_ahead([SECOND])
    errands.settle()
    assert methods(script.asked).count(ACQUIRE) == 1


def test_a_spare_that_nobody_takes_for_long_goes_back(
    errands: Prefetcher, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "_LOOK_SECONDS", (0.1, 0.2, 0.3, 0.4))
    monkeypatch.setattr(product, "_KEEP_SECONDS", 0.5)
    errands.look_ahead([FIRST])
    eventually(lambda: RELEASE in methods(script.asked), "it is given back")
    assert methods(script.asked) == [ACQUIRE, LOOK, LOOK, LOOK, LOOK, RELEASE]
    assert errands.take(FIRST) is None
    monkeypatch.setattr(product, "_KEEP_SECONDS", 10 * LIMIT_SECONDS)
    errands.look_ahead([SECOND])
    script.wait_for(7)
    assert errands.take(SECOND) is not None


def test_after_a_spare_that_was_not_wanted_none_is_acquired_until_a_test_asks(
    errands: Prefetcher, script: Script
) -> None:
    errands.look_ahead([FIRST])
    script.wait_for(1)
    eventually(lambda: bool(errands._spares), "the spare is there")
    errands.look_ahead([SECOND])
    script.wait_for(2)
    assert methods(script.asked) == [ACQUIRE, RELEASE]
    assert errands.take(SECOND) is None
    errands.look_ahead([FIRST])
    script.wait_for(3)
    assert errands.take(FIRST) is not None


def test_a_loss_is_told_once_with_its_test(
    errands: Prefetcher, client: Client, script: Script, desk: Desk
) -> None:
    in_hand = hold(client)
    desk.released = problem(410, "lease_ended", "the lease is over: revoked")
    errands.give_back(in_hand, "test_before")
    found = errands.settle()
    assert [(one.test, one.lease_id, one.reason) for one in found.losses] == [
        ("test_before", LEASE, "the lease is over: revoked")
    ]
    assert errands.settle().losses == []
    assert methods(script.asked) == [ACQUIRE, RELEASE]


def test_the_loss_of_a_spare_is_nobodys_loss(errands: Prefetcher, script: Script, desk: Desk) -> None:
    desk.released = problem(410, "lease_ended", "the lease is over: revoked")
    errands.look_ahead([FIRST])
    script.wait_for(1)
    assert errands.settle().losses == []


def test_a_release_that_failed_is_tried_again_at_the_end(
    errands: Prefetcher, client: Client, script: Script, desk: Desk
) -> None:
    in_hand = hold(client)
    desk.released = problem(503, "backend_unavailable")
    errands.give_back(in_hand, "test_before")
    script.wait_for(2)
    eventually(lambda: bool(errands._again), "it has failed")
    desk.released = Reply(200, lease_body(state="released"))
    found = errands.settle()
    assert (found.losses, found.unreleased) == ([], [])
    assert methods(script.asked)[-1] == RELEASE


def test_and_told_when_it_fails_again(errands: Prefetcher, client: Client, desk: Desk) -> None:
    in_hand = hold(client)
    desk.released = problem(503, "backend_unavailable")
    errands.give_back(in_hand, "test_before")
    assert errands.settle().unreleased == [LEASE]
    assert errands.settle().unreleased == []
