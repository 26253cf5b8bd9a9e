"""Making a used database clean: the interface that every reset engine fills, and the engine that always rebuilds."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol
from uuid import UUID

from freshdb_service.cluster.blueprint import Blueprint
from freshdb_service.cluster.databases import provision_database
from freshdb_service.cluster.removal import drop_database, drop_schema
from freshdb_service.cluster.roles import Login
from freshdb_service.cluster.schemas import provision_schema
from freshdb_service.errors import IsolationUnsupported
from freshdb_service.lifecycle import Isolation

if TYPE_CHECKING:
    from freshdb_service.cluster.server import Server


@dataclass(frozen=True, slots=True)
class UsedDatabase:
    """A database that was leased."""

    database_id: UUID
    isolation: Isolation


@dataclass(frozen=True, slots=True)
class Origin:
    """What a database is made from; a blueprint for isolation ``schema``."""

    template_database: str
    blueprint: Blueprint | None


@dataclass(frozen=True, slots=True)
class ResetOutcome:
    """A clean database, the path that made it so, why that one, and how long it took."""

    login: Login
    path: Literal["rebuild"]
    reason: str
    seconds: float


class ResetEngine(Protocol):
    """Makes a used database clean."""

    async def reset(
        self, server: Server, used: UsedDatabase, origin: Origin, generation: int
    ) -> ResetOutcome:
        """Fence every generation below ``generation``, and give a clean database of ``generation``.

        When this returns, no older login can reach anything, and the new one reaches a database that cannot be told from
        its template. When it raises, no older login can reach the next generation's either.

        Raises:
            Conflict: this generation exists: somebody else is at it.
            TemplateNotFound: what it is made from is gone.
            BackendUnavailable: the server is away, or refuses.
        """
        ...


class RebuildEngine:
    """Drops what was used, and clones the template again: right in every case, and never the fastest."""

    async def reset(
        self, server: Server, used: UsedDatabase, origin: Origin, generation: int
    ) -> ResetOutcome:
        """See ``ResetEngine.reset``."""
        began = monotonic()
        if used.isolation is Isolation.DATABASE:
            await drop_database(server, used.database_id, below_generation=generation)
            login = await provision_database(server, used.database_id, generation, origin.template_database)
        else:
            if origin.blueprint is None:
                raise IsolationUnsupported(
                    "this pool has no blueprint: its template cannot be given out as a schema"
                )
            shared = origin.blueprint.shared_database
            await drop_schema(server, used.database_id, shared, below_generation=generation)
            login = await provision_schema(server, used.database_id, generation, origin.blueprint)
        return ResetOutcome(
            login=login, path="rebuild", reason="this engine always rebuilds", seconds=monotonic() - began
        )
