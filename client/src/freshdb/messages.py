"""Requests and answers without I/O, and the flows made of them.

A *flow* is a generator that yields steps (send this call, pause so long) and is told how each went; it returns its
result. All that the client decides (what to ask, when to ask again, when to give up) is in flows, written once; a
transport that blocks and one that awaits carry the steps out (``transport``).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from freshdb.errors import ServiceError, UnexpectedAnswer, service_error

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """One request.

    Attributes:
        patience_seconds: how long the service may think before it answers, beyond the usual.
        repeatable: sending it twice does no more than once, so that it may be sent again when nobody knows
            whether the first one arrived.
    """

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    patience_seconds: float = 0.0
    repeatable: bool = True

    def __repr__(self) -> str:
        """Method and path; headers and content may hold secrets."""
        return f"Call({self.method} {self.path})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one sending of a call; `sent_at` is by the monotonic clock, before the first byte left."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    sent_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Nothing came back; `delivered` says whether the service may have acted on it all the same."""

    reason: str
    delivered: bool
    sent_at: float


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send `call` to the service at `base`, and wait at most so long for the answer."""

    base: str
    call: ServiceCall
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Step: do nothing for a while."""

    seconds: float


Outcome: TypeAlias = Answer | Failure | None
"""How a step went; ``None`` after a pause."""

Flow: TypeAlias = Generator[Send | Pause, Outcome, T]


def path(template: str, *segments: str) -> str:
    """Fill segments into a path, each quoted so that it stays one segment.

    Raises:
        ValueError: a segment is empty, which would make it another path.
    """
    if not all(segments):
        message = "an id or a name cannot be empty"
        raise ValueError(message)
    return template.format(*(_quoted(segment) for segment in segments))


def query(address: str, pairs: Sequence[tuple[str, str | None]]) -> str:
    """Append the pairs that have a value."""
    given = [(key, value) for key, value in pairs if value is not None]
    return f"{address}?{urlencode(given)}" if given else address


def encode(body: Mapping[str, object]) -> bytes:
    """Write a JSON body.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        message = f"every number in a request must be finite: {error}"
        raise ValueError(message) from None


def decode(answer: Answer) -> object:
    """Take the JSON of an answer that says success.

    Raises:
        ServiceError: the answer is a problem.
        UnexpectedAnswer: it is nothing that freshdb says.
    """
    if not answer.status // 100 == 2:  # noqa: PLR2004 - the class of success
        raise problem(answer)
    return read_json(answer)


def read_json(answer: Answer) -> object:
    """Take the JSON of an answer, whatever its status.

    Raises:
        UnexpectedAnswer: it is not JSON.
    """
    found: object
    try:
        found = json.loads(answer.content)
    except ValueError:
        raise _unexpected(answer) from None
    return found


def problem(answer: Answer) -> ServiceError | UnexpectedAnswer:
    """Make the error that an answer stands for."""
    found: object
    try:
        found = json.loads(answer.content)
    except ValueError:
        found = None
    if isinstance(found, dict) and "code" in found:
        return service_error(answer.status, found, retry_after(answer))
    return _unexpected(answer)


def retry_after(answer: Answer) -> float | None:
    """Seconds that the service asked to wait before the next attempt; a date, which needs a wall clock, is ignored."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _quoted(segment: str) -> str:
    quoted = quote(segment, safe="@")
    return quoted.replace(".", "%2E") if quoted in {".", ".."} else quoted


def _unexpected(answer: Answer) -> UnexpectedAnswer:
    kind = answer.headers.get("content-type", "no content type")
    return UnexpectedAnswer(
        f"status {answer.status} with {kind}, which is not how freshdb answers: is the URL that of a freshdb service?"
    )
