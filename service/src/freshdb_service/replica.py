"""One replica of the service: its operations, its background work, and its HTTP server.

``serve`` imports this module, and with it most of freshdb's dependencies, while the embedded servers start.

``Replica`` lists all background work in one place (``_loops``, ``_listeners``). :mod:`freshdb_service.maintenance` explains
the loops. A loop does a round whenever it is woken, and at least once in its interval, which is a setting:

===========  =====================================================  ========================  ===================
loop         does                                                   interval                  woken by
===========  =====================================================  ========================  ===================
reaper       ends leases whose deadline has passed                  ``reaper_seconds``
janitor      resets dirty databases                                 ``janitor_seconds``       a dirty database
replenisher  creates and drops databases of pools                   ``replenisher_seconds``   a waiting caller
recovery     takes over claims that have expired                    ``reaper_seconds``
deaths       takes over claims of workers that hold no lock         ``deaths_seconds``
reconciler   compares rows, Redis and servers                       ``reconciler_seconds``
vacuum       vacuums tables and catalogs where autovacuum is off    ``reconciler_seconds``
tokens       reloads tokens, writes when they were used             ``token_refresh_seconds`` a changed token
trail        writes entries of the audit log, a batch at a time     ``trail_flush_seconds``
history      writes statistics of pools and resets                  ``history_flush_seconds``
===========  =====================================================  ========================  ===================

A listener runs all the time:

===========  =====================================================
listener     does
===========  =====================================================
wakeups      receives wake-ups from other replicas
queue        shows that the waiters of this replica are alive
events       writes events to Redis
locks        holds locks for the databases that are worked on
lag          measures the delay of the event loop
liveness     checks a backend: the control plane, each server
===========  =====================================================
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
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
from freshdb_service.maintenance.loop import Loop, end, finish, run
from freshdb_service.maintenance.reaper import Reaper
from freshdb_service.maintenance.reconciler import Reconciler
from freshdb_service.maintenance.replenisher import Replenisher
from freshdb_service.maintenance.vacuum import Vacuum
from freshdb_service.observability.tracing import from_environment as tracing_from_environment
from freshdb_service.pooling.pools import Pools
from freshdb_service.pooling.reset_jobs import ResetJobs
from freshdb_service.postgres import CleaningEngine, ResetEngine, ServerOptions, ignore_lost_connections
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
"""Files that the service opens besides clients' connections, most of them connections to PostgreSQL and Redis."""
_FEWEST_CONNECTIONS = 100
_COLLECT = (2_000, 25, 100)
"""Thresholds of the garbage collector, higher than its defaults. A thousand waiting requests are a hundred thousand objects,
and none is garbage: traversing all of them takes so long that heartbeats would be late."""


@dataclass(slots=True)
class Replica:
    """The operations and the background work of one replica."""

    resources: Resources
    reset_jobs: ResetJobs
    builds: Builds
    context: Context
    token_cache: TokenCache

    @classmethod
    def over(cls, resources: Resources, engine: ResetEngine) -> Replica:
        """Create the operations of a replica. ``engine`` resets used databases."""
        reset_jobs = ResetJobs(resources, engine)
        acquiring, leases, builds = Acquirer(resources), Leases(resources, reset_jobs), Builds(resources)
        token_cache = TokenCache(
            resources.store,
            resources.wakeups,
            names_in_settings=frozenset(token.name for token in resources.settings.tokens),
        )
        context = Context(
            resources,
            acquiring,
            leases,
            TemplateRegistry(resources, builds),
            Pools(resources),
            Overview(resources),
            token_cache,
        )
        return cls(resources, reset_jobs, builds, context, token_cache)

    def _loops(self) -> list[Loop]:
        """All loops: name, one round, interval, wake-up. See the table at the top."""
        at, settings = self.resources, self.resources.settings
        dirty, demand, tokens = map(
            at.wakeups.subscribe, (WakeupReason.DIRTY, WakeupReason.DEMAND, WakeupReason.TOKENS)
        )
        reaper = Reaper(at, self.context.leases)
        janitor = Janitor(at, self.reset_jobs, wake=dirty)
        replenisher = Replenisher(at, self.reset_jobs, self.context.acquiring, wake=demand)
        reconciler = Reconciler(at, self.builds, SharedWork(at.redis))
        return [
            Loop("reaper", reaper.run_once, settings.reaper_seconds),
            Loop("janitor", janitor.run_once, settings.janitor_seconds, dirty),
            Loop("replenisher", replenisher.run_once, settings.replenisher_seconds, demand),
            Loop("recovery", reconciler.recover, settings.reaper_seconds),
            Loop("deaths", reconciler.recover_from_deaths, settings.deaths_seconds),
            Loop("reconciler", reconciler.run_once, settings.reconciler_seconds),
            Loop("vacuum", Vacuum(at).run_once, settings.reconciler_seconds),
            Loop("tokens", self.token_cache.run_once, settings.token_refresh_seconds, tokens),
            Loop("trail", at.audit_log.flush, settings.trail_flush_seconds),
            Loop("history", at.history.flush, settings.history_flush_seconds),
        ]

    def _listeners(self) -> list[tuple[str, Coroutine[object, object, None]]]:
        """All listeners. See the table at the top."""
        at = self.resources
        return [
            ("wakeups", at.wakeups.listen()),
            ("queue", at.queue.stay(at.stopping)),
            ("events", at.events.write()),
            ("locks", at.worker_locks.hold()),
            ("lag", at.metrics.measure_lag()),
            ("liveness", at.store.liveness.run()),
            *(("liveness", server.liveness.run()) for server in at.servers.values()),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the loops and listeners during the block. Afterwards, finish the work that has begun."""
        listeners = [asyncio.create_task(listener, name=name) for name, listener in self._listeners()]
        loops = asyncio.create_task(
            run(self._loops(), self.resources.stopping, self.resources.metrics), name="loops"
        )
        try:
            yield
        finally:
            self.resources.stopping.set()
            await finish(loops)
            await self.reset_jobs.resets.finish()
            await self.builds.close()
            await end(listeners)
            await self._flush()

    async def _flush(self) -> None:
        for what, write in (
            ("events", self.resources.events.flush),
            ("heartbeats and refusals of the audit log", self.resources.audit_log.flush),
            ("minutes and resets of the history", self.resources.history.flush),
            ("uses of tokens", self.token_cache.note_used),
        ):
            try:
                await write()
            except BackendUnavailable as error:
                _log.warning("could not write the last %s: %s", what, error)

    async def stop_when_idle(self, idle_seconds: float, stop: Callable[[], None]) -> None:
        """Call ``stop`` when there was no request and no lease for ``idle_seconds``."""
        while True:
            quiet = monotonic() - self.context.asked_at
            if quiet >= idle_seconds:
                async with self.resources.store.statement() as connection:
                    if await store_leases.count_live(connection) == 0:
                        _log.info("idle for %.0f s: stopping", quiet)
                        stop()
                        return
                self.context.asked_at = monotonic()
            await asyncio.sleep(max(0.1, min(idle_seconds - quiet, 5.0)))


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`serve`."""
        yield


@asynccontextmanager
async def replica_of(
    settings: Settings, *, own_servers: bool, pg_dump: Path | None, engine: ResetEngine | None = None
) -> AsyncIterator[Replica]:
    """Run a replica on servers that are available.

    Args:
        settings: at least one server, and Redis.
        own_servers: the servers were started for freshdb alone (embedded).
        pg_dump: path, needed for isolation ``schema``.
        engine: resets used databases. Default: freshdb's own engine.

    Raises:
        ConfigurationError: a setting is wrong, or no token exists and one is needed.
        ServerRefused: a server cannot be managed.
        BackendUnavailable: a backend does not answer.
    """
    ignore_lost_connections(asyncio.get_running_loop())
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
        writable_extensions=settings.writable_extensions,
        pg_dump=pg_dump,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        resources = await stack.enter_async_context(
            opened(settings, options, own_servers=own_servers, tracing=tracing)
        )
        replica = Replica.over(resources, engine or CleaningEngine(audit_every=settings.audit_every))
        await replica.token_cache.refresh()
        _check_tokens(settings, replica.token_cache, own_servers=own_servers)
        await stack.enter_async_context(replica.running())
        yield replica


def _bounds(settings: Settings) -> ConnectionLimits:
    """Return the limits of connections. Their number also depends on the limit of open files (``ulimit -n``)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _OTHER_FILES
    possible = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < possible:
        with suppress(ValueError, OSError):  # some systems allow fewer than the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, most))
    connections = max(_FEWEST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
    if connections < settings.max_connections:
        _log.warning(
            "max_connections is %d, but the limit of open files is %d (ulimit -n): at most %d connections",
            *(settings.max_connections, most, connections),
        )
    return ConnectionLimits(
        max_connections=min(connections, settings.max_connections),
        max_header_bytes=settings.max_header_bytes,
        request_seconds=settings.request_seconds,
        reader_seconds=settings.reader_seconds,
    )


def _check_tokens(settings: Settings, token_cache: TokenCache, *, own_servers: bool) -> None:
    """Check that there is a token, unless the service listens on loopback only.

    Raises:
        ConfigurationError: there is none.
    """
    if settings.host in LOOPBACK or token_cache.any_usable:
        return
    create = "`freshdb token create --name admin --scopes admin"
    if own_servers:
        remedy = f"start the service on loopback, create the first one with {create}`, and restart it"
    else:
        remedy = (
            f"create the first one with {create} --control DSN` (DSN of the control plane's database: by default "
            f"{settings.prefix}_control on the first server)"
        )
    problem = f"listening on {settings.host} needs a token, and there is none"
    message = f"{problem}: {remedy}; or set FRESHDB_TOKENS=name:secret:scopes"
    raise ConfigurationError(message)


async def answer(context: Context, listener: socket.socket, stop: asyncio.Event) -> None:
    """Answer requests until ``stop`` is set, and finish those in progress."""
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
    # All objects so far live until the end, so the garbage collector need not traverse them.
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
