"""When a call is sent again, and where to.

- Nobody answered before anything was sent (refused, no route): the next address, then again after a pause.
- The connection broke with the call on its way: the same, but only for calls that are repeatable.
- 502, 503, 504 and 429: again after what ``Retry-After`` says, else after a pause. 502 and 504 come from a proxy
  that does not know what the service did, so again only for repeatable calls. ``pool_exhausted`` is an answer, not
  a failure; so is ``quota_exceeded`` where waiting does not help: when it does, the service says how long.

Pauses double from a tenth of a second up to five seconds, each shortened by chance to as little as half so that
callers who failed together do not come back together. It ends when the next attempt would start after
`retry_seconds`; a 429 (over a quota) is waited for only as long as the caller would wait for a database.
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
    """The addresses of one service, of which one is in use; shared by all calls of a client, thread-safe."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._index = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def current(self) -> str:
        """The one in use."""
        return self._urls[self._index]

    def leave(self, failed: str) -> None:
        """Go on to the next, unless somebody else has done so already."""
        with self._lock:
            if self._urls[self._index] == failed:
                self._index = (self._index + 1) % len(self._urls)

    def __str__(self) -> str:
        return ", ".join(self._urls)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    Attributes:
        timeout_seconds: for one answer, beyond what the call asks the service to wait.
        retry_seconds: no attempt of one call starts later than this after its first.
        chance: a number from 0 to 1, drawn anew each time.
    """

    addresses: ServiceAddresses
    timeout_seconds: float
    retry_seconds: float
    clock: Clock
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer, and since when the service may have acted on the call (an attempt before may have arrived)."""

    answer: Answer
    counted_from: float

    @property
    def repeated(self) -> bool:
        """Whether an earlier attempt may have been the one that was carried out."""
        return self.counted_from < self.answer.sent_at


def exchange(
    call: ServiceCall, policy: RetryPolicy, *, quota_wait_seconds: float | None = None
) -> Flow[TimedAnswer]:
    """Send a call until it is answered; a problem that would not go away by itself is an answer.

    Args:
        call: what to send.
        policy: how often and where to.
        quota_wait_seconds: how long to wait for a quota; by default as long as for everything else.

    Raises:
        ServiceUnreachable: nobody answered.
        ServiceError: it was refused for now until the time was over.
        UnexpectedAnswer: a proxy answered in the service's place until the time was over.
    """
    started_at = policy.clock()
    quota_seconds = policy.retry_seconds if quota_wait_seconds is None else quota_wait_seconds
    counted_from: float | None = None
    failures = 0
    while True:
        base = policy.addresses.current
        outcome = yield Send(base, call, policy.timeout_seconds + call.patience_seconds)
        if isinstance(outcome, Answer):
            if not _again(outcome, call):
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
                raise _unreachable(base, failure, "it may have been carried out, so it was not sent again")
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


def _again(answer: Answer, call: ServiceCall) -> bool:
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
        return 0.0  # there is an address that was not tried yet
    asked = messages.retry_after(outcome) if isinstance(outcome, Answer) else None
    rounds = min(failures - 1, 10)
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**rounds) * (1 - policy.chance() / 2)
    return asked * (1 + policy.chance() / 10) if asked else pause


def _failure(outcome: object) -> Failure:
    if isinstance(outcome, Failure):
        return outcome
    message = f"a call's step ended with {outcome!r}"
    raise TypeError(message)


def _unreachable(where: str, failure: Failure, note: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"no freshdb service answers at {where}: {failure.reason} ({note}). Is it running there (`freshdb serve`), "
        "and is FRESHDB_URL right?"
    )
