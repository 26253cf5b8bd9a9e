"""Requests and answers without I/O, and the steps of flows.

A *flow* is a generator. It yields steps (send a call, or pause), receives the outcome of each, and returns its result. All
decisions of the client are in flows, written once: the requests, the retries, the timeouts. A blocking transport and an
asynchronous one execute the steps (``transport``).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from freshdb.errors import ServiceError, UnexpectedAnswer, service_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """One request.

    Attributes:
        extra_seconds: time that the service may need for its answer, in addition to the client's timeout.
        repeatable: the call can be sent again when it may have arrived, because a second one has no further effect.
    """

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_seconds: float = 0.0
    repeatable: bool = True

    def __repr__(self) -> str:
        """Show method and path only, because headers and content may contain secrets."""
        return f"ServiceCall({self.method} {self.path})"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. `sent_at` is the monotonic time before its first byte was sent."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    sent_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer. `delivered`: the service may have received and executed it."""

    reason: str
    delivered: bool
    sent_at: float


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send `call` to the service at `base`, and wait for the answer for at most `timeout_seconds`."""

    base: str
    call: ServiceCall
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Step: do nothing for a while."""

    seconds: float


Outcome: TypeAlias = Answer | Failure | None
"""Outcome of a step. ``None`` after a pause."""

Flow: TypeAlias = Generator[Send | Pause, Outcome, T]


def path(template: str, *segments: str) -> str:
    """Insert segments into a path. Each is quoted, so that it stays one segment.

    Raises:
        ValueError: a segment is empty, which would be another path.
    """
    if not all(segments):
        message = "an id or a name cannot be empty"
        raise ValueError(message)
    return template.format(*(_quoted(segment) for segment in segments))


def query(address: str, pairs: Sequence[tuple[str, str | None]]) -> str:
    """Append the pairs that have a value as a query string."""
    given = [(key, value) for key, value in pairs if value is not None]
    return f"{address}?{urlencode(given)}" if given else address


def listed(texts: str | Iterable[str]) -> list[str]:
    """Return texts as a list. One text is a list of one, and not its characters."""
    return [texts] if isinstance(texts, str) else list(texts)


def encode(body: Mapping[str, object]) -> bytes:
    """Encode a JSON body.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.
    """
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        message = f"every number in a request must be finite: {error}"
        raise ValueError(message) from None


def decode(answer: Answer) -> object:
    """Return the JSON of a successful answer.

    Raises:
        ServiceError: the answer is a problem.
        UnexpectedAnswer: the answer is not one of freshdb.
    """
    if not answer.status // 100 == 2:  # noqa: PLR2004 - the class of success
        raise problem(answer)
    return read_json(answer)


def read_json(answer: Answer) -> object:
    """Return the JSON of an answer of any status.

    Raises:
        UnexpectedAnswer: the answer is not JSON.
    """
    found: object
    try:
        found = json.loads(answer.content)
    except ValueError:
        raise _unexpected(answer) from None
    return found


def problem(answer: Answer) -> ServiceError | UnexpectedAnswer:
    """Build the error for an answer."""
    found: object
    try:
        found = json.loads(answer.content)
    except ValueError:
        found = None
    if isinstance(found, dict) and "code" in found:
        return service_error(answer.status, found, retry_after(answer))
    return _unexpected(answer)


def retry_after(answer: Answer) -> float | None:
    """Return the ``Retry-After`` seconds of an answer. A date is ignored, because it would need the wall clock."""
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
        f"status {answer.status} with {kind}, which is not an answer of freshdb: is the URL that of a freshdb service?"
    )
