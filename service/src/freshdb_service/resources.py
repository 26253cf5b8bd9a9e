"""Connections and services that one replica uses, opened in order and closed in reverse.

An *installation* is one control plane and the servers that it manages. Its id is the stamp on all objects that it creates.
Any number of replicas can serve one installation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import UUID

from freshdb_service import migrations
from freshdb_service.auth.audit_log import AuditLog
from freshdb_service.config import Settings
from freshdb_service.errors import BackendUnavailable, ServerRefused
from freshdb_service.observability.metrics import CONTROL_PLANE, Metrics
from freshdb_service.observability.tracing import UNTRACED, Tracing
from freshdb_service.postgres import (
    Cause,
    Server,
    ServerOptions,
    close_control_database,
    ensure_control_database,
    foreign_databases,
    inventory,
    refuse_foreign_databases,
)
from freshdb_service.redis.connection import RedisConnection
from freshdb_service.redis.deadlines import Deadlines
from freshdb_service.redis.events import Events
from freshdb_service.redis.queue import Queue
from freshdb_service.redis.wakeups import Wakeups
from freshdb_service.store import pools as store_pools
from freshdb_service.store.connection import Store
from freshdb_service.store.history_buffer import History
from freshdb_service.store.worker_locks import WorkerLocks

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """Connections and services that operations and loops share."""

    id: UUID
    settings: Settings
    store: Store
    worker_locks: WorkerLocks
    servers: dict[str, Server]
    redis: RedisConnection
    deadlines: Deadlines
    wakeups: Wakeups
    queue: Queue
    events: Events
    audit_log: AuditLog
    history: History
    metrics: Metrics
    tracing: Tracing
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when this replica begins to stop. Then it grants no lease and starts no work, and endless requests end."""

    def server(self, name: str) -> Server:
        """Return a managed server by name.

        Raises:
            BackendUnavailable: this replica does not manage it.
        """
        try:
            return self.servers[name]
        except KeyError:
            message = f"this replica does not manage the server {name!r}; start it with --postgres {name}=postgresql://…"
            raise BackendUnavailable(message) from None

    def address(self, name: str) -> tuple[str, int]:
        """Return host and port of a managed server for clients. For a server of other replicas, the host is its name."""
        server = self.servers.get(name)
        host, port = (name, 0) if server is None else (server.host, server.port)
        client_host, client_port = self.settings.advertised.get(name, (host, port))
        return client_host, client_port or port


@asynccontextmanager
async def opened(
    settings: Settings,
    options: ServerOptions,
    *,
    own_servers: bool = False,
    tracing: Tracing = UNTRACED,
) -> AsyncIterator[Resources]:
    """Connect to the control plane, to Redis and to every managed server.

    Args:
        settings: at least one server, and Redis.
        options: options of all servers.
        own_servers: the servers were started for freshdb alone (embedded).
        tracing: creates spans.

    Raises:
        ConfigurationError: a DSN or URL is wrong.
        ServerRefused: a server cannot be managed.
        BackendUnavailable: a backend does not answer.
    """
    if settings.redis is None or not settings.postgres:
        message = "an installation needs at least one PostgreSQL server and Redis"
        raise ValueError(message)
    metrics = Metrics(Cause)
    async with AsyncExitStack() as stack:
        if settings.control is not None:
            control = settings.control.get_secret_value()
            await close_control_database(control, options=options)
        else:
            first = settings.servers[0]
            control = await ensure_control_database(
                first.dsn,
                f"{settings.prefix}_control",
                options=options,
                unless_shared=None if first.name in settings.adopt else first.name,
            )
        store = Store(
            control,
            answer_seconds=settings.answer_seconds,
            instrument=metrics.control_plane_calls(tracing.calls("postgresql", CONTROL_PLANE)),
            on_probe=metrics.liveness_of(CONTROL_PLANE),
        )
        stack.push_async_callback(store.close)
        await migrations.upgrade(store.patient)
        async with store.statement() as connection:
            installation_id = await store_pools.installation_id(connection)

        redis = RedisConnection(
            settings.redis.get_secret_value(),
            installation_id,
            timeout_seconds=settings.answer_seconds / 2,
            instrument=metrics.redis_calls(tracing.calls("redis", "redis")),
        )
        stack.push_async_callback(redis.close)
        await redis.check()

        servers: dict[str, Server] = {}
        for address in settings.servers:
            server = await Server.open(
                address.name,
                address.dsn,
                installation=installation_id,
                options=options,
                harden=own_servers,
                instrument=metrics.server_calls(address.name, tracing.calls("postgresql", address.name)),
                on_probe=metrics.liveness_of(address.name),
            )
            stack.push_async_callback(server.close)
            await _register(store, server, settings, urlsplit(control).path.removeprefix("/"))
            servers[address.name] = server

        wakeups = Wakeups(redis)
        yield Resources(
            id=installation_id,
            settings=settings,
            store=store,
            worker_locks=WorkerLocks(store),
            servers=servers,
            redis=redis,
            deadlines=Deadlines(redis),
            wakeups=wakeups,
            queue=Queue(redis, wakeups),
            events=Events(redis),
            audit_log=AuditLog(store),
            history=History(store),
            metrics=metrics,
            tracing=tracing,
        )


async def _register(store: Store, server: Server, settings: Settings, control_name: str) -> None:
    """Register a server in the control plane, unless it has databases of others and was not adopted by a setting.

    An earlier adoption counts for the same address only, and only if the server still has freshdb's databases.
    """
    adopt = server.name in settings.adopt
    foreign = [name for name in await foreign_databases(server) if name != control_name]
    if foreign and not adopt:
        async with store.statement() as connection:
            adopted = await store_pools.adopted(connection, server.name, host=server.host, port=server.port)
            entered, _ = (await store_pools.load(connection)).get(server.name, (0, 0))
        if not adopted:
            refuse_foreign_databases(server.name, foreign)
        if entered and not await inventory(server):
            message = (
                f"the server {server.name} has databases of others, and none of the {entered} databases and templates that "
                "freshdb had there: it seems to be another server. If freshdb must manage it all the same, use "
                f"--adopt {server.name}"
            )
            raise ServerRefused(message)
    async with store.statement() as connection:
        await store_pools.note_server(
            connection, server.name, host=server.host, port=server.port, version=server.version, adopted=adopt
        )
