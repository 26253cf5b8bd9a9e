"""Which server a new template is placed on."""

from __future__ import annotations

from freshdb_service.errors import BackendUnavailable
from freshdb_service.installation import Installation
from freshdb_service.store import pools as store_pools


async def placement(at: Installation) -> str:
    """The server with the fewest of our databases, among those within their limits."""
    async with at.store.statement() as connection:
        load = await store_pools.load(connection)
    settings = at.settings
    fitting = [
        (held, order, name)
        for order, name in enumerate(at.servers)
        for held, disk_bytes in [load.get(name, (0, 0))]
        if held < settings.max_databases and disk_bytes < settings.max_disk_bytes
    ]
    if not fitting:
        message = (
            "every server holds as many databases, or as much data, as it may; "
            "retire templates, or raise max_databases or max_disk_bytes"
        )
        raise BackendUnavailable(message, retry_after_seconds=10.0)
    return min(fitting)[2]
