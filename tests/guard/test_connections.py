"""Every way to connect that the guard checks: it is refused before anything is sent, and allowed for a lease."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psycopg
import psycopg2
import psycopg_pool
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from freshdb.credentials import Credentials
from freshdb.toolkit.guard import Guard, NotALease
from freshdb.toolkit.guard.targets import Target, libpq_targets, sqlite_target
from tests.servers import PostgresServer

Way = Callable[[Credentials, pytest.MonkeyPatch, Path], None]


@pytest.fixture
def database(postgres_18: PostgresServer) -> Credentials:
    """A database that a test uses as the developer's own, or as a lease."""
    url = make_url(postgres_18.dsn)
    assert url.host is not None
    assert url.port is not None
    return Credentials(url.host, url.port, str(url.database), str(url.username), str(url.password))


def _keywords(it: Credentials) -> dict[str, str | int]:
    return {"host": it.host, "port": it.port, "dbname": it.database, "user": it.user, "password": it.password}


def _variables(it: Credentials, patch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": it.host,
        "PGPORT": str(it.port),
        "PGDATABASE": it.database,
        "PGUSER": it.user,
        "PGPASSWORD": it.password,
    }.items():
        patch.setenv(name, value)


def _service(it: Credentials, patch: pytest.MonkeyPatch, directory: Path) -> None:
    path = directory / "services.conf"
    path.write_text("# ours\n[shop]\n" + "".join(f"{key}={value}\n" for key, value in _keywords(it).items()))
    patch.setenv("PGSERVICEFILE", str(path))


def _psycopg_uri(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg.connect(it.url("postgresql")).close()


def _psycopg_keywords(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg.connect("application_name=shop", **_keywords(it)).close()  # type: ignore[arg-type]


def _psycopg_variables(it: Credentials, patch: pytest.MonkeyPatch, _: Path) -> None:
    _variables(it, patch)
    psycopg.connect().close()


def _psycopg_service(it: Credentials, patch: pytest.MonkeyPatch, directory: Path) -> None:
    _service(it, patch, directory)
    psycopg.connect("service=shop").close()


def _psycopg_localhost(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg.connect(**(_keywords(it) | {"host": "localhost"})).close()  # type: ignore[arg-type]


def _psycopg_second_host(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg.connect(**(_keywords(it) | {"host": f"{it.host},{it.host}"})).close()  # type: ignore[arg-type]


def _psycopg_async(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    async def connect() -> None:
        await (await psycopg.AsyncConnection.connect(it.url("postgresql"))).close()

    asyncio.run(connect())


def _psycopg_pool(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    pool = psycopg_pool.ConnectionPool(it.url("postgresql"), min_size=1, open=False)
    with pool, pool.connection() as connection:
        connection.execute("SELECT 1")


def _psycopg_async_pool(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    async def connect() -> None:
        pool = psycopg_pool.AsyncConnectionPool(kwargs=_keywords(it), min_size=1, open=False)
        async with pool, pool.connection() as connection:
            await connection.execute("SELECT 1")

    asyncio.run(connect())


def _psycopg2_uri(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg2.connect(it.url("postgresql")).close()


def _psycopg2_keywords(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    psycopg2.connect(**_keywords(it)).close()  # type: ignore[call-overload]


def _psycopg2_variables(it: Credentials, patch: pytest.MonkeyPatch, _: Path) -> None:
    _variables(it, patch)
    psycopg2.connect("").close()


def _psycopg2_service(it: Credentials, patch: pytest.MonkeyPatch, directory: Path) -> None:
    _service(it, patch, directory)
    patch.setenv("PGSERVICE", "shop")
    psycopg2.connect("").close()


def _asyncpg_uri(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    async def connect() -> None:
        await (await asyncpg.connect(it.url("postgresql"))).close()

    asyncio.run(connect())


def _asyncpg_variables(it: Credentials, patch: pytest.MonkeyPatch, _: Path) -> None:
    _variables(it, patch)

    async def connect() -> None:
        await (await asyncpg.connect()).close()

    asyncio.run(connect())


def _asyncpg_pool(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
    async def connect() -> None:
        async with asyncpg.create_pool(it.url("postgresql"), min_size=2, max_size=2) as pool:
            await pool.fetchval("SELECT 1")

    asyncio.run(connect())


def _sqlalchemy(driver: str) -> Way:
    def way(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
        engine = create_engine(it.url(f"postgresql+{driver}"))
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        finally:
            engine.dispose()

    return way


def _sqlalchemy_async(driver: str) -> Way:
    def way(it: Credentials, _: pytest.MonkeyPatch, __: Path) -> None:
        async def connect() -> None:
            async with create_async_engine(
                it.url(f"postgresql+{driver}"), poolclass=NullPool
            ).connect() as found:
                await found.execute(text("SELECT 1"))

        asyncio.run(connect())

    return way


def _another_thread(it: Credentials, patch: pytest.MonkeyPatch, directory: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_psycopg_uri, it, patch, directory).result()


WAYS: dict[str, Way] = {
    "psycopg, a URI": _psycopg_uri,
    "psycopg, keywords": _psycopg_keywords,
    "psycopg, PG* variables": _psycopg_variables,
    "psycopg, a service file": _psycopg_service,
    "psycopg, localhost": _psycopg_localhost,
    "psycopg, two hosts": _psycopg_second_host,
    "psycopg, async": _psycopg_async,
    "psycopg_pool": _psycopg_pool,
    "psycopg_pool, async": _psycopg_async_pool,
    "psycopg2, a URI": _psycopg2_uri,
    "psycopg2, keywords": _psycopg2_keywords,
    "psycopg2, PG* variables": _psycopg2_variables,
    "psycopg2, PGSERVICE": _psycopg2_service,
    "asyncpg, a URI": _asyncpg_uri,
    "asyncpg, PG* variables": _asyncpg_variables,
    "asyncpg, a pool": _asyncpg_pool,
    "SQLAlchemy, psycopg": _sqlalchemy("psycopg"),
    "SQLAlchemy, psycopg2": _sqlalchemy("psycopg2"),
    "SQLAlchemy, asyncpg": _sqlalchemy_async("asyncpg"),
    "SQLAlchemy, psycopg async": _sqlalchemy_async("psycopg"),
    "another thread": _another_thread,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_database_that_is_not_leased_is_refused_and_named_without_its_password(
    way: Way, database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Guard() as guard, pytest.raises(NotALease) as refused:
        way(database, monkeypatch, tmp_path)
    message = str(refused.value)
    assert database.password not in message
    assert f"{database.user}@" in message
    assert f":{database.port}/{database.database} by " in message
    assert f"{__name__} ({__file__}:" in message
    assert len(guard.offences) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_lease_is_allowed_until_it_has_ended(
    way: Way, database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Guard() as guard:
        guard.hold("lease", database)
        way(database, monkeypatch, tmp_path)
        assert guard.offences == []
        guard.forget("lease")
        with pytest.raises(NotALease, match="a lease that has ended"):
            way(database, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"port": 1}, {"database": "other"}, {"user": "other"}, {"host": "192.0.2.1"}],
    ids=["port", "database", "user", "host"],
)
def test_target_that_differs_from_a_lease_in_one_part_is_refused(
    change: dict[str, str | int], database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = {
        "host": database.host,
        "port": database.port,
        "database": database.database,
        "user": database.user,
    }
    other = Credentials(**(words | change), password="secret")  # type: ignore[arg-type]
    with Guard() as guard:
        guard.hold("lease", database)
        for way in (_psycopg_uri, _psycopg2_uri, _asyncpg_uri):
            with pytest.raises(NotALease):
                way(other, monkeypatch, tmp_path)


def test_pghostaddr_that_overrides_the_host_of_a_lease_is_refused(
    database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    with Guard() as guard:
        guard.hold("lease", database)
        with pytest.raises(NotALease):
            _psycopg2_uri(database, monkeypatch, tmp_path)


def test_unknown_service_is_refused_with_any_variables(
    database: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    _variables(database, monkeypatch)
    monkeypatch.setenv("PGSERVICEFILE", "/nowhere")
    with Guard() as guard:
        guard.hold("lease", database)
        with pytest.raises(NotALease, match="service"):
            psycopg.connect("service=production")


def test_unix_socket_is_checked_like_a_host(tmp_path: Path) -> None:
    async def connect() -> None:
        await asyncpg.connect(host=str(tmp_path), port=5433, user="app", database="shop")

    where = f"postgresql://app@{str(tmp_path).replace('/', '%2F')}:5433/shop"
    with Guard() as guard:
        for attempt in (
            lambda: psycopg.connect(host=str(tmp_path), port=5433, user="app", dbname="shop"),
            lambda: psycopg2.connect(host=str(tmp_path), port=5433, user="app", dbname="shop"),
            lambda: asyncio.run(connect()),
        ):
            with pytest.raises(NotALease):
                attempt()
        assert {one.url for one in guard.offences} == {where}
        guard.hold("lease", Credentials(str(tmp_path), 5433, "shop", "app", "secret"))
        with pytest.raises(psycopg.OperationalError):  # no server listens there, but the guard allows it
            psycopg.connect(where)


def test_connection_without_parameters_has_the_default_target_of_libpq(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)
    with Guard(), pytest.raises(NotALease, match=r"postgresql://\w+@/\w+ by psycopg:"):
        psycopg.connect()


def test_hosts_addresses_and_ports_are_paired_as_in_libpq() -> None:
    given = {
        "host": "a,b",
        "hostaddr": "192.0.2.1,192.0.2.2",
        "port": "5432,5433",
        "user": "app",
        "dbname": "shop",
    }
    first, second = libpq_targets(given, {})
    assert (first.host, first.address, first.port) == ("a", "192.0.2.1", 5432)
    assert (second.host, second.address, second.port) == ("b", "192.0.2.2", 5433)
    assert [one.port for one in libpq_targets(given | {"port": "6000"}, {})] == [6000, 6000]


def test_target_url_is_quoted_and_shows_no_password() -> None:
    assert (
        Target("postgresql", "a b", "::1", 5432, "me@home").url == "postgresql://me%40home@[::1]:5432/a%20b"
    )


# SQLite


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
def test_sqlite_file_is_refused_before_it_is_created_and_memory_is_allowed(
    driver: str, tmp_path: Path
) -> None:
    async def connect(url: str) -> None:
        if driver == "aiosqlite":
            async with create_async_engine(url, poolclass=NullPool).connect() as connection:
                await connection.execute(text("SELECT 1"))
        else:
            with create_engine(url, poolclass=NullPool).connect() as blocking:
                blocking.execute(text("SELECT 1"))

    file = tmp_path / "shop.db"
    with Guard() as guard:
        for path in (f"/{file}", f"/file:{file}?uri=true"):
            with pytest.raises(NotALease, match=f"sqlite:///{file} by SQLAlchemy") as refused:
                asyncio.run(connect(f"sqlite+{driver}://{path}"))
            assert f"{__name__} ({__file__}:" in str(refused.value)
        assert not file.exists()
        for path in (
            "",
            "/:memory:",
            "/file::memory:?uri=true",
            "/file:shop?mode=memory&cache=shared&uri=true",
        ):
            asyncio.run(connect(f"sqlite+{driver}://{path}"))
        assert len(guard.offences) == 2
    asyncio.run(connect(f"sqlite+{driver}:///{file}"))
    assert file.exists()


def test_sqlite_file_opened_by_a_creator_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with Guard(), pytest.raises(NotALease, match=str(file)):
        create_engine("sqlite://", creator=lambda: sqlite3.connect(file)).connect()


def test_sqlite_without_sqlalchemy_is_not_checked(tmp_path: Path) -> None:
    with Guard() as guard:
        sqlite3.connect(tmp_path / "coverage").close()
    assert guard.offences == []


def test_sqlite_file_in_the_scratch_directory_is_allowed(tmp_path: Path) -> None:
    with Guard(scratch=lambda: tmp_path) as guard:
        with create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=NullPool).connect():
            assert guard.offences == []
        with pytest.raises(NotALease):
            create_engine(f"sqlite:///{tmp_path.parent}/shop.db").connect()


def test_relative_sqlite_path_is_resolved_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_target("shop.db") == Target("sqlite", str(tmp_path / "shop.db"))


# On and off


def test_report_mode_refuses_nothing(
    database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Guard(report=True) as guard:
        _psycopg_uri(database, monkeypatch, tmp_path)
    assert [one.driver for one in guard.offences] == ["psycopg"]


def test_allowed_url_may_contain_a_wildcard(
    database: Credentials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Guard(allow=[f"postgresql://*@{database.host}:*/{database.database}"]) as guard:
        _psycopg_uri(database, monkeypatch, tmp_path)
        assert guard.offences == []
    with Guard(allow=["postgresql://*/other"]), pytest.raises(NotALease):
        _psycopg_uri(database, monkeypatch, tmp_path)


def test_drivers_are_restored_after_the_guard(tmp_path: Path) -> None:
    from asyncpg import connect_utils  # noqa: PLC0415
    from sqlalchemy.engine.default import DefaultDialect  # noqa: PLC0415

    def patched() -> list[object]:
        return [
            vars(connect_utils)["_connect_addr"],
            vars(psycopg2)["_connect"],
            vars(psycopg._connection_base.BaseConnection)["_connect_gen"],
            vars(psycopg_pool.ConnectionPool)["_open"],
            vars(DefaultDialect)["connect"],
            list(sys.meta_path),
        ]

    before = patched()
    with Guard() as outer:
        with Guard() as inner:
            assert not any(new is old for new, old in zip(patched(), before, strict=True))
        with pytest.raises(NotALease):
            create_engine(f"sqlite:///{tmp_path}/shop.db").connect()
        assert (len(outer.offences), len(inner.offences)) == (1, 0)
    assert patched() == before
    create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=NullPool).connect().close()
    assert len(outer.offences) == 1


LATER = """
import sys
from freshdb.toolkit.guard import Guard, NotALease
with Guard() as guard:
    heavy = {"asyncpg", "psycopg", "psycopg2", "sqlalchemy", "httpx"} & set(sys.modules)
    assert not heavy, heavy
    import asyncio, asyncpg, psycopg, psycopg2, sqlalchemy
    for attempt in (
        lambda: asyncio.run(asyncpg.connect("postgresql://app:secret@127.0.0.1:1/shop")),
        lambda: psycopg.connect("postgresql://app:secret@127.0.0.1:1/shop"),
        lambda: psycopg2.connect("postgresql://app:secret@127.0.0.1:1/shop"),
        lambda: sqlalchemy.create_engine("sqlite:///shop.db").connect(),
    ):
        try:
            attempt()
        except NotALease:
            continue
        raise SystemExit("not refused")
    import os
    child = os.fork()
    if child == 0:
        try:
            psycopg.connect("postgresql://app:secret@127.0.0.1:1/shop")
        except NotALease:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
import asyncpg.connect_utils, inspect
assert "async def _connect_addr" in inspect.getsource(asyncpg.connect_utils)
"""


def test_drivers_imported_later_are_checked_also_in_forks_and_guard_imports_none(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATER], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unknown_release_of_a_driver_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(psycopg2, "_connect")
    guard = Guard()
    with pytest.raises(RuntimeError, match=r"'_connect'.*switch the guard off"):
        guard.on()
    assert not guard._patches._undo_callbacks
    assert guard._patches not in sys.meta_path
