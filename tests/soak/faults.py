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
from tests.soak.site import MORTAL, REPLICAS, Site, pid_of

_HOUR: Final = 3600
_KILLS: Final = 8
"""Weight of a killed replica. Every other fault has the weight 1."""
_SYNCHRONISED_SECONDS: Final = 10.0


@dataclass(slots=True)
class Faults:
    """One fault after another, with pauses in between."""

    site: Site
    history: History
    choose: random.Random
    say: Callable[[str], None]
    kills_alone: bool = False

    async def happen(self, until: float, *, every_seconds: float) -> None:
        """Cause faults until an instant of the monotonic clock."""
        kinds = self._kinds()
        while monotonic() < until:
            await asyncio.sleep(self.choose.uniform(0.5, 1.5) * every_seconds)
            kind = self.choose.choice(kinds)
            began = monotonic()
            what = await kind()
            await self.site.answering()
            self.history.faults.append(
                Fault(
                    what,
                    began,
                    monotonic(),
                    unreachable=kind in self._unreachable(),
                    forgets=kind in self._forgetting(),
                )
            )
            self.say(f"{what}; all there again after {monotonic() - began:.1f} s")

    def _kinds(self) -> list[Callable[[], Awaitable[str]]]:
        if self.kills_alone:
            return [self._replica_killed]
        return [
            *[self._replica_killed] * _KILLS,
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
            self._template_entered,
            self._timeouts_set,
            *([self._disk_full] if self.site.disk is not None else []),
            *([self._clock_jumps] if self.site.clocks else []),
        ]

    def _unreachable(self) -> list[Callable[[], Awaitable[str]]]:
        return [self._managed_crashed, self._managed_hangs, self._no_connection_free, self._disk_full]

    def _forgetting(self) -> list[Callable[[], Awaitable[str]]]:
        return [self._redis_emptied, self._redis_restarted, self._redis_failed_over]

    def _soon(self, longest: float) -> float:
        return self.choose.uniform(longest / 4, longest)

    async def _replica_killed(self) -> str:
        number = self.choose.randrange(MORTAL)
        self.site.replicas[number].kill()
        await asyncio.sleep(self.choose.uniform(0, 0.5))
        await self.site.restart(number)
        return f"replica {number} killed"

    async def _replica_paused(self) -> str:
        number = self.choose.randrange(MORTAL)
        process = self.site.replicas[number].process
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(TTL_SECONDS * 1.5)
        finally:
            process.send_signal(signal.SIGCONT)
        return f"replica {number} paused for longer than a TTL"

    async def _clock_jumps(self) -> str:
        number, hours = self.choose.randrange(REPLICAS), self.choose.choice((-1, 0, 1))
        self.site.clocks[number].is_off_by(hours * _HOUR)
        await asyncio.sleep(self._soon(3))
        return "the clock of a replica jumped"

    async def _redis_emptied(self) -> str:
        def empty() -> None:
            with _redis(self.site.redis_url) as connection:
                connection.flushall()

        await asyncio.to_thread(empty)
        return "Redis emptied"

    async def _redis_restarted(self) -> str:
        await self.site.redis[0].stop()
        await asyncio.sleep(self._soon(1))
        await self.site.redis[0].start()
        return "Redis restarted empty"

    async def _redis_paused(self) -> str:
        pid = psutil.Process(pid_of(self.site.redis[0].data / "redis.pid"))
        pid.suspend()
        try:
            await asyncio.sleep(self.choose.uniform(1, TTL_SECONDS / 2))
        finally:
            pid.resume()
        return "Redis paused"

    async def _redis_slow(self) -> str:
        self.site.proxy.slow(0.1)
        try:
            await asyncio.sleep(self._soon(4))
        finally:
            self.site.proxy.pass_on()
        return "Redis slow: each answer 100 ms late"

    async def _redis_refuses(self) -> str:
        await asyncio.to_thread(self.site.proxy.refuse)
        try:
            await asyncio.sleep(self._soon(3))
        finally:
            await asyncio.to_thread(self.site.proxy.pass_on)
        return "Redis refused connections"

    async def _redis_read_only(self) -> str:
        await self._redis_told(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))
        return "Redis read-only"

    async def _redis_full(self) -> str:
        await self._redis_told(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
        return "Redis out of memory"

    async def _redis_told(self, ill: tuple[str, ...], well: tuple[str, ...]) -> None:
        def tell(command: tuple[str, ...]) -> None:
            with _redis(self.site.redis_url) as connection:
                connection.execute_command(*command)  # type: ignore[no-untyped-call]

        await asyncio.to_thread(tell, ill)
        try:
            await asyncio.sleep(self._soon(3))
        finally:
            await asyncio.to_thread(tell, well)

    async def _redis_failed_over(self) -> str:
        """Fail over to a replica that lacks the last writes. The old primary is emptied and becomes the next replica."""
        lag = self._soon(1.5)

        def follow() -> None:
            with _redis(self.site.redis_urls[0]) as old, _redis(self.site.redis_urls[1]) as new:
                there = old.connection_pool.connection_kwargs
                new.config_set("masterauth", there["password"])
                new.replicaof(there["host"], there["port"])
                until = monotonic() + _SYNCHRONISED_SECONDS
                while new.info("replication")["master_link_status"] != "up" and monotonic() < until:
                    sleep(0.01)
                new.replicaof("NO", "ONE")

        def forget() -> None:
            with _redis(self.site.redis_urls[1]) as old:
                old.flushall()

        await asyncio.to_thread(follow)
        await asyncio.sleep(lag)
        self.site.redis.reverse()
        self.site.redis_urls.reverse()
        await asyncio.to_thread(self.site.proxy.lead_to, self.site.redis_url)
        await asyncio.to_thread(forget)
        return "Redis failed over to a replica that lagged"

    async def _managed_crashed(self) -> str:
        number = self.choose.randrange(len(self.site.managed))
        await self._crash(self.site.managed[number])
        return f"the managed server {('one', 'two')[number]} crashed"

    async def _control_crashed(self) -> str:
        await self._crash(self.site.control)
        return "the control plane's server crashed"

    async def _crash(self, server: EmbeddedPostgres) -> None:
        postmaster = psutil.Process(pid_of(server.data / "cluster" / "postmaster.pid"))
        postmaster.send_signal(signal.SIGQUIT)  # as ``pg_ctl stop -m immediate`` does
        while not _is_gone(postmaster):
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.choose.uniform(0, 1))
        await server.start()

    async def _managed_hangs(self) -> str:
        number = self.choose.randrange(len(self.site.managed))
        await self._hang(self.site.managed[number])
        return f"the managed server {('one', 'two')[number]} hung"

    async def _control_hangs(self) -> str:
        await self._hang(self.site.control)
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
            await asyncio.sleep(self._soon(10))
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def _no_connection_free(self) -> str:
        number = self.choose.randrange(3)
        dsn = (self.site.control_dsn, *self.site.dsns)[number]
        taken: list[psycopg.AsyncConnection] = []
        try:
            with suppress(psycopg.OperationalError):
                while True:
                    taken.append(await psycopg.AsyncConnection.connect(dsn))
            await asyncio.sleep(self._soon(2))
        finally:
            for connection in taken:
                await connection.close()
        return f"no connection free on {('the control server', 'the managed server one', 'the managed server two')[number]}"

    async def _template_entered(self) -> str:
        """Open a connection to a template, and keep it until the server closes it or the time has passed."""
        dsn = self.choose.choice(self.site.dsns)
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
                            await asyncio.sleep(self._soon(3))
                    await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        return "a client in a template"

    async def _timeouts_set(self) -> str:
        dsn = self.choose.choice([self.site.control_dsn, *self.site.dsns])
        settings = ("statement_timeout", "lock_timeout")
        options = " ".join(f"-c {name}=0" for name in settings)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, options=options) as superuser:
            for name in settings:
                await superuser.execute(f"ALTER ROLE freshdb SET {name} TO '1ms'")
            try:
                await superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'freshdb%'"
                )
                await asyncio.sleep(self._soon(3))
            finally:
                await superuser.execute("ALTER ROLE freshdb RESET ALL")
        return "timeouts of 1 ms for the service's role, and all its sessions ended"

    async def _disk_full(self) -> str:
        disk = self.site.disk
        if disk is None:
            raise AssertionError
        filler = disk / "filler"
        await asyncio.to_thread(_fill, filler)
        try:
            await asyncio.sleep(self._soon(2))
        finally:
            filler.unlink()
        await self.site.managed[1].start()  # in case the full disk has stopped it
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
