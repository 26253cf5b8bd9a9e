from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from freshdb_service.embedded import (
    BinaryNotFound,
    DataDirectoryUnusable,
    EmbeddedPostgres,
    PortTaken,
    ServerNotStarted,
    placement,
    postgres_binaries,
    processes,
)
from freshdb_service.embedded.binaries import postgres_bundle
from tests.integration.embedded.conftest import as_root

START = """
import asyncio, sys
from pathlib import Path
from freshdb_service.embedded import EmbeddedPostgres
print(asyncio.run(EmbeddedPostgres(Path(sys.argv[1])).start()))
"""


def main_process(data: Path) -> int:
    return int((data / "cluster" / "postmaster.pid").read_text().splitlines()[0])


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_first_start_returns_a_superuser_of_a_utf8_server_for_tests(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg", settings={"work_mem": "5MB", "fsync": "on"})
    dsn = await server.start()
    assert await value(dsn, "SELECT usesuper FROM pg_user WHERE usename = current_user") is True
    assert await value(dsn, "SHOW server_encoding") == "UTF8"
    assert await value(dsn, "SHOW synchronous_commit") == "off"
    assert await value(dsn, "SHOW work_mem") == "5MB"
    assert await value(dsn, "SHOW fsync") == "on", "the caller's settings override the defaults"
    assert await value(dsn, "SELECT upper('é')") == "É"
    assert await value(dsn, "SELECT to_tsvector('the tests')::text") == "'test':2", (
        "the configuration is English"
    )


@pytest.mark.parametrize("major", [18, 16, 15])
async def test_all_versions_start_cold_and_warm(directory: Path, major: int) -> None:
    binaries = postgres_binaries(major)
    assert binaries is not None
    server = EmbeddedPostgres(directory / "pg", binaries=binaries)
    first = await server.start()
    await value(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    await server.stop()
    second = await server.start()
    assert second == first, "password and port are remembered"
    assert await value(second, "SELECT answer FROM kept") == 42
    assert int(str(await value(second, "SHOW server_version_num"))) // 10_000 == major


async def test_password_is_required_and_only_its_owner_can_read_it(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    dsn = await server.start()
    password = urlsplit(dsn).password
    assert password
    with pytest.raises(asyncpg.InvalidPasswordError):
        await value(dsn.replace(password, "guess"), "SELECT 1")
    assert (directory / "pg" / "password").read_text().strip() == password
    assert stat.S_IMODE((directory / "pg" / "password").stat().st_mode) == 0o600
    readable = [
        path for path in (directory / "pg").iterdir() if path.is_file() and path.stat().st_mode & 0o077
    ]
    assert not [path for path in readable if password in path.read_text(errors="replace")]
    assert password not in repr(server)


async def test_trust_needs_no_password(directory: Path) -> None:
    dsn = await EmbeddedPostgres(directory / "pg", auth="trust").start()
    password = urlsplit(dsn).password
    assert password
    assert await value(dsn.replace(password, "guess"), "SELECT 1") == 1


async def test_server_listens_on_loopback_only_and_has_no_socket_file(directory: Path) -> None:
    dsn = await EmbeddedPostgres(directory / "pg").start()
    assert await value(dsn, "SHOW listen_addresses") == "127.0.0.1"
    assert await value(dsn, "SHOW unix_socket_directories") == ""


async def test_second_start_adopts_the_running_server(directory: Path) -> None:
    one, other = EmbeddedPostgres(directory / "pg"), EmbeddedPostgres(directory / "pg")
    first = await one.start()
    process = main_process(directory / "pg")
    assert await one.start() == first
    assert await other.start() == first
    assert main_process(directory / "pg") == process


async def test_concurrent_starts_start_one_server(directory: Path) -> None:
    starting = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", START, str(directory / "pg")), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(6)
    ]
    said = {(await one.communicate())[0] for one in starting}
    assert len(said) == 1
    assert await value(said.pop().decode().strip(), "SELECT 1") == 1


async def test_server_outlives_its_starter_and_is_stopped_by_another_process(directory: Path) -> None:
    subprocess.run([sys.executable, "-c", START, directory / "pg"], check=True, capture_output=True)
    process = main_process(directory / "pg")
    os.kill(process, 0)
    await EmbeddedPostgres(directory / "pg").stop()
    assert not processes.is_running(directory / "pg")


async def test_stop_leaves_no_process_and_is_idempotent(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    dsn = await server.start()
    connection = await asyncpg.connect(dsn)
    listed = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL")
    started = {main_process(directory / "pg"), *(row["pid"] for row in listed)}
    await server.stop()
    connection.terminate()
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert not processes.is_running(directory / "pg")
    await server.stop()


async def test_stop_before_the_first_start_does_nothing(directory: Path) -> None:
    await EmbeddedPostgres(directory / "pg").stop()
    assert not (directory / "pg").exists()


async def test_cancelled_start_can_be_stopped(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    starting = asyncio.create_task(server.start())
    while not list(directory.glob("pg/starting.lock")):
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await server.stop()
    assert not processes.is_running(directory / "pg")


async def test_ctrl_c_in_the_terminal_does_not_stop_the_server(directory: Path) -> None:
    await EmbeddedPostgres(directory / "pg").start()
    assert os.getsid(main_process(directory / "pg")) != os.getsid(0)


async def test_killed_server_restarts_with_its_data(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    dsn = await server.start()
    await value(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    await value(dsn, "CHECKPOINT")
    idle = await asyncpg.connect(dsn)  # a backend that must notice the death of its postmaster
    os.kill(main_process(directory / "pg"), signal.SIGKILL)
    again = await EmbeddedPostgres(directory / "pg").start()
    assert await value(again, "SELECT answer FROM kept") == 42
    idle.terminate()
    await server.stop()


async def test_pid_file_of_an_unrelated_process_is_ignored(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    dsn = await server.start()
    left = (directory / "pg" / "cluster" / "postmaster.pid").read_text().splitlines()
    await server.stop()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        left[0] = str(stranger.pid)
        (directory / "pg" / "cluster" / "postmaster.pid").write_text("\n".join(left) + "\n")
        assert await value(await server.start(), "SELECT 1") == 1
        await server.stop()
        assert stranger.poll() is None, "other processes are not stopped"
    finally:
        stranger.kill()
        stranger.wait()
    assert dsn


async def test_remembered_port_in_use_is_replaced(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg")
    before = urlsplit(await server.start()).port
    assert before
    await server.stop()
    with socket.create_server(("127.0.0.1", before)):
        after = urlsplit(await server.start()).port
    assert after not in {None, before}


async def test_chosen_port_is_used_or_named_if_in_use(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} .* choose another"):
            await EmbeddedPostgres(directory / "pg", port=port).start()
    assert urlsplit(await EmbeddedPostgres(directory / "pg", port=port).start()).port == port


async def test_port_taken_before_the_start_is_replaced(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        choose = processes.remembered_port
        offered: list[int] = []

        def unlucky(path: Path) -> int:
            offered.append(choose(path) if offered else taken)
            return offered[-1]

        monkeypatch.setattr(processes, "remembered_port", unlucky)
        dsn = await EmbeddedPostgres(directory / "pg").start()
    assert len(offered) == 2
    assert urlsplit(dsn).port == offered[-1]


async def test_error_names_a_data_directory_that_cannot_be_created(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(DataDirectoryUnusable, match=f"{directory}/file/pg .*Not a directory.*--data DIR"):
        await EmbeddedPostgres(directory / "file" / "pg").start()


async def test_error_names_missing_programs(directory: Path) -> None:
    with pytest.raises(BinaryNotFound, match=f"no postgres in {directory}"):
        await EmbeddedPostgres(directory / "pg", binaries=directory).start()


async def test_refused_setting_is_reported_in_postgres_words_and_can_be_fixed(directory: Path) -> None:
    with pytest.raises(ServerNotStarted, match='unrecognized configuration parameter "no_such"'):
        await EmbeddedPostgres(directory / "pg", settings={"no_such": "1"}).start()
    assert not processes.is_running(directory / "pg")
    assert await value(await EmbeddedPostgres(directory / "pg").start(), "SELECT 1") == 1


async def test_failed_initdb_is_reported_in_its_words_and_leaves_no_files(directory: Path) -> None:
    real = postgres_binaries(18)
    assert real is not None
    binaries = directory / "bin"
    binaries.mkdir()
    (binaries / "postgres").write_text(f'#!/bin/sh\nexec {real / "postgres"} "$@"\n')
    (binaries / "initdb").write_text("#!/bin/sh\necho 'initdb: error: the disk is full' >&2\nexit 1\n")
    for program in binaries.iterdir():
        program.chmod(0o755)
    with pytest.raises(
        ServerNotStarted, match=r"could not create .*cluster: initdb: error: the disk is full"
    ):
        await EmbeddedPostgres(directory / "pg", binaries=binaries).start()
    assert [path.name for path in (directory / "pg").iterdir() if "cluster" in path.name] == []
    assert await value(await EmbeddedPostgres(directory / "pg").start(), "SELECT 1") == 1


async def test_files_of_an_interrupted_initdb_are_removed(directory: Path) -> None:
    left = directory / "pg" / "cluster.new-left" / "cluster"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    assert await value(await EmbeddedPostgres(directory / "pg").start(), "SELECT 1") == 1
    assert not left.exists()


async def test_data_of_another_version_is_refused_with_the_remedy(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg", binaries=postgres_binaries(16))
    await server.start()
    await server.stop()
    with pytest.raises(DataDirectoryUnusable, match=r"created by PostgreSQL 16.*remove .*cluster"):
        await EmbeddedPostgres(directory / "pg", binaries=postgres_binaries(18)).start()


async def test_environment_variables_do_not_affect_the_server(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    dsn = await EmbeddedPostgres(directory / "pg").start()
    assert await value(dsn, "SHOW timezone") == "UTC"


@as_root
async def test_root_runs_the_server_as_an_ordinary_user(directory: Path) -> None:
    await EmbeddedPostgres(directory / "pg").start()
    account = placement.server_account()
    assert account is not None
    assert Path(f"/proc/{main_process(directory / 'pg')}").stat().st_uid == account.uid != 0


@as_root
async def test_unreachable_data_directory_is_relocated_until_it_is_removed(
    closed: Path, shelter: Path, directory: Path
) -> None:
    server = EmbeddedPostgres(closed / "pg")
    dsn = await server.start()
    await value(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert await EmbeddedPostgres(closed / "pg").start() == dsn
    await server.stop()
    assert await value(await server.start(), "SELECT answer FROM kept") == 42
    (home,) = (shelter / "data").iterdir()
    assert (home / "cluster").is_dir()

    shutil.rmtree(closed)
    other = EmbeddedPostgres(directory / "other")
    await other.start()
    assert home.exists(), "a server runs there"
    await EmbeddedPostgres(home).stop()
    await other.stop()
    await other.start()
    assert not home.exists()
    await server.stop()


@as_root
async def test_unreachable_programs_are_copied_once(closed: Path, shelter: Path) -> None:
    found = postgres_binaries(18)
    assert found is not None
    package = found.parent.parent
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18")
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    for name in ("one", "two"):
        server = EmbeddedPostgres(
            shelter.parent / name, binaries=closed / package.name / "pginstall18" / "bin"
        )
        assert await value(await server.start(), "SELECT 1") == 1
        program = Path(f"/proc/{main_process(shelter.parent / name)}/exe").readlink()
        assert program.is_relative_to(shelter)
    assert len(list((shelter / "binaries").iterdir())) == 1


@as_root
def test_ordinary_user_starts_and_stops_the_server_in_its_own_directory(directory: Path) -> None:
    binaries = postgres_binaries(18)
    account = placement.server_account()
    assert binaries is not None
    assert account is not None
    reachable = placement.runnable(binaries / "postgres", account, bundle=postgres_bundle).parent
    home = directory / "home"
    home.mkdir(mode=0o700)
    os.chown(home, account.uid, account.gid)
    program = """
import asyncio, concurrent.futures.thread, os, sys, encodings.idna, locale
from pathlib import Path
from freshdb_service.embedded import EmbeddedPostgres, DataDirectoryUnusable, processes
home, binaries, uid, gid = sys.argv[1:]
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid)); os.chdir("/")
server = EmbeddedPostgres(Path(home) / "pg", binaries=Path(binaries))
asyncio.run(server.start())
process = int((Path(home) / "pg" / "cluster" / "postmaster.pid").read_text().splitlines()[0])
assert os.stat(f"/proc/{process}").st_uid == int(uid)
asyncio.run(server.stop())
assert not processes.is_running(Path(home) / "pg")
os.chmod(home, 0o500)
try:
    asyncio.run(EmbeddedPostgres(Path(home) / "new", binaries=Path(binaries)).start())
except DataDirectoryUnusable as error:
    print(error)
os.chmod(home, 0o700)
"""
    arguments = [str(home), str(reachable), str(account.uid), str(account.gid)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"{home}/new cannot be used (Permission denied): make it writable for the user {account.name}"
        in done.stdout
    )
