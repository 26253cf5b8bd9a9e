"""What controller and workers of one pytest-xdist run tell each other: three kinds of small files.

xdist's controller does not collect, so it cannot know whether any test wants a database; its workers know,
but they have no terminal, and a failing build would be reported once by each. So:

1. the controller gives each worker the path of one directory (``workerinput``);
2. a worker that has collected writes which templates its tests want, before it says that it is ready;
3. the controller hears that the worker is ready, reads that, starts the service and makes sure of the
   templates, once, with its progress and its one error on the terminal, and writes down what it has prepared.
   No worker runs a test before: xdist hands out tests only after every worker has reported;
4. a worker reads that when its first test asks for a database.

A run without such a test costs one empty directory. A worker on another machine does not see the files and
prepares by itself: the service grants the build to one of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class NeededTemplates:
    """The templates that the collected tests want, or the mistake in the settings that hides them."""

    templates: frozenset[str] = frozenset()
    mistake: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """What was prepared for this run: the service, and the exact template behind each name."""

    url: str
    templates: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """One run's directory."""

    directory: Path

    def write_needs(self, worker: str, needs: NeededTemplates) -> None:
        """A worker says what its tests want."""
        self._write(f"needs-{worker}.json", {"templates": sorted(needs.templates), "mistake": needs.mistake})

    def read_needs(self, worker: str) -> NeededTemplates:
        """What a worker said; nothing, if it said nothing."""
        found = self._read(f"needs-{worker}.json")
        if not isinstance(found, dict):
            return NeededTemplates()
        return NeededTemplates(frozenset(str(name) for name in found["templates"]), found["mistake"])

    def write_prepared(self, prepared: PreparedRun) -> None:
        """The controller says what there is."""
        self._write("prepared.json", asdict(prepared))

    def read_prepared(self) -> PreparedRun | None:
        """What the controller said, if it did."""
        found = self._read("prepared.json")
        if not isinstance(found, dict):
            return None
        templates = {str(name): str(exact) for name, exact in found["templates"].items()}
        return PreparedRun(str(found["url"]), templates)

    def _write(self, name: str, content: object) -> None:
        partial = self.directory / f"{name}.{os.getpid()}"
        try:
            partial.write_text(json.dumps(content))
            partial.replace(self.directory / name)
        except FileNotFoundError:  # the controller is on another machine, or has ended
            return

    def _read(self, name: str) -> object:
        try:
            return json.loads((self.directory / name).read_text())
        except FileNotFoundError:
            return None
