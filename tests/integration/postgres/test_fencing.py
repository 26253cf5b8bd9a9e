"""An old URL reaches nothing: neither during the hand-over, nor after it, nor through a client that keeps reconnecting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
import psutil
import pytest

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Login, Server, drop_database, inventory
from freshdb_service.postgres.fencing import fence
from freshdb_service.postgres.fencing.fence import wait_for_starting
from freshdb_service.postgres.reset import RebuildEngine
from tests.integration.postgres.stage import build_template, connect, connected, pool_of
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer, Servers
from tests.services import with_database

pytestmark = pytest.mark.xdist_group("fencing")

CLOSED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Errors of an asyncpg client whose backend is terminated, depending on the moment."""
ROUNDS = 20
KNOCKERS = 3
DELAY_SECONDS = 2
SEED = "CREATE TABLE t (a integer); INSERT INTO t VALUES (1)"


@pytest.fixture(scope="module")
def postgres(postgres: PostgresServer, servers: Servers) -> PostgresServer:
    """A server for these tests only, because starting backends delay every reset on it."""
    return servers.postgres(postgres.major, owner="fencing")


@dataclass(slots=True)
class Knocking:
    """Clients that keep connecting to the old URL, and use every connection that they get."""

    server: Server
    login: Login
    tried: int = 0
    got_in: int = 0
    seen: set[tuple[str, str | None]] = field(default_factory=set)

    async def knock_forever(self) -> None:
        while True:
            self.tried += 1
            with suppress(*CLOSED):
                connection = await connect(self.server, self.login)
                self.got_in += 1
                try:
                    while True:
                        row = await connection.fetchrow("SELECT current_database(), current_schema()")
                        assert row is not None
                        self.seen.add((row[0], row[1]))
                        await connection.execute("INSERT INTO t VALUES (0)")
                        await asyncio.sleep(0)
                finally:
                    connection.terminate()
            await asyncio.sleep(0)


@asynccontextmanager
async def knocking(server: Server, login: Login) -> AsyncIterator[Knocking]:
    state = Knocking(server, login)
    tasks = [asyncio.create_task(state.knock_forever()) for _ in range(KNOCKERS)]
    try:
        yield state
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [one for one in results if isinstance(one, Exception)]
        assert not broken, broken


async def until_in(state: Knocking) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not state.got_in:
            await asyncio.sleep(0.001)


async def until_tried(state: Knocking, more: int) -> None:
    wanted = state.tried + more
    async with asyncio.timeout(LIMIT_SECONDS):
        while state.tried < wanted:
            await asyncio.sleep(0.001)


async def old_url_is_dead(server: Server, isolation: Isolation, rounds: int = ROUNDS) -> None:
    pool = await pool_of(server, isolation, await build_template(server, SEED))
    database_id = uuid4()
    login = await pool.provision(database_id)
    for generation in range(2, rounds + 2):
        async with knocking(server, login) as state:
            await until_in(state)
            outcome = await pool.reset(database_id, generation)
            inside = state.got_in
            async with server.maintenance() as connection:
                assert not await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", login.user
                )
            await until_tried(state, 2 * KNOCKERS)
            assert state.got_in == inside, "the old URL got in after the reset"
        assert state.seen <= {(login.database, login.schema or "public"), (login.database, None)}
        assert login.user != outcome.login.user
        async with connected(server, outcome.login) as connection:
            assert await connection.fetchval("SELECT array_agg(a) FROM t") == [1]
        login = outcome.login


async def test_reconnecting_client_with_old_url_never_connects(server: Server, isolation: Isolation) -> None:
    await old_url_is_dead(server, isolation)


async def test_old_url_never_connects_to_server_without_passwords(
    trusting_server: Server, isolation: Isolation
) -> None:
    async with trusting_server.maintenance() as connection:
        role = await connection.fetchval("SELECT current_user")
    impostor = Login(trusting_server.maintenance_database, None, role, "no password is asked")
    async with connected(trusting_server, impostor):
        pass  # expected: this server admits every client that names a role
    await old_url_is_dead(trusting_server, isolation)


async def test_old_url_never_connects_where_service_is_no_superuser(
    plain_server: Server, isolation: Isolation
) -> None:
    await old_url_is_dead(plain_server, isolation, rounds=6)


async def test_old_login_does_not_work_with_the_new_database(
    trusting_server: Server, isolation: Isolation
) -> None:
    pool = await pool_of(trusting_server, isolation, await build_template(trusting_server, SEED))
    database_id = uuid4()
    old = await pool.provision(database_id)
    new = (await pool.reset(database_id, 2)).login
    for database in {old.database, new.database}:
        with pytest.raises((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)):
            await connect(trusting_server, Login(database, None, old.user, old.password))
    assert (old.user, old.password) != (new.user, new.password)


async def test_rebuild_drops_old_login(server_18: Server, isolation: Isolation) -> None:
    pool = await pool_of(server_18, isolation, await build_template(server_18))
    pool.engine = RebuildEngine()
    database_id = uuid4()
    await pool.provision(database_id)
    before = {
        one.name: one.oid
        for one in await inventory(server_18)
        if one.kind == "role" and one.belongs_to(database_id)
    }
    await pool.reset(database_id, 2)
    after = {
        one.name: one.oid
        for one in await inventory(server_18)
        if one.kind == "role" and one.belongs_to(database_id)
    }
    assert len(before) == len(after) == 1
    assert not set(before) & set(after)
    assert not set(before.values()) & set(after.values())


async def test_backend_that_holds_locks_is_terminated(any_server: Server, isolation: Isolation) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    database_id = uuid4()
    login = await pool.provision(database_id)
    holder = await connect(any_server, login)
    await holder.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_advisory_lock(1)")
    busy = await connect(any_server, login)
    waiting = asyncio.create_task(busy.execute("SELECT pg_sleep(60)"))
    new = (await pool.reset(database_id, 2)).login
    with pytest.raises(CLOSED):
        await waiting
    with pytest.raises(CLOSED):
        await holder.execute("COMMIT")
    async with connected(any_server, new) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 1


def titles(postmaster: psutil.Process) -> Iterator[str]:
    """Titles of the processes of a server."""
    for one in postmaster.children():
        with suppress(psutil.NoSuchProcess):
            yield " ".join(one.cmdline()).strip()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts longer than the delay, which PostgreSQL takes in whole seconds."""
    for name in ("STARTUP_SECONDS", "GONE_SECONDS"):
        monkeypatch.setattr(fence, name, LIMIT_SECONDS)


@asynccontextmanager
async def let_in_unseen(
    server: Server, login: Login
) -> AsyncIterator[asyncio.Task[asyncpg.Connection[asyncpg.Record]]]:
    """A client whose backend has read its role, and appears in ``pg_stat_activity`` after a delay only.

    The title of its process ends in ``startup`` after authentication. Other clients connect to the same server.
    """
    async with server.maintenance() as connection:
        postmaster = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
    assert postmaster is not None
    arriving = asyncio.create_task(connect(server, login, post_auth_delay=str(DELAY_SECONDS)))
    title = f" {login.user} {login.database} "
    while not any(title in one and one.endswith(" startup") for one in titles(postmaster)):
        assert not arriving.done(), "it was in before it could be seen that it is being let in"
        await asyncio.sleep(0)
    yield arriving
    with suppress(*CLOSED):
        (await arriving).terminate()


@asynccontextmanager
async def no_password_yet(server: Server, login: Login) -> AsyncIterator[None]:
    """A client that does not answer the request for its password."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    startup = f"\0\3\0\0user\0{login.user}\0database\0{login.database}\0\0".encode()
    writer.write((len(startup) + 4).to_bytes(4) + startup)
    await reader.readexactly(1)
    try:
        yield
    finally:
        writer.close()


@pytest.mark.usefixtures("patient")
async def test_invisible_starting_backend_is_awaited_and_terminated(
    any_server: Server, isolation: Isolation
) -> None:
    """A backend is not in pg_stat_activity when it reads its role. The fence sees its lock."""
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    login = await pool.provision(database_id := uuid4())
    async with let_in_unseen(any_server, login) as arriving:
        outcome = await pool.reset(database_id, 2)
        assert outcome.path == "nothing"
        with pytest.raises(CLOSED):
            await (await arriving).execute("INSERT INTO t VALUES (2)")
    async with connected(any_server, outcome.login) as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 1


@pytest.mark.usefixtures("patient")
async def test_backend_that_starts_during_fence_is_terminated(
    any_server: Server, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither in a snapshot from before it arrived, nor among locks that are read after that."""
    for name in (
        "_LOCKED",
        "_NO_PIDS",
    ):  # as if the fence were paused for longer than the start takes
        locks = getattr(fence, name)
        monkeypatch.setattr(
            fence,
            name,
            f"(SELECT CASE WHEN pg_sleep({1.5 * DELAY_SECONDS})::text IS NOT NULL THEN {locks} END)",
        )
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    login = await pool.provision(database_id := uuid4())
    async with let_in_unseen(any_server, login) as arriving:
        outcome = await pool.reset(database_id, 2)
        assert outcome.path == "nothing"
        with pytest.raises(CLOSED):
            await (await arriving).execute("INSERT INTO t VALUES (2)")


@pytest.mark.usefixtures("patient")
async def test_starting_backend_is_awaited(any_server: Server) -> None:
    pool = await pool_of(any_server, Isolation.SCHEMA, await build_template(any_server, SEED))
    login = await pool.provision(uuid4())
    async with let_in_unseen(any_server, login) as arriving, any_server.maintenance() as connection:
        await wait_for_starting(connection)
        seen = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", login.user
        )
        assert seen == 1
        (await arriving).terminate()


async def test_client_that_sends_no_password_delays_reset_by_bounded_time(
    server: Server,
) -> None:
    """From PostgreSQL 18 on, such a client can be recognised, and delays no reset."""
    pool = await pool_of(server, Isolation.SCHEMA, await build_template(server, SEED))
    login = await pool.provision(database_id := uuid4())
    # The server disconnects such a client after authentication_timeout, which is 60 seconds.
    async with no_password_yet(server, login), asyncio.timeout(45):
        outcome = await pool.reset(database_id, 2)
    assert outcome.path == ("nothing" if server.version >= 18_00_00 else "rebuild")


async def test_prepared_transactions_of_old_login_are_rolled_back(
    any_server: Server, isolation: Isolation
) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    database_id = uuid4()
    login = await pool.provision(database_id)
    gid = f"it's {uuid4()}"
    async with connected(any_server, login) as connection:
        quoted = gid.replace("'", "''")
        await connection.execute(
            f"BEGIN; INSERT INTO t VALUES (2); LOCK TABLE t; PREPARE TRANSACTION '{quoted}'"
        )
    new = (await pool.reset(database_id, 2)).login
    async with any_server.maintenance() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts WHERE gid = $1", gid)
    async with connected(any_server, new) as connection:
        assert await connection.fetchval("SELECT array_agg(a) FROM t") == [1]


async def test_prepared_transaction_of_other_lease_stays(server: Server) -> None:
    pool = await pool_of(server, Isolation.SCHEMA, await build_template(server, SEED))
    mine, other = uuid4(), uuid4()
    login, neighbour = await pool.provision(mine), await pool.provision(other)
    gids = {one.user: f"gid {one.user}" for one in (login, neighbour)}
    for one in (login, neighbour):
        async with connected(server, one) as connection:
            await connection.execute(
                f"BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION '{gids[one.user]}'"
            )
    await pool.reset(mine, 2)
    async with connected(server, neighbour) as connection:
        await connection.execute(f"COMMIT PREPARED '{gids[neighbour.user]}'")
        assert await connection.fetchval("SELECT count(*) FROM t") == 2


async def test_backends_of_other_leases_stay(any_server: Server, isolation: Isolation) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    mine, other = uuid4(), uuid4()
    await pool.provision(mine)
    neighbour = await pool.provision(other)
    async with connected(any_server, neighbour) as connection:
        await connection.execute("BEGIN; INSERT INTO t VALUES (2)")
        await pool.reset(mine, 2)
        await pool.drop(mine)
        await connection.execute("COMMIT")


async def test_paused_worker_touches_only_its_own_generation(
    any_server: Server, isolation: Isolation
) -> None:
    pool = await pool_of(any_server, isolation, await build_template(any_server, SEED))
    database_id = uuid4()
    await pool.provision(database_id, 1)
    believed = pool.used[database_id]
    current = (await pool.reset(database_id, 3)).login
    async with connected(any_server, current) as connection:
        await connection.execute("INSERT INTO t VALUES (2)")
        pool.used[database_id] = believed
        late = (
            await pool.reset(database_id, 2)
        ).login  # it was paused before it began, and generation 3 is leased by now
        assert late.user != current.user
        assert await connection.fetchval("SELECT count(*) FROM t") == 2
        if isolation is Isolation.DATABASE:
            await drop_database(any_server, database_id, below_generation=3)
        await connection.execute("INSERT INTO t VALUES (2)")


@pytest.mark.parametrize("changed", [False, True], ids=["cleaned", "rebuilt"])
async def test_session_of_superuser_is_awaited(
    plain_server: Server,
    postgres: PostgresServer,
    isolation: Isolation,
    monkeypatch: pytest.MonkeyPatch,
    *,
    changed: bool,
) -> None:
    monkeypatch.setattr(fence, "PRIVILEGED_SECONDS", LIMIT_SECONDS)
    pool = await pool_of(plain_server, isolation, await build_template(plain_server, SEED))
    database_id = uuid4()
    login = await pool.provision(database_id)
    async with connected(plain_server, login) as holder:
        await holder.execute("CREATE TABLE mine ()" if changed else "SELECT 1")
    visitor = await asyncpg.connect(with_database(postgres.dsn, login.database))
    reset = asyncio.create_task(pool.reset(database_id, 2))
    closed = "SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = $1"
    while not reset.done() and not await visitor.fetchval(closed, login.user):
        await asyncio.sleep(0)
    await visitor.close()
    assert (await reset).path == ("rebuild" if changed else "nothing")
