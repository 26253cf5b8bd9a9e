"""Resets as the service's events report them: the path, the reason for it, and the seconds."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx

_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.03  # long enough not to disturb the measurement


@dataclass(frozen=True, slots=True)
class Reset:
    """One reset."""

    database: str
    path: str
    reason: str
    seconds: float


@dataclass(slots=True)
class Resets:
    """Reads events. Each call continues after the last event that was read."""

    client: httpx.Client
    _since: str = "0"

    def of(self, database_id: str) -> Reset:
        """Wait for the next reset of this database. Earlier resets of other databases are discarded.

        Raises:
            TimeoutError: the database was not reset in time.
        """
        until = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            for reset in self._read():
                if reset.database == database_id:
                    return reset
        raise TimeoutError(f"the database {database_id} was not reset in {_TIMEOUT_SECONDS:.0f} s")

    def skip(self) -> None:
        """Discard all events until now."""
        self.all()

    def all(self) -> list[Reset]:
        """Return all resets since the last call."""
        time.sleep(2 * _POLL_SECONDS)  # events are written after the work
        found: list[Reset] = []
        since = ""
        while since != self._since:  # a response has a limited number of events
            since = self._since
            found += self._read()
        return found

    def _read(self) -> list[Reset]:
        answer = self.client.get("/v1/events", params={"follow": "false", "since": self._since})
        answer.raise_for_status()
        found = []
        for event in answer.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line)
            self._since = fields.get("id", self._since)
            if fields.get("event") != "database.ready":
                continue
            data = json.loads(fields["data"])
            if data["how"] == "reset":
                found.append(Reset(data["database"], data["path"], data["reason"], data["seconds"]))
        return found
