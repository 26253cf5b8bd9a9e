"""One replica of the service: the use cases and loops over an installation, and the server that answers requests.

``serve`` loads this module, and with it most of the libraries that freshdb stands on, while the embedded servers start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvicorn

from freshdb_service import dashboard
from freshdb_service.api.access_log import AccessLog
from freshdb_service.api.app import create_app
from freshdb_service.api.connection_limits import ConnectionLimits, bounded
from freshdb_service.api.context import Context
from freshdb_service.auth.token_cache import TokenCache
from freshdb_service.config import LOOPBACK, Settings
from freshdb_service.errors import BackendUnavailable, ConfigurationError
from freshdb_service.leasing.acquire import Acquirer
from freshdb_service.leasing.leases import Leases
from freshdb_service.maintenance.janitor import Janitor
from freshdb_service.maintenance.loop import Loop, run
from freshdb_service.maintenance.reaper import Reaper
from freshdb_service.maintenance.reconciler import Reconciler
from freshdb_service.maintenance.replenisher import Replenisher
from freshdb_service.observability.tracing import from_environment as tracing_from_environment
from freshdb_service.pooling.pools import Pools
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import CleaningEngine, ResetEngine, ServerOptions, forgive_lost_connections
from freshdb_service.redis.shared_work import SharedWork
from freshdb_service.redis.wakeups import WakeupReason
from freshdb_service.resources import Resources, opened
from freshdb_service.status.overview import Overview
from freshdb_service.store import leases as store_leases
from freshdb_service.templates.builds import Builds
from freshdb_service.templates.registry import TemplateRegistry

_log = logging.getLogger("freshdb")
_DRAIN_SECONDS = 20
_OTHER_FILES = 500
"""Files that the service opens besides callers' connections: those to PostgreSQL and Redis, mostly."""
_FEWEST_CONNECTIONS = 100
_COLLECT = (2_000, 25, 100)
"""The collector looks less often than it would by itself. A thousand requests that wait are a hundred thousand objects, none
of them garbage: looking at all of them takes so long that heartbeats would be late."""


@dataclass(slots=True)
class Replica:
    """The use cases and loops over one installation."""

    resources: Resources
    databases: ResetJobs
    builds: Builds
    context: Context
    token_cache: TokenCache
    loops: list[Loop]

    @classmethod
    def over(cls, resources: Resources, engine: ResetEngine) -> Replica:
        """Put use cases and loops together; ``engine`` makes used databases clean."""
        settings = resources.settings
        databases = ResetJobs(resources, engine)
        acquiring, leases, builds = Acquirer(resources), Leases(resources, databases), Builds(resources)
        reconciler = Reconciler(resources, builds, SharedWork(resources.redis))
        dirty, demand = (
            resources.wakeups.subscribe(WakeupReason.DIRTY),
            resources.wakeups.subscribe(WakeupReason.DEMAND),
        )
        token_cache = TokenCache(
            resources.store,
            resources.wakeups,
            names_in_settings=frozenset(token.name for token in settings.tokens),
        )
        loops = [
            Loop("reaper", Reaper(resources, leases).run_once, settings.reaper_seconds),
            Loop(
                "janitor", Janitor(resources, databases, wake=dirty).run_once, settings.janitor_seconds, dirty
            ),
            Loop(
                "replenisher",
                Replenisher(resources, databases, acquiring, wake=demand).run_once,
                settings.replenisher_seconds,
                demand,
            ),
            Loop("recovery", reconciler.recover, settings.reaper_seconds),
            Loop("deaths", reconciler.look_for_deaths, settings.deaths_seconds),
            Loop("reconciler", reconciler.run_once, settings.reconciler_seconds),
            Loop(
                "tokens",
                token_cache.run_once,
                settings.token_refresh_seconds,
                resources.wakeups.subscribe(WakeupReason.TOKENS),
            ),
            Loop("trail", resources.audit_log.flush, settings.trail_flush_seconds),
            Loop("history", resources.history.flush, settings.history_flush_seconds),
        ]
        context = Context(
            resources,
            acquiring,
            leases,
            TemplateRegistry(resources, builds),
            Pools(resources),
            Overview(resources),
            token_cache,
        )
        return cls(resources, databases, builds, context, token_cache, loops)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the loops and listeners during the block; afterwards, finish what is under way."""
        listeners = [
            asyncio.create_task(self.resources.wakeups.listen(), name="signals"),
            asyncio.create_task(self.resources.queue.stay(self.resources.stopping), name="queue"),
            asyncio.create_task(self.resources.events.write(), name="events"),
            asyncio.create_task(self.resources.worker_locks.hold(), name="claims"),
            asyncio.create_task(self.resources.metrics.feel_lag(), name="lag"),
            *(
                asyncio.create_task(liveness.feel(), name="pulse")
                for liveness in (
                    self.resources.store.liveness,
                    *(one.liveness for one in self.resources.servers.values()),
                )
            ),
        ]
        rounds = asyncio.create_task(
            run(self.loops, self.resources.stopping, self.resources.metrics), name="loops"
        )
        try:
            yield
        finally:
            self.resources.stopping.set()
            await rounds
            await self.databases.resets.finish()
            await self.builds.close()
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            await self._write_the_last()

    async def _write_the_last(self) -> None:
        for what, write in (
            ("events", self.resources.events.flush),
            ("heartbeats and refusals of the audit trail", self.resources.audit_log.flush),
            ("minutes and resets of the history", self.resources.history.flush),
            ("uses of tokens", self.token_cache.note_used),
        ):
            try:
                await write()
            except BackendUnavailable as error:
                _log.warning("the last %s were lost: %s", what, error)

    async def stop_when_idle(self, idle_seconds: float, stop: Callable[[], None]) -> None:
        """Call ``stop`` once nobody asked for anything, and nothing was leased, for so long."""
        while True:
            quiet = monotonic() - self.context.asked_at
            if quiet >= idle_seconds:
                async with self.resources.store.statement() as connection:
                    if await store_leases.count_live(connection) == 0:
                        _log.info("nobody asked for anything for %.0f s: stopping", quiet)
                        stop()
                        return
                self.context.asked_at = monotonic()
            await asyncio.sleep(max(0.1, min(idle_seconds - quiet, 5.0)))


class _Server(uvicorn.Server):
    """Uvicorn, without its own idea of what signals mean."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`serve`."""
        yield


@asynccontextmanager
async def replica_of(
    settings: Settings, *, own_servers: bool, pg_dump: Path | None, engine: ResetEngine | None = None
) -> AsyncIterator[Replica]:
    """A replica with its loops running, over servers that are there.

    Args:
        settings: with at least one server, and Redis.
        own_servers: they were started for freshdb alone (embedded).
        pg_dump: needed for isolation ``schema``.
        engine: makes used databases clean; by default freshdb's own.

    Raises:
        ConfigurationError, ServerRefused, BackendUnavailable: it cannot start.
    """
    forgive_lost_connections(asyncio.get_running_loop())
    tracing = tracing_from_environment()
    options = ServerOptions(
        prefix=settings.prefix,
        connection_limit=settings.connection_limit,
        temp_file_bytes=settings.temp_file_bytes,
        deny=settings.deny,
        pool_size=settings.provision_concurrency * 2,
        rebuilds=settings.provision_concurrency,
        command_timeout_seconds=settings.command_timeout_seconds,
        answer_seconds=settings.answer_seconds,
        clone_strategy=settings.clone_strategy,
        idle_sessions=settings.idle_sessions,
        scram_iterations=settings.scram_iterations,
        pg_dump=pg_dump,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        resources = await stack.enter_async_context(
            opened(settings, options, own_servers=own_servers, tracing=tracing)
        )
        replica = Replica.over(resources, engine or CleaningEngine(audit_every=settings.audit_every))
        await replica.token_cache.refresh()
        _see_that_somebody_may_come_in(settings, replica.token_cache, own_servers=own_servers)
        await stack.enter_async_context(replica.running())
        yield replica


def _bounds(settings: Settings) -> ConnectionLimits:
    """The bounds of connections: not more of them than there can be files open, for all else needs some, too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _OTHER_FILES
    possible = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < possible:
        with suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, most))
    connections = max(_FEWEST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
    if connections < settings.max_connections:
        _log.warning(
            "max_connections is %d, but only %d files may be open (ulimit -n): at most %d connections",
            *(settings.max_connections, most, connections),
        )
    return ConnectionLimits(
        max_connections=min(connections, settings.max_connections),
        max_header_bytes=settings.max_header_bytes,
        request_seconds=settings.request_seconds,
        reader_seconds=settings.reader_seconds,
    )


def _see_that_somebody_may_come_in(settings: Settings, token_cache: TokenCache, *, own_servers: bool) -> None:
    """On loopback, anybody may while there are no tokens; elsewhere it takes one."""
    if settings.host in LOOPBACK or token_cache.any_usable:
        return
    make = "`freshdb token create --name admin --scopes admin"
    if own_servers:
        first = f"start the service on loopback, make the first one with {make}`, and start it again"
    else:
        first = (
            f"make the first one with {make} --control DSN` (of the control plane's database: {settings.prefix}_control on "
            "the first server, unless you named another)"
        )
    needs = f"listening on {settings.host} needs a token, and there is none"
    message = f"{needs}: {first}; or set FRESHDB_TOKENS=name:secret:scopes"
    raise ConfigurationError(message)


async def answer(context: Context, listener: socket.socket, stop: asyncio.Event) -> None:
    """Answer requests until ``stop`` is set; then let those under way finish."""
    settings = context.resources.settings
    app = create_app(context)
    dashboard.install(app)
    server = _Server(
        uvicorn.Config(
            AccessLog(app, context.resources.metrics, context.resources.tracing),
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            http=bounded(_bounds(settings)),
            ws="none",
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            timeout_keep_alive=settings.idle_connection_seconds,
            server_header=False,
            date_header=False,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
    )
    # What was made until now stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_COLLECT)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    context.resources.stopping.set()
    server.should_exit = True
    stopping.cancel()
    await serving
