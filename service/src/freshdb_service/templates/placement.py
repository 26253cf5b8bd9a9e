"""Placement of new templates, and with them of their pools, on servers.

A template goes to the least used of the servers that answer and have room. Use is the sum of four shares: databases (of
``max_databases``), disk (of ``max_disk_bytes``), connections, and connections that run a statement (of
``max_connections``). The four shares have equal weight, as in Kubernetes' ``LeastAllocated`` strategy: a server with few
databases and hardly any free connections is no better than one with many idle databases.
https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/
"""

from __future__ import annotations

from collections.abc import Sequence

from freshdb_service.errors import BackendUnavailable
from freshdb_service.resources import Resources
from freshdb_service.status.diagnosis import ServerLimits, ServerStatus
from freshdb_service.status.server_status import all_servers

_RETRY_SECONDS = 10.0


async def placement(resources: Resources) -> str:
    """Return the name of the least used server.

    Raises:
        BackendUnavailable: no server has room, or no server with room answers.
    """
    limits = ServerLimits(resources.settings.max_databases, resources.settings.max_disk_bytes)
    managed = [one for one in await all_servers(resources) if one.managed_here]
    return least_used(managed, limits, databases_each=resources.settings.min_ready).server.name


def least_used(servers: Sequence[ServerStatus], limits: ServerLimits, *, databases_each: int) -> ServerStatus:
    """Return the least used server. Among equals, it is the first.

    Args:
        servers: candidates.
        limits: limits of each server.
        databases_each: number of databases that a new template will have. Templates placed a moment ago have none yet, but
            count with this number, so that templates registered together do not all go to one server.

    Raises:
        BackendUnavailable: no server has room, or no server with room answers.
    """

    def used(one: ServerStatus) -> float:
        server, busy = one.server, one.activity
        assert busy is not None  # noqa: S101 - the caller left out those without an answer
        databases = max(server.databases, databases_each * server.templates) + server.templates
        return (
            databases / limits.max_databases
            + server.disk_bytes / limits.max_disk_bytes
            + (busy.connections + busy.active) / busy.max_connections
        )

    roomy = [one for one in servers if _has_room(one, limits)]
    if not roomy:
        message = "all servers are full; retire templates, or raise max_databases or max_disk_bytes"
        raise BackendUnavailable(message, retry_after_seconds=_RETRY_SECONDS)
    answering = [one for one in roomy if one.activity is not None]
    if not answering:
        errors = "; ".join(f"{one.server.name}: {one.error}" for one in roomy)
        message = f"no server with room for a new template answers ({errors})"
        raise BackendUnavailable(message, retry_after_seconds=_RETRY_SECONDS)
    return min(answering, key=used)


def _has_room(one: ServerStatus, limits: ServerLimits) -> bool:
    server = one.server
    return (
        server.databases + server.templates < limits.max_databases
        and server.disk_bytes < limits.max_disk_bytes
    )
