"""Cache of the pools that serve requests. It may be stale, because the grant refuses a pool that is out of date."""

from __future__ import annotations

from time import monotonic
from typing import Final
from uuid import UUID

from freshdb_service.errors import IsolationUnsupported, TemplateBuilding, TemplateFailed, TemplateNotFound
from freshdb_service.lifecycle import Isolation, TemplateState
from freshdb_service.resources import Resources
from freshdb_service.store import pools as store_pools
from freshdb_service.store import templates as store_templates
from freshdb_service.store.rows import PoolRow, TemplateRow

_CACHE_SECONDS: Final = 5.0


class PoolLookup:
    """The pools of recent requests."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._known: dict[tuple[str, Isolation], tuple[UUID, float]] = {}

    async def find(self, template: str, isolation: Isolation) -> UUID:
        """Return the pool of a template (``name`` or ``name@fingerprint``). Create it if there is none.

        Raises:
            TemplateNotFound: the template is not registered.
            TemplateBuilding: its build has not finished.
            TemplateFailed: its build failed.
            IsolationUnsupported: it does not support this isolation.
        """
        known = self._known.get((template, isolation))
        if known is not None and known[1] > monotonic():
            return known[0]
        name, _, fingerprint = template.partition("@")
        async with self._resources.store.statement() as connection:
            found = await store_templates.find(connection, name, fingerprint or None)
            if found is None or found.state is TemplateState.RETIRED:
                raise missing_template(template, found)
            if found.state is TemplateState.BUILDING:
                message = (
                    f"the template {found.label} is still being built; "
                    f"wait for it (GET /v1/templates/{found.id}?wait_seconds=30)"
                )
                raise TemplateBuilding(message, retry_after_seconds=1.0)
            if found.state is TemplateState.FAILED:
                error = dict(found.error or {})
                message = (
                    f"the build of template {found.label} failed: {error.get('message', 'no reason given')}"
                )
                raise TemplateFailed(message, extra=error)
            settings = self._resources.settings
            pool = await store_pools.ensure(
                connection,
                found,
                isolation,
                min_ready=settings.min_ready,
                max_size=settings.max_size,
                idle_seconds=settings.idle_seconds,
            )
        if pool.refusal is not None:
            raise _unsupported(pool)
        self._known[template, isolation] = (pool.id, monotonic() + _CACHE_SECONDS)
        return pool.id

    def forget(self, template: str, isolation: Isolation) -> None:
        """Read the pool again at the next request."""
        self._known.pop((template, isolation), None)


def missing_template(reference: str, outdated: TemplateRow | None) -> TemplateNotFound:
    """Return the error for a template that is not registered, or was retired because it is outdated."""
    if outdated is None:
        return TemplateNotFound(f"there is no template {reference!r}; register it first (POST /v1/templates)")
    why = (outdated.error or {}).get("message")
    return TemplateNotFound(f"the template {outdated.label} was retired: {why}")


def _unsupported(pool: PoolRow) -> IsolationUnsupported:
    reasons = pool.refusal or []
    message = (
        f"the template {pool.template} cannot be leased with isolation {pool.isolation}: {'; '.join(reasons)}"
    )
    return IsolationUnsupported(message, reasons=reasons)
