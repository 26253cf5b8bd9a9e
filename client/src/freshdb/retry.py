"""Retries: the conditions under which a call is sent again, and the address.

- No connection (refused, no route), so that nothing was sent: the next address, then all again after a pause.
- The connection broke after the call was sent: the same, but only for repeatable calls.
- 502, 503, 504 and 429: again after ``Retry-After``, or else after a pause. 502 and 504 come from a proxy that does not know
  whether the service has executed the call, so only repeatable calls are sent again. ``pool_exhausted`` is an answer, not a
  failure. So is ``quota_exceeded`` without ``Retry-After``: a wait does not help then.

Pauses double from a tenth of a second up to five seconds. Jitter shortens each by up to half, so that callers that
failed together do not retry together. Retries end when the next attempt would start after `retry_seconds`. A 429 for
a quota is retried only as long as the caller waits for a database.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from freshdb import messages
from freshdb.errors import ServiceError, ServiceUnreachable
from freshdb.messages import Answer, Failure, Flow, Pause, Send, ServiceCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from freshdb.clock import Clock

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_GATEWAY: Final = frozenset({502, 504})


class ServiceAddresses:
    """The addresses of one service, and the current one. Shared by all calls of a client. Thread-safe."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._index = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def current(self) -> str:
        """The current address."""
        return self._urls[self._index]

    def leave(self, failed: str) -> None:
        """Advance to the next address if `failed` is the current one. Another call may have advanced it already."""
        with self._lock:
            if self._urls[self._index] == failed:
                self._index = (self._index + 1) % len(self._urls)

    def __str__(self) -> str:
        return ", ".join(self._urls)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Timeouts and retries of a client.

    Attributes:
        timeout_seconds: timeout for one answer, in addition to the `extra_seconds` of the call.
        retry_seconds: maximum time from the first attempt of a call to the start of its last.
        jitter: returns another random number from 0 to 1 at each call.
    """

    addresses: ServiceAddresses
    timeout_seconds: float
    retry_seconds: float
    clock: Clock
    jitter: Callable[[], float]


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer, and the earliest time at which the service may have received the call: perhaps by an earlier attempt."""

    answer: Answer
    counted_from: float

    @property
    def repeated(self) -> bool:
        """True if the service may have executed an earlier attempt."""
        return self.counted_from < self.answer.sent_at


def exchange(
    call: ServiceCall, policy: RetryPolicy, *, quota_wait_seconds: float | None = None
) -> Flow[TimedAnswer]:
    """Send a call until it is answered. A problem that a retry cannot solve is an answer.

    Args:
        call: the call.
        policy: addresses, timeouts and retries.
        quota_wait_seconds: maximum wait for a quota. Default: the policy's `retry_seconds`.

    Raises:
        ServiceUnreachable: no service answered.
        ServiceError: the service refused every attempt for a temporary reason.
        UnexpectedAnswer: a proxy answered every attempt instead of the service.
    """
    started_at = policy.clock()
    quota_seconds = policy.retry_seconds if quota_wait_seconds is None else quota_wait_seconds
    counted_from: float | None = None
    failures = 0
    while True:
        base = policy.addresses.current
        outcome = yield Send(base, call, policy.timeout_seconds + call.extra_seconds)
        if isinstance(outcome, Answer):
            if not _should_retry(outcome, call):
                return TimedAnswer(outcome, outcome.sent_at if counted_from is None else counted_from)
            if outcome.status in _GATEWAY and counted_from is None:
                counted_from = outcome.sent_at
            budget = quota_seconds if outcome.status == _TOO_MANY else policy.retry_seconds
        else:
            failure = _failure(outcome)
            policy.addresses.leave(base)
            if failure.delivered and counted_from is None:
                counted_from = failure.sent_at
            if failure.delivered and not call.repeatable:
                raise _unreachable(base, failure, "not sent again, because the service may have executed it")
            budget = policy.retry_seconds
        failures += 1
        pause = _pause(outcome, failures, policy)
        elapsed = policy.clock() - started_at
        if elapsed + pause > budget:
            if isinstance(outcome, Answer):
                raise messages.problem(outcome)
            raise _unreachable(str(policy.addresses), _failure(outcome), f"tried for {elapsed:.0f} s")
        if pause > 0:
            yield Pause(pause)


def _should_retry(answer: Answer, call: ServiceCall) -> bool:
    if answer.status == _UNAVAILABLE:
        error = messages.problem(answer)
        return not (isinstance(error, ServiceError) and error.code == "pool_exhausted")
    if answer.status == _TOO_MANY:
        error = messages.problem(answer)
        over_quota = isinstance(error, ServiceError) and error.code == "quota_exceeded"
        return not over_quota or messages.retry_after(answer) is not None
    return answer.status in _GATEWAY and call.repeatable


def _pause(outcome: Answer | Failure | None, failures: int, policy: RetryPolicy) -> float:
    if isinstance(outcome, Failure) and failures < len(policy.addresses):
        return 0.0  # another address was not tried yet
    asked = messages.retry_after(outcome) if isinstance(outcome, Answer) else None
    rounds = min(failures - 1, 10)
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**rounds) * (1 - policy.jitter() / 2)
    return asked * (1 + policy.jitter() / 10) if asked else pause


def _failure(outcome: object) -> Failure:
    if isinstance(outcome, Failure):
        return outcome
    message = f"unexpected outcome of a step: {outcome!r}"
    raise TypeError(message)


def _unreachable(where: str, failure: Failure, note: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"no freshdb service answers at {where}: {failure.reason} ({note}). Check that it is running (`freshdb serve`) "
        "and that FRESHDB_URL is right"
    )
