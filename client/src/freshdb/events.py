"""Server-sent events, read without I/O: lines go in, events come out, and a stream that breaks goes on where it was."""

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
"""The service says that it is still there every 15 s."""
_LONGEST_PAUSE_SECONDS: Final = 5.0


class EventReader:
    """Puts the lines of one stream together; remembers the last event's id, to go on from there."""

    def __init__(self, since: str | None, policy: RetryPolicy) -> None:
        self._since = since
        self._policy = policy
        self._alive_at = policy.clock()
        self._failures = 0
        self._kind = ""
        self._data: list[str] = []
        self._id: str | None = None

    def request(self, *, follow: bool) -> Send:
        """Make the request that goes on from here."""
        pairs = [("follow", "true" if follow else "false"), ("since", self._since)]
        call = ServiceCall("GET", query("/v1/events", pairs), headers={"accept": "text/event-stream"})
        return Send(self._policy.addresses.current, call, _SILENCE_SECONDS)

    def broke(self, failure: Failure) -> None:
        """Take note that the stream broke, or could not be opened.

        Raises:
            ServiceUnreachable: it has been like that for too long.
        """
        self._forget()
        self._policy.addresses.leave(self._policy.addresses.current)
        if self._policy.clock() - self._alive_at > self._policy.retry_seconds:
            message = f"no freshdb service streams events at {self._policy.addresses}: {failure.reason}"
            raise ServiceUnreachable(message)

    def pause_seconds(self) -> float:
        """How long to wait before the next request."""
        self._failures += 1
        longest: float = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(self._failures, 10))
        return longest * (1 - self._policy.chance() / 2)

    def feed(self, line: str) -> Event | None:
        """Take a line without its end; gives an event when the line was the last of one."""
        self._alive_at, self._failures = self._policy.clock(), 0
        if line:
            field, _, value = line.partition(":")
            self._take(field, value.removeprefix(" "))
            return None
        event = self._finish()
        self._forget()
        return event

    def _forget(self) -> None:
        self._kind, self._data, self._id = "", [], None

    def _take(self, field: str, value: str) -> None:
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value

    def _finish(self) -> Event | None:
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
