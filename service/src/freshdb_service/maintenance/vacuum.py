"""Vacuums what autovacuum would, where it is off: the control plane's tables, and the catalogs that servers share."""

from __future__ import annotations

from collections import Counter

from freshdb_service.postgres import vacuum_shared_catalogs
from freshdb_service.resources import Resources
from freshdb_service.store.vacuum import vacuum_tables


class Vacuum:
    """One round: vacuum what has changed much. Several replicas may do it at the same time."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._vacuumed_at: Counter[str] = Counter()

    async def run_once(self) -> None:
        """Vacuum where autovacuum is off. Elsewhere this is one query for each server."""
        async with self._resources.store.statement() as connection:
            await vacuum_tables(connection)
        for name, server in self._resources.servers.items():
            self._vacuumed_at[name] = await vacuum_shared_catalogs(server, self._vacuumed_at[name])
