"""Files by which the controller and the workers of one pytest-xdist run exchange data.

The controller of xdist does not collect, so it does not know whether any test needs a database. The workers know, but they
have no terminal, and each of them would report the same failed build. So they work in these steps:

1. The controller passes the path of one directory to each worker (``workerinput``).
2. A worker that has collected writes the templates that its tests need, before it reports to the controller.
3. On this report, the controller reads that file, starts the service and ensures the templates once. It shows progress,
   or its one error, on the terminal, and writes the result. No worker has run a test at this time, because xdist
   distributes tests only after all workers have reported.
4. A worker reads the result when its first test needs a database.

A run without such tests costs one empty directory. A worker on another machine does not see the files and
prepares by itself. The service grants the build to only one client.
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
    """The templates that the collected tests need, or the error in the settings that hides them."""

    templates: frozenset[str] = frozenset()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """URL of the service for this run, the exact template for each template name, and warnings about their builds."""

    url: str
    templates: dict[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The directory of one run."""

    directory: Path

    def write_needs(self, worker: str, needs: NeededTemplates) -> None:
        """Write the needs of a worker's tests."""
        self._write(f"needs-{worker}.json", {"templates": sorted(needs.templates), "error": needs.error})

    def read_needs(self, worker: str) -> NeededTemplates:
        """Read the needs of a worker's tests. Without a file, there are none."""
        found = self._read(f"needs-{worker}.json")
        if not isinstance(found, dict):
            return NeededTemplates()
        return NeededTemplates(frozenset(str(name) for name in found["templates"]), found["error"])

    def write_prepared(self, prepared: PreparedRun) -> None:
        """Write the controller's result."""
        self._write("prepared.json", asdict(prepared))

    def read_prepared(self) -> PreparedRun | None:
        """Read the controller's result, if there is one."""
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
