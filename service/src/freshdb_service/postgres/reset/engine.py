"""Reset engines: the protocol, and the engine that always rebuilds.

``cleaning_engine`` has the default engine, which cleans a database in place, and rebuilds it where that is not enough.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol
from uuid import UUID

from freshdb_reset import Cause, KnownState, Leftovers, Site
from freshdb_service.errors import IsolationUnsupported
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres.drop import drop_database, drop_schema
from freshdb_service.postgres.fencing.close_login import close_login
from freshdb_service.postgres.provision.blueprint import Blueprint
from freshdb_service.postgres.provision.clone import provision_database
from freshdb_service.postgres.provision.schema import provision_schema
from freshdb_service.postgres.server.connections import Login
from freshdb_service.postgres.server.server import Server


@dataclass(frozen=True, slots=True)
class UsedDatabase:
    """A database that was leased.

    Attributes:
        database_id: id of the database.
        isolation: isolation of its pool.
        site: its names, with the login of the lease.
        known: its baseline and mark, or ``None`` if they were not recorded.
    """

    database_id: UUID
    isolation: Isolation
    site: Site | None = None
    known: KnownState | None = None


@dataclass(frozen=True, slots=True)
class CopySource:
    """Source of new databases of a pool: the template's database, and the blueprint for isolation ``schema``."""

    template_database: str
    blueprint: Blueprint | None


@dataclass(frozen=True, slots=True)
class ResetOutcome:
    """Result of a reset.

    Attributes:
        login: login of the new generation.
        path: most expensive step: nothing, sequences, statistics, delete, truncate, reload, rebuild.
        reason: reason for this step.
        seconds: duration of the reset.
        known: baseline and mark for the next reset.
        leftovers: leftovers of the holder.
        audit: differences that an audit found, or ``None`` if there was no audit.
        cause: kind of the reason, if the database was rebuilt.
    """

    login: Login
    path: str
    reason: str
    seconds: float
    known: KnownState | None = None
    leftovers: Leftovers = field(default_factory=Leftovers)
    audit: tuple[str, ...] | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Fenced:
    """A used database after the first step of its reset: its holder is shut out.

    Attributes:
        leftovers: objects that the holder left.
        finish: the second step: clean or rebuild the database. Call it exactly once, because until then a session inside the
            database may stay open for it. Raises what ``ResetEngine.fence`` raises.
    """

    leftovers: Leftovers
    finish: Callable[[], Awaitable[ResetOutcome]]


class ResetEngine(Protocol):
    """Turns a used database into a clean one."""

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """Record the baseline of a database that was just provisioned, for its later resets.

        Raises:
            Conflict: its login does not exist: another worker has the database.
            BackendUnavailable: the server is unavailable, or refuses.
        """
        ...

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """Close the login that was handed out, terminate its backends, and inspect the database.

        Nothing has been cleaned when this returns, and it can be repeated. ``finish`` gives a clean database of
        ``generation``. After that, no older login can reach anything, and the new one reaches a database that does not
        differ from its template. If either step raises, no older login can reach the next generation.

        Raises:
            Conflict: this generation exists: another worker has the database.
            TemplateNotFound: the template does not exist.
            BackendUnavailable: the server is unavailable, or refuses.
        """
        ...


class RebuildEngine:
    """Drops a used database, and creates it from the template again. This is right in every case, and never the fastest."""

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """Record nothing, because the next reset drops the database."""
        del server, login, origin
        return None

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """See ``ResetEngine.fence``."""
        began = monotonic()
        leftovers = await fence_old(server, used)

        async def finish() -> ResetOutcome:
            login = await rebuild(server, used, origin, generation)
            reason, seconds = "this engine always rebuilds", monotonic() - began
            return ResetOutcome(login, "rebuild", reason, seconds, leftovers=leftovers, cause=Cause.ALWAYS)

        return Fenced(leftovers, finish)


async def fence_old(server: Server, used: UsedDatabase) -> Leftovers:
    """Close the login of the lease, if it is known, and return what was left open. ``rebuild`` does the rest."""
    return Leftovers() if used.site is None else await close_login(server, used.site.login)


async def rebuild(server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Login:
    """Fence and drop every older generation, and provision this one. ``ServerOptions.rebuilds`` limits the concurrency."""
    async with server.rebuilds:
        return await _rebuild(server, used, origin, generation)


async def _rebuild(server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Login:
    if used.isolation is Isolation.DATABASE:
        await drop_database(server, used.database_id, below_generation=generation)
        return await provision_database(server, used.database_id, generation, origin.template_database)
    if origin.blueprint is None:
        raise IsolationUnsupported("this pool has no blueprint: use isolation database for its template")
    shared = origin.blueprint.shared_database
    await drop_schema(server, used.database_id, shared, below_generation=generation)
    return await provision_schema(server, used.database_id, generation, origin.blueprint)
