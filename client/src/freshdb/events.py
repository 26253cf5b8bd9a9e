"""Parser for server-sent events, without I/O. A broken stream continues after the last event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from freshdb.errors import ServiceUnreachable
from freshdb.messages import Send, ServiceCall, query
from freshdb.models import Event

if TYPE_CHECKING:
    from freshdb.messages import Failure
    from freshdb.retry import RetryPolicy

_SILENCE_SECONDS: Final = 45.0
"""Timeout for the next line. The service sends a comment every 15 s."""
_LONGEST_PAUSE_SECONDS: Final = 5.0


class EventReader:
    """Builds events from the lines of a stream, and keeps the id of the last one, to continue after it."""

    def __init__(self, since: str | None, policy: RetryPolicy) -> None:
        self._since = since
        self._policy = policy
        self._alive_at = policy.clock()
        self._failures = 0
        self._kind = ""
        self._data: list[str] = []
        self._id: str | None = None

    def request(self, *, follow: bool) -> Send:
        """Build the request for the events after the last one."""
        pairs = [("follow", "true" if follow else "false"), ("since", self._since)]
        call = ServiceCall("GET", query("/v1/events", pairs), headers={"accept": "text/event-stream"})
        return Send(self._policy.addresses.current, call, _SILENCE_SECONDS)

    def record_failure(self, failure: Failure) -> None:
        """Record that the stream broke, or could not be opened.

        Raises:
            ServiceUnreachable: no line has arrived for `retry_seconds`.
        """
        self._clear()
        self._policy.addresses.leave(self._policy.addresses.current)
        if self._policy.clock() - self._alive_at > self._policy.retry_seconds:
            message = f"no freshdb service streams events at {self._policy.addresses}: {failure.reason}"
            raise ServiceUnreachable(message)

    def pause_seconds(self) -> float:
        """Return the pause before the next request. It doubles with each failure."""
        self._failures += 1
        longest: float = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(self._failures, 10))
        return longest * (1 - self._policy.jitter() / 2)

    def feed(self, line: str) -> Event | None:
        """Parse a line without its end. Return an event if the line completes one."""
        self._alive_at, self._failures = self._policy.clock(), 0
        if line:
            field, _, value = line.partition(":")
            self._add_field(field, value.removeprefix(" "))
            return None
        event = self._build_event()
        self._clear()
        return event

    def _clear(self) -> None:
        self._kind, self._data, self._id = "", [], None

    def _add_field(self, field: str, value: str) -> None:
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value

    def _build_event(self) -> Event | None:
        if not self._data:
            return None
        content: object
        try:
            content = json.loads("\n".join(self._data))
        except ValueError:
            return None
        if self._id is not None:
            self._since = self._id
        return Event(
            self._id, self._kind or "message", content if isinstance(content, dict) else {"data": content}
        )
