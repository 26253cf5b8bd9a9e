"""What the service says of its resets: the path taken, why that one, and the seconds, read from its events."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx

_PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.03  # seldom enough not to get into the way of what is measured


@dataclass(frozen=True, slots=True)
class Reset:
    """One reset."""

    database: str
    path: str
    reason: str
    seconds: float


@dataclass(slots=True)
class Resets:
    """Reads on from where it was."""

    client: httpx.Client
    _since: str = "0"

    def of(self, database_id: str) -> Reset:
        """Wait for the next reset of this database; those of others before it are forgotten.

        Raises:
            TimeoutError: there was none.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            for reset in self._read():
                if reset.database == database_id:
                    return reset
        raise TimeoutError(f"the database {database_id} was not reset in {_PATIENCE_SECONDS:.0f} s")

    def skip(self) -> None:
        """Forget what has happened until now."""
        self.all()

    def all(self) -> list[Reset]:
        """All that happened since the last time."""
        time.sleep(2 * _LOOK_SECONDS)  # events are written behind the work
        found: list[Reset] = []
        since = ""
        while since != self._since:  # an answer holds only so many events
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
