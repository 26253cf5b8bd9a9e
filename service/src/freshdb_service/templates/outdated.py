"""Templates whose database PostgreSQL no longer clones, because an update changed the order of text.

A database has the version of the collation library (the C library, or ICU) that it was created with. After an update of the
library, indexes over text may be in a wrong order, and PostgreSQL refuses to clone the database. So the template is retired,
and its databases with it, because they are clones. A live lease goes on, and its database is dropped when it ends.

If the template was built from SQL, the service registers it again in the same transaction, and builds it. The row's lock
decides which replica does so. If that replica dies, another one takes the build over when its deadline has passed. A
template that a command built must be built by a caller again. Its row says so until then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from freshdb_service.errors import FreshdbError
from freshdb_service.lifecycle import TemplateState
from freshdb_service.postgres import OutdatedDatabase, Server, outdated_databases
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources
from freshdb_service.store import templates as store_templates
from freshdb_service.store.audit_log import FRESHDB, record
from freshdb_service.store.rows import PoolRow, TemplateRow
from freshdb_service.templates.builds import Builds, audit_entry

_log = logging.getLogger(__name__)


async def replace_outdated(
    resources: Resources,
    builds: Builds,
    server: Server,
    templates: Sequence[TemplateRow],
    pools: Sequence[PoolRow],
) -> None:
    """Retire the outdated ones among a server's templates, and build those again that have SQL."""
    try:
        found = await outdated_databases(server)
    except FreshdbError as error:  # for example, a locale that the new library does not have
        _log.warning("cannot compare the collation versions of %s: %s", server.name, error)
        return
    for template in templates:
        if template.state is TemplateState.READY and template.database_name in found:
            await _replace(resources, builds, template, found[template.database_name], pools)


async def _replace(
    resources: Resources,
    builds: Builds,
    template: TemplateRow,
    database: OutdatedDatabase,
    pools: Sequence[PoolRow],
) -> None:
    reason = (
        f"it was built with collation version {database.version}, and the server {template.server} now has "
        f"{database.actual_version or 'none'}, so its indexes may be in a wrong order"
    )
    error: dict[str, object] = {"message": reason}
    if template.sql is None:
        remedy = "build it again (freshdb template build, or a run with a build command)"
        error = {"message": f"{reason}: {remedy}", "outdated": True}
    again: TemplateRow | None = None
    async with resources.store.transaction() as connection:
        retired = await store_templates.retire_outdated(connection, template.id, error)
        if retired is None:  # another replica, or an operator, was first
            return
        await record(connection, audit_entry("retired", FRESHDB, retired, reason=reason))
        if retired.sql is not None:
            claim_seconds = resources.settings.claim_seconds
            again = await store_templates.register_again(connection, retired.id, claim_seconds)
            entry = audit_entry("building", FRESHDB, again, attempt=again.attempt, reason=reason)
            await record(connection, entry)
    _log.warning("retired the template %s: %s", template.label, reason)
    resources.events.emit("template.retired", template=template.label, reason=reason)
    if again is not None:
        resources.events.emit("template.building", template=again.label, attempt=again.attempt, reason=reason)
        builds.begin(again, in_turn=True)
    for pool in pools:
        if pool.template_id == template.id:
            await resources.queue.wake(pool.id)  # its callers would wait in vain
    await resources.wakeups.announce(WakeupReason.DEMAND)
