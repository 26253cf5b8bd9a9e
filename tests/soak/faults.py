"""Faults of replicas, Redis, PostgreSQL and clocks over a long run, chosen by a seed so that a run can be repeated."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import psutil
import psycopg
import redis

from freshdb_service.embedded import EmbeddedPostgres
from tests.soak.history import Fault, History
from tests.soak.holders import TTL_SECONDS
from tests.soak.installation import KILLED_REPLICAS, REPLICAS, Installation, pid_of

_HOUR: Final = 3600
_KILL_WEIGHT: Final = 8
"""Weight of a killed replica. Every other fault has the weight 1."""
_SYNCHRONISED_SECONDS: Final = 10.0


@dataclass(slots=True)
class Faults:
    """One fault after another, with pauses in between."""

    installation: Installation
    history: History
    random_source: random.Random
    log_progress: Callable[[str], None]
    only_kills: bool = False

    async def run(self, until: float, *, every_seconds: float) -> None:
        """Cause faults until an instant of the monotonic clock."""
        kinds = self._kinds()
        while monotonic() < until:
            await asyncio.sleep(self.random_source.uniform(0.5, 1.5) * every_seconds)
            kind = self.random_source.choice(kinds)
            began = monotonic()
            description = await kind()
            await self.installation.wait_until_ready()
            self.history.faults.append(
                Fault(
                    description,
                    began,
                    monotonic(),
                    unreachable=kind in self._unreachable(),
                    loses_data=kind in self._losing_data(),
                )
            )
            self.log_progress(f"{description}; all replicas ready after {monotonic() - began:.1f} s")

    def _kinds(self) -> list[Callable[[], Awaitable[str]]]:
        if self.only_kills:
            return [self._replica_killed]
        return [
            *[self._replica_killed] * _KILL_WEIGHT,
            self._replica_paused,
            self._redis_emptied,
            self._redis_restarted,
            self._redis_paused,
            self._redis_slow,
            self._redis_refuses,
            self._redis_read_only,
            self._redis_full,
            self._redis_failed_over,
            self._managed_crashed,
            self._control_crashed,
            self._managed_hangs,
            self._control_hangs,
            self._no_connection_free,
            self._template_connected,
            self._timeouts_set,
            *([self._disk_full] if self.installation.disk is not None else []),
            *([self._clock_jumps] if self.installation.clocks else []),
        ]

    def _unreachable(self) -> list[Callable[[], Awaitable[str]]]:
        return [self._managed_crashed, self._managed_hangs, self._no_connection_free, self._disk_full]

    def _losing_data(self) -> list[Callable[[], Awaitable[str]]]:
        return [self._redis_emptied, self._redis_restarted, self._redis_failed_over]

    def _duration(self, longest: float) -> float:
        return self.random_source.uniform(longest / 4, longest)

    async def _replica_killed(self) -> str:
        number = self.random_source.randrange(KILLED_REPLICAS)
        self.installation.replicas[number].kill()
        await asyncio.sleep(self.random_source.uniform(0, 0.5))
        await self.installation.restart(number)
        return f"replica {number} killed"

    async def _replica_paused(self) -> str:
        number = self.random_source.randrange(KILLED_REPLICAS)
        process = self.installation.replicas[number].process
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(TTL_SECONDS * 1.5)
        finally:
            process.send_signal(signal.SIGCONT)
        return f"replica {number} paused for longer than a TTL"

    async def _clock_jumps(self) -> str:
        number, hours = self.random_source.randrange(REPLICAS), self.random_source.choice((-1, 0, 1))
        self.installation.clocks[number].set_offset(hours * _HOUR)
        await asyncio.sleep(self._duration(3))
        return "the clock of a replica jumped"

    async def _redis_emptied(self) -> str:
        def empty() -> None:
            with _redis(self.installation.redis_url) as connection:
                connection.flushall()

        await asyncio.to_thread(empty)
        return "Redis emptied"

    async def _redis_restarted(self) -> str:
        await self.installation.redis[0].stop()
        await asyncio.sleep(self._duration(1))
        await self.installation.redis[0].start()
        return "Redis restarted empty"

    async def _redis_paused(self) -> str:
        pid = psutil.Process(pid_of(self.installation.redis[0].data / "redis.pid"))
        pid.suspend()
        try:
            await asyncio.sleep(self.random_source.uniform(1, TTL_SECONDS / 2))
        finally:
            pid.resume()
        return "Redis paused"

    async def _redis_slow(self) -> str:
        self.installation.proxy.delay(0.1)
        try:
            await asyncio.sleep(self._duration(4))
        finally:
            self.installation.proxy.pass_on()
        return "Redis slow: each answer 100 ms late"

    async def _redis_refuses(self) -> str:
        await asyncio.to_thread(self.installation.proxy.refuse)
        try:
            await asyncio.sleep(self._duration(3))
        finally:
            await asyncio.to_thread(self.installation.proxy.pass_on)
        return "Redis refused connections"

    async def _redis_read_only(self) -> str:
        await self._redis_configured(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))
        return "Redis read-only"

    async def _redis_full(self) -> str:
        await self._redis_configured(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
        return "Redis out of memory"

    async def _redis_configured(self, fault: tuple[str, ...], repair: tuple[str, ...]) -> None:
        def execute(command: tuple[str, ...]) -> None:
            with _redis(self.installation.redis_url) as connection:
                connection.execute_command(*command)  # type: ignore[no-untyped-call]

        await asyncio.to_thread(execute, fault)
        try:
            await asyncio.sleep(self._duration(3))
        finally:
            await asyncio.to_thread(execute, repair)

    async def _redis_failed_over(self) -> str:
        """Fail over to a replica that lacks the last writes. The old primary is emptied and becomes the next replica."""
        lag = self._duration(1.5)

        def replicate() -> None:
            with (
                _redis(self.installation.redis_urls[0]) as old,
                _redis(self.installation.redis_urls[1]) as new,
            ):
                primary = old.connection_pool.connection_kwargs
                new.config_set("masterauth", primary["password"])
                new.replicaof(primary["host"], primary["port"])
                until = monotonic() + _SYNCHRONISED_SECONDS
                while new.info("replication")["master_link_status"] != "up" and monotonic() < until:
                    sleep(0.01)
                new.replicaof("NO", "ONE")

        def empty_old() -> None:
            with _redis(self.installation.redis_urls[1]) as old:
                old.flushall()

        await asyncio.to_thread(replicate)
        await asyncio.sleep(lag)
        self.installation.redis.reverse()
        self.installation.redis_urls.reverse()
        await asyncio.to_thread(self.installation.proxy.switch_to, self.installation.redis_url)
        await asyncio.to_thread(empty_old)
        return "Redis failed over to a replica that lagged"

    async def _managed_crashed(self) -> str:
        number = self.random_source.randrange(len(self.installation.managed))
        await self._crash(self.installation.managed[number])
        return f"the managed server {('one', 'two')[number]} crashed"

    async def _control_crashed(self) -> str:
        await self._crash(self.installation.control)
        return "the control plane's server crashed"

    async def _crash(self, server: EmbeddedPostgres) -> None:
        postmaster = psutil.Process(pid_of(server.data / "cluster" / "postmaster.pid"))
        postmaster.send_signal(signal.SIGQUIT)  # as ``pg_ctl stop -m immediate`` does
        while not _is_gone(postmaster):
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.random_source.uniform(0, 1))
        await server.start()

    async def _managed_hangs(self) -> str:
        number = self.random_source.randrange(len(self.installation.managed))
        await self._hang(self.installation.managed[number])
        return f"the managed server {('one', 'two')[number]} hung"

    async def _control_hangs(self) -> str:
        await self._hang(self.installation.control)
        return "the control plane's server hung"

    async def _hang(self, server: EmbeddedPostgres) -> None:
        """Stop all processes of a server: connections are accepted and never answered."""
        postmaster = psutil.Process(pid_of(server.data / "cluster" / "postmaster.pid"))
        postmaster.suspend()
        stopped = [postmaster]
        for child in postmaster.children():
            with suppress(psutil.NoSuchProcess):
                child.suspend()
                stopped.append(child)
        try:
            await asyncio.sleep(self._duration(10))
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def _no_connection_free(self) -> str:
        number = self.random_source.randrange(3)
        dsn = (self.installation.control_dsn, *self.installation.dsns)[number]
        taken: list[psycopg.AsyncConnection] = []
        try:
            with suppress(psycopg.OperationalError):
                while True:
                    taken.append(await psycopg.AsyncConnection.connect(dsn))
            await asyncio.sleep(self._duration(2))
        finally:
            for connection in taken:
                await connection.close()
        return f"no connection free on {('the control server', 'the managed server one', 'the managed server two')[number]}"

    async def _template_connected(self) -> str:
        """Open a connection to a template, and keep it until the server closes it or the time has passed."""
        dsn = self.random_source.choice(self.installation.dsns)
        with suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as superuser:
                found = await superuser.execute(
                    "SELECT datname FROM pg_database WHERE datname ~ '_t_' ORDER BY 1 LIMIT 1"
                )
                row = await found.fetchone()
                if row is not None:
                    name = row[0]
                    await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
                    with suppress(psycopg.Error):
                        async with await psycopg.AsyncConnection.connect(dsn, dbname=name):
                            await asyncio.sleep(self._duration(3))
                    await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        return "a client in a template"

    async def _timeouts_set(self) -> str:
        dsn = self.random_source.choice([self.installation.control_dsn, *self.installation.dsns])
        settings = ("statement_timeout", "lock_timeout")
        options = " ".join(f"-c {name}=0" for name in settings)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, options=options) as superuser:
            for name in settings:
                await superuser.execute(f"ALTER ROLE freshdb SET {name} TO '1ms'")
            try:
                await superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'freshdb%'"
                )
                await asyncio.sleep(self._duration(3))
            finally:
                await superuser.execute("ALTER ROLE freshdb RESET ALL")
        return "timeouts of 1 ms for the service's role, and all its sessions ended"

    async def _disk_full(self) -> str:
        disk = self.installation.disk
        if disk is None:
            raise AssertionError
        filler = disk / "filler"
        await asyncio.to_thread(_fill, filler)
        try:
            await asyncio.sleep(self._duration(2))
        finally:
            filler.unlink()
        await self.installation.managed[1].start()  # in case the full disk has stopped it
        return "the disk of the managed server two full"


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)


@contextmanager
def _redis(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
