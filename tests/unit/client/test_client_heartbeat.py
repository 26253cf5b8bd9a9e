"""Due times of heartbeats and loss of leases, by a clock that the test sets."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from freshdb.errors import ServiceUnreachable
from freshdb.heartbeat import LONGEST_SLEEP_SECONDS, Heartbeat, HeartbeatQueue, HeartbeatThread
from freshdb.messages import Answer, Failure, ServiceCall
from tests.limits import LIMIT_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _answer(sent_at: float, status: int = 200) -> Answer:
    return Answer(status, {}, b"{}", sent_at)


def _down(sent_at: float) -> Failure:
    return Failure("connection refused", delivered=False, sent_at=sent_at)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Case:
    """A heartbeat with a TTL of 30 s, the answer to its renewals, and the losses that it reported."""

    def __init__(
        self, clock: Clock, *, counted_from: float = 1000.0, due_at_once: bool = False, jitter: float = 0.0
    ) -> None:
        self.losses: list[str] = []
        self.grants: float | str = 30.0
        self.beat = Heartbeat(
            ServiceCall("POST", "/renew"),
            lambda _: self.grants,
            ttl_seconds=30.0,
            counted_from=counted_from,
            due_at_once=due_at_once,
            on_lost=self.losses.append,
            clock=clock,
            jitter=lambda: jitter,
        )


def test_heartbeat_is_due_after_a_third_of_the_ttl_and_jitter_never_delays_it(clock: Clock) -> None:
    assert Case(clock).beat.due_at == 1010.0
    for jitter in (0.0, 0.5, 1.0):
        assert 8.0 <= Case(clock, counted_from=0.0, jitter=jitter).beat.due_at <= 10.0


def test_ttl_counts_from_before_the_request_was_sent(clock: Clock) -> None:
    case = Case(clock, counted_from=990.0)
    clock.now = 1019.9
    assert case.beat.loss_reason() is None
    case.beat.record(_answer(sent_at=1012.0))
    clock.now = 1041.9
    assert case.beat.loss_reason() is None
    clock.now = 1042.0
    assert case.beat.loss_reason() is not None


def test_granted_ttl_replaces_requested_ttl(clock: Clock) -> None:
    case = Case(clock)
    case.grants = 6.0
    case.beat.record(_answer(sent_at=1010.0))
    assert case.beat.due_at == 1012.0
    clock.now = 1016.0
    assert case.beat.loss_reason() is not None


def test_grant_of_uncertain_age_is_renewed_at_once(clock: Clock) -> None:
    assert Case(clock, due_at_once=True).beat.due_at <= clock.now


def test_failed_heartbeats_back_off_until_the_ttl_has_passed(clock: Clock) -> None:
    case = Case(clock)
    clock.now = case.beat.due_at
    attempts: list[float] = []
    while case.beat.loss_reason() is None:
        attempts.append(clock.now)
        case.beat.record(_down(clock.now))
        clock.now = case.beat.due_at
    gaps = [later - earlier for earlier, later in pairwise(attempts)]
    assert gaps[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert max(gaps) <= 5.0
    assert clock.now == 1030.0
    assert len(case.losses) == 1
    assert "connection refused" in case.losses[0]


def test_successful_heartbeat_after_failures_keeps_the_lease(clock: Clock) -> None:
    case = Case(clock)
    clock.now = 1029.0
    case.beat.record(_down(clock.now))
    case.beat.record(_answer(sent_at=clock.now))
    clock.now = 1058.9
    assert case.beat.loss_reason() is None
    assert case.losses == []


def test_unrelated_problem_is_retried(clock: Clock) -> None:
    case = Case(clock)

    def broken(_: Answer) -> float:
        raise ServiceUnreachable("redis is unavailable")

    case.beat._read = broken
    case.beat.record(_answer(clock.now, 503))
    assert case.beat.loss_reason() is None
    assert clock.now < case.beat.due_at < clock.now + 1


def test_ended_lease_stays_lost_after_a_later_grant(clock: Clock) -> None:
    case = Case(clock)
    case.grants = "the lease has ended: revoked"
    case.beat.record(_answer(clock.now, 410))
    case.grants = 30.0
    case.beat.record(_answer(clock.now))
    assert case.beat.loss_reason() == "the lease has ended: revoked"
    assert case.losses == ["the lease has ended: revoked"]
    assert case.beat.ended


def test_lease_is_lost_after_long_suspend_despite_late_answer(clock: Clock) -> None:
    case = Case(clock)
    clock.now += 3600
    assert case.beat.loss_reason() is not None
    case.beat.record(_answer(clock.now))
    assert case.beat.loss_reason() is not None
    assert len(case.losses) == 1


def test_stopped_heartbeat_cannot_be_lost(clock: Clock) -> None:
    case = Case(clock)
    case.beat.stop()
    clock.now += 3600
    assert case.beat.loss_reason() is None
    case.beat.record_loss("anything")
    assert case.losses == []


def test_stop_detects_an_earlier_loss(clock: Clock) -> None:
    case = Case(clock)
    clock.now += 31
    case.beat.stop()
    assert case.beat.loss_reason() is not None


def test_attempt_timeout_depends_on_the_time_left(clock: Clock) -> None:
    case = Case(clock)
    assert case.beat.attempt("http://x").timeout_seconds == 5.0
    clock.now = 1027.0
    assert case.beat.attempt("http://x").timeout_seconds == pytest.approx(1.0)
    clock.now = 1029.99
    assert case.beat.attempt("http://x").timeout_seconds == 0.2


def test_failed_callback_is_logged_and_the_loss_stays(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError

    beat = Heartbeat(
        ServiceCall("POST", "/"), lambda _: 1.0, ttl_seconds=1, counted_from=0, on_lost=fail, clock=clock
    )
    assert beat.loss_reason() is not None
    assert "ZeroDivisionError" in caplog.text


def test_queue_returns_earliest_heartbeat_and_drops_ended_ones(clock: Clock) -> None:
    queue = HeartbeatQueue()
    late, soon, over = (Case(clock, counted_from=at).beat for at in (1000.0, 995.0, 990.0))
    for beat in (late, soon, over):
        queue.put(beat)
    over.stop()
    assert queue.take_due(1004.0) is None
    assert queue.sleep_seconds(1004.0) == pytest.approx(1.0)
    assert queue.take_due(1020.0) is soon
    assert queue.take_due(1020.0) is late
    assert queue.take_due(1020.0) is None
    assert queue.sleep_seconds(1020.0) is None


def test_sleep_is_short_enough_to_detect_a_suspended_machine(clock: Clock) -> None:
    queue = HeartbeatQueue()
    queue.put(
        Heartbeat(
            ServiceCall("POST", "/"),
            lambda _: 1.0,
            ttl_seconds=9000,
            counted_from=1000.0,
            on_lost=print,
            clock=clock,
        )
    )
    assert queue.sleep_seconds(1000.0) == LONGEST_SLEEP_SECONDS


def test_one_thread_renews_all_leases_despite_an_error_in_one(
    clock: Clock,
) -> None:
    heart = HeartbeatThread(clock)
    renewals = {"bad": 0, "good": 0}
    enough = threading.Event()
    beats = {
        name: Heartbeat(
            ServiceCall("POST", name),
            lambda _: 30.0,
            ttl_seconds=30.0,
            counted_from=clock.now - 10.0,
            on_lost=lambda _: None,
            clock=clock,
        )
        for name in renewals
    }

    def send(beat: Heartbeat) -> None:
        renewals[beat.call.path] += 1
        if renewals["good"] >= 5 and renewals["bad"]:
            enough.set()
        if beat.call.path == "bad":
            raise ZeroDivisionError
        beat.record(_answer(clock.now))
        clock.now = beat.due_at

    before = threading.active_count()
    for beat in beats.values():
        heart.add(beat, send)
    assert threading.active_count() == before + 1
    assert enough.wait(LIMIT_SECONDS)
    for beat in beats.values():
        heart.remove(beat)
