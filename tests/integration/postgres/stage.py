"""Shared parts of the tests of managed servers: templates, pools of both isolations, connections of holders, dumps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from freshdb_service.embedded import postgres_binaries
from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import (
    CleaningEngine,
    CopySource,
    ExtensionForm,
    KnownState,
    Login,
    ResetEngine,
    ResetOutcome,
    Server,
    Site,
    UsedDatabase,
    create_build,
    drop_database,
    drop_schema,
    prepare_shared,
    provision_database,
    provision_schema,
    run_sql,
    seal,
)
from freshdb_service.postgres.names import Kind, Name
from tests.limits import LIMIT_SECONDS

EVERYTHING = Path(__file__).with_name("everything.sql").read_text(encoding="utf-8")


def pg_dump() -> Path:
    binaries = postgres_binaries(18)
    assert binaries is not None
    return binaries / "pg_dump"


@dataclass(frozen=True, slots=True)
class Template:
    id: UUID
    database: str
    build: Login


@dataclass(slots=True)
class Pool:
    """Databases of one isolation, created from one template."""

    server: Server
    isolation: Isolation
    origin: CopySource
    id: UUID = field(default_factory=uuid4)
    engine: ResetEngine = field(default_factory=CleaningEngine)
    used: dict[UUID, UsedDatabase] = field(default_factory=dict)
    """Rows that the control plane would store for each database."""
    logins: dict[UUID, Login] = field(default_factory=dict)

    async def provision(self, database_id: UUID, generation: int = 1) -> Login:
        if self.origin.blueprint is None:
            login = await provision_database(
                self.server, database_id, generation, self.origin.template_database
            )
        else:
            login = await provision_schema(self.server, database_id, generation, self.origin.blueprint)
        self._note(database_id, login, await self.engine.note(self.server, login, self.origin))
        return login

    async def reset(self, database_id: UUID, generation: int) -> ResetOutcome:
        fenced = await self.engine.fence(self.server, self.used[database_id], self.origin, generation)
        outcome = await fenced.finish()
        self._note(database_id, outcome.login, outcome.known)
        return outcome

    def name(self, database_id: UUID, generation: int) -> Name:
        kind = Kind.DATABASE if self.isolation is Isolation.DATABASE else Kind.SCHEMA
        return self.server.name_of(kind, database_id, generation)

    def _note(self, database_id: UUID, login: Login, known: KnownState | None) -> None:
        site = Site(login.database, login.schema, login.user)
        self.logins[database_id] = login
        self.used[database_id] = UsedDatabase(database_id, self.isolation, site, known)

    async def drop(self, database_id: UUID) -> None:
        if self.origin.blueprint is None:
            await drop_database(self.server, database_id)
        else:
            await drop_schema(self.server, database_id, self.origin.blueprint.shared_database)


async def build_template(server: Server, *sql: str, extensions: Sequence[ExtensionForm] = ()) -> Template:
    template_id = uuid4()
    build = await create_build(server, template_id, 1, extensions)
    await run_sql(server, build, sql, timeout_seconds=60)
    sealed = await seal(server, template_id, 1)
    return Template(template_id, sealed.database, build)


async def pool_of(server: Server, isolation: Isolation, template: Template) -> Pool:
    pool_id = uuid4()
    if isolation is Isolation.DATABASE:
        return Pool(server, isolation, CopySource(template.database, None), pool_id)
    blueprint = await prepare_shared(server, pool_id, template.database)
    return Pool(server, isolation, CopySource(template.database, blueprint), pool_id)


async def connect(server: Server, login: Login, **settings: str) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=login.user,
        password=login.password,
        database=login.database,
        statement_cache_size=0,
        timeout=LIMIT_SECONDS,
        server_settings=settings,
    )


@asynccontextmanager
async def connected(server: Server, login: Login) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(server, login)
    try:
        yield connection
    finally:
        await connection.close(timeout=LIMIT_SECONDS)


async def dump(dsn: str, database: str, *options: str) -> str:
    """Dump a database with rows and large objects, without the lines in which two dumps always differ."""
    process = await asyncio.create_subprocess_exec(
        pg_dump(),
        f"--dbname={dsn.rsplit('/', 1)[0]}/{database}",
        "--no-comments" if "--no-comments" in options else "--encoding=UTF8",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    text = re.sub(r"^\\(un)?restrict .*$", "", out.decode(), flags=re.MULTILINE)
    return re.sub(r"\bpg_attver=\d+", "pg_attver={number}", text)  # PostgreSQL stores it for each view


def renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = re.sub(rf"\b{re.escape(old)}\b", new, text)
    return text
