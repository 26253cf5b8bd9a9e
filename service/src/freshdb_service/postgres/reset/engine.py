"""Making a used database clean: what every reset engine does, and the one that always rebuilds.

``clean`` has freshdb's own engine, which cleans a database where it was touched, and rebuilds it where that is not enough.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from freshdb_service.errors import IsolationUnsupported
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres.drop import drop_database, drop_schema
from freshdb_service.postgres.fencing.close_login import close_login
from freshdb_service.postgres.provision.blueprint import Blueprint
from freshdb_service.postgres.provision.clone import provision_database
from freshdb_service.postgres.provision.schema import provision_schema
from freshdb_service.postgres.reset.baseline import Baseline, Cause, Leftovers, Mark, Site
from freshdb_service.postgres.roles import Login

if TYPE_CHECKING:
    from freshdb_service.postgres.server.server import Server


@dataclass(frozen=True, slots=True)
class KnownState:
    """What is known of a database since it was made, and since it was last clean."""

    baseline: Baseline = field(repr=False)
    mark: Mark


@dataclass(frozen=True, slots=True)
class UsedDatabase:
    """A database that was leased.

    Attributes:
        database_id: which.
        isolation: which kind.
        site: its names, with the login that was handed out.
        known: what it was like before; ``None`` if nobody noted it.
    """

    database_id: UUID
    isolation: Isolation
    site: Site | None = None
    known: KnownState | None = None


@dataclass(frozen=True, slots=True)
class CopySource:
    """What a database is made from; a blueprint for isolation ``schema``."""

    template_database: str
    blueprint: Blueprint | None


@dataclass(frozen=True, slots=True)
class ResetOutcome:
    """A clean database.

    Attributes:
        login: of the new generation.
        path: the dearest thing that was done: nothing, sequences, delete, truncate, reload, rebuild.
        reason: why that.
        seconds: how long it took.
        known: what the next reset will want to know.
        leftovers: what the holder left behind.
        audit: differences that an audit found; ``None`` if there was no audit.
        cause: the kind of reason, if it was rebuilt.
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
    """Makes a used database clean."""

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """Note what a database is like that was just provisioned, for its later resets.

        Raises:
            Conflict: its login is gone: somebody else is at it.
            BackendUnavailable: the server is away, or refuses.
        """
        ...

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """Close the login that was handed out, terminate its backends, and inspect the database.

        Nothing has been cleaned when this returns, and it can be repeated. ``finish`` gives a clean database of
        ``generation``. After that, no older login can reach anything, and the new one reaches a database that does not
        differ from its template. If either step raises, no older login can reach the next generation.

        Raises:
            Conflict: this generation exists: somebody else is at it.
            TemplateNotFound: what it is made from is gone.
            BackendUnavailable: the server is away, or refuses.
        """
        ...


class RebuildEngine:
    """Drops what was used, and makes it from the template again: right in every case, and never the fastest."""

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """Nothing: it does not matter what a database was like that is dropped anyway."""
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
    """Close the login that was handed out, if it is known, and see what was left open. The rest is for ``rebuild``."""
    return Leftovers() if used.site is None else await close_login(server, used.site.login)


async def rebuild(server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Login:
    """Fence and drop every older generation, and provision this one; a few at once."""
    async with server.rebuilds:
        return await _rebuild(server, used, origin, generation)


async def _rebuild(server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Login:
    if used.isolation is Isolation.DATABASE:
        await drop_database(server, used.database_id, below_generation=generation)
        return await provision_database(server, used.database_id, generation, origin.template_database)
    if origin.blueprint is None:
        raise IsolationUnsupported("this pool has no blueprint: its template cannot be given out as a schema")
    shared = origin.blueprint.shared_database
    await drop_schema(server, used.database_id, shared, below_generation=generation)
    return await provision_schema(server, used.database_id, generation, origin.blueprint)
