"""Which server a new template, and with it its pools, is placed on.

Of the servers that answer and have room, the one of which the least is used, over four things that can run out: databases
(of ``max_databases``), disk (of ``max_disk_bytes``), connections, and connections in which a statement runs (of
``max_connections``). The four shares count alike, as in Kubernetes' ``LeastAllocated`` strategy: a server that has
few databases but hardly a connection free is no better than one with many idle databases.
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
    """Give the server of which the least is used.

    Raises:
        BackendUnavailable: none has room, or those that might have do not answer.
    """
    limits = ServerLimits(resources.settings.max_databases, resources.settings.max_disk_bytes)
    managed = [one for one in await all_servers(resources) if one.managed_here]
    return least_used(managed, limits, databases_each=resources.settings.min_ready).server.name


def least_used(servers: Sequence[ServerStatus], limits: ServerLimits, *, databases_each: int) -> ServerStatus:
    """Give the server of which the least is used; among equals the first.

    Args:
        servers: to choose from.
        limits: of each server.
        databases_each: so many databases a template is about to have. Those placed a moment ago have none yet, and
            count all the same, lest all that are registered together go to one server.

    Raises:
        BackendUnavailable: none has room, or those that might have do not answer.
    """

    def used(one: ServerStatus) -> float:
        server, busy = one.server, one.activity
        assert busy is not None  # noqa: S101 - those that did not answer are out
        databases = max(server.databases, databases_each * server.templates) + server.templates
        return (
            databases / limits.max_databases
            + server.disk_bytes / limits.max_disk_bytes
            + (busy.connections + busy.active) / busy.max_connections
        )

    roomy = [one for one in servers if _has_room(one, limits)]
    if not roomy:
        message = (
            "every server holds as many databases, or as much data, as it may; "
            "retire templates, or raise max_databases or max_disk_bytes"
        )
        raise BackendUnavailable(message, retry_after_seconds=_RETRY_SECONDS)
    answering = [one for one in roomy if one.activity is not None]
    if not answering:
        said = "; ".join(f"{one.server.name}: {one.error}" for one in roomy)
        message = f"no server that has room answers, so there is no place for a new template ({said})"
        raise BackendUnavailable(message, retry_after_seconds=_RETRY_SECONDS)
    return min(answering, key=used)


def _has_room(one: ServerStatus, limits: ServerLimits) -> bool:
    server = one.server
    return (
        server.databases + server.templates < limits.max_databases
        and server.disk_bytes < limits.max_disk_bytes
    )
