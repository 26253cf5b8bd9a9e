"""Engines that freshdb is compared with: the same service, pool, API and loops, with another way to clean a database.

No engine here fences or changes the login. Each database keeps the login that its first reset created, and a release leaves
it open. So the measured cost is that of the cleaning alone, without freshdb's guarantees.

===============  ======================================================================================================
``nothing``      no cleaning: the upper limit, which the service could reach if a reset took no time
``recreate``     drops the database and creates it again from the template, by the two bare statements
``truncate``     connects, and truncates all tables of the database in one statement
===============  ======================================================================================================

``python -m tests.benchmarks.engines NAME --data DIR --port PORT`` serves with one engine. The environment has the settings.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from functools import partial
from pathlib import Path
from time import monotonic
from unittest.mock import patch
from uuid import UUID

import uvloop

from freshdb_service.config import Settings
from freshdb_service.postgres import (
    CopySource,
    Fenced,
    KnownState,
    Leftovers,
    Login,
    ResetEngine,
    ResetOutcome,
    Server,
    UsedDatabase,
    drop_database,
    provision_database,
)
from freshdb_service.serve import serve


class NoCleaning:
    """Return the same login again, immediately."""

    def __init__(self) -> None:
        self._logins: dict[UUID, Login] = {}

    async def note(self, server: Server, login: Login, origin: CopySource) -> KnownState | None:
        """Store no state of new databases."""
        del server, login, origin
        return None

    async def fence(self, server: Server, used: UsedDatabase, origin: CopySource, generation: int) -> Fenced:
        """Do nothing. A release does not wait for a fence."""
        return Fenced(Leftovers(), partial(self._finish, server, used, origin, generation))

    async def _finish(
        self, server: Server, used: UsedDatabase, origin: CopySource, generation: int
    ) -> ResetOutcome:
        """Rebuild the database the first time and remember its login. Later, call ``clean``."""
        began = monotonic()
        login = self._logins.get(used.database_id)
        if login is None:
            await drop_database(server, used.database_id, below_generation=generation)
            login = await provision_database(server, used.database_id, generation, origin.template_database)
            await self.prepare(server, login, origin)
            self._logins[used.database_id] = login
        else:
            await self.clean(server, login, origin)
        return ResetOutcome(login=login, path="rebuild", reason="a benchmark", seconds=monotonic() - began)

    async def prepare(self, server: Server, login: Login, origin: CopySource) -> None:
        """Prepare a new database. This is called once for each."""

    async def clean(self, server: Server, login: Login, origin: CopySource) -> None:
        """Clean a database. This is called for each reset after the first."""


class Recreate(NoCleaning):
    """Drops the database and creates it again."""

    async def prepare(self, server: Server, login: Login, origin: CopySource) -> None:
        """Let the login use the objects of the template's builder, because copies are not reassigned to the login."""
        async with server.maintenance() as connection:
            await connection.execute(f'GRANT "{origin.template_database}" TO "{login.user}"')

    async def clean(self, server: Server, login: Login, origin: CopySource) -> None:
        """Run two statements on an open connection."""
        strategy = "FILE_COPY" if server.file_copy else "WAL_LOG"
        async with server.maintenance() as connection:
            await connection.execute(f'DROP DATABASE IF EXISTS "{login.database}" WITH (FORCE)')
            await connection.execute(
                f'CREATE DATABASE "{login.database}" OWNER "{login.user}" TEMPLATE "{origin.template_database}" '
                f"STRATEGY {strategy}"
            )


class Truncate(NoCleaning):
    """Truncates all tables."""

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, str] = {}

    async def prepare(self, server: Server, login: Login, origin: CopySource) -> None:
        """List the tables."""
        del origin
        async with server.inside(login.database) as connection:
            self._tables[login.database] = await connection.fetchval(
                "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables WHERE "
                "schemaname NOT IN ('pg_catalog', 'information_schema')"
            )

    async def clean(self, server: Server, login: Login, origin: CopySource) -> None:
        """Run one statement on a new connection."""
        del origin
        async with server.inside(login.database) as connection:
            await connection.execute(f"TRUNCATE {self._tables[login.database]} RESTART IDENTITY CASCADE")


ENGINES: dict[str, type[ResetEngine]] = {"nothing": NoCleaning, "recreate": Recreate, "truncate": Truncate}


async def keep_login_open(server: Server, login: str) -> Leftovers:
    """Replace ``close_login`` of a release, and leave the login open."""
    del server, login
    return Leftovers()


def main() -> None:
    """Serve until a signal stops the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with (
        patch("freshdb_service.leasing.leases.close_login", keep_login_open),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        settings = Settings(data=arguments.data, port=arguments.port)
        runner.run(serve(settings, engine=ENGINES[arguments.engine]()))


if __name__ == "__main__":
    main()
