from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from freshdb_service.embedded import (
    BinaryNotFound,
    DataDirectoryUnusable,
    EmbeddedRedis,
    PortTaken,
    binaries,
    placement,
    processes,
    redis_binary,
)
from tests.integration.embedded.conftest import as_root


def setting(url: str, name: str) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        return connection.config_get(name)[name]


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as connection:
        return bool(connection.ping())


def main_process(data: Path) -> int:
    return int((data / "redis.pid").read_text())


async def test_it_keeps_nothing_and_forgets_nothing(directory: Path) -> None:
    url = await EmbeddedRedis(directory / "redis").start()
    assert setting(url, "save") == ""
    assert setting(url, "appendonly") == "no"
    assert setting(url, "maxmemory-policy") == "noeviction"
    assert setting(url, "bind") == "127.0.0.1"


async def test_the_password_is_needed_and_stands_where_only_its_owner_reads(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    url = await server.start()
    password = urlsplit(url).password
    assert password
    with pytest.raises(redis.AuthenticationError):
        answers(url.replace(password, "guess"))
    assert stat.S_IMODE((directory / "redis" / "redis.conf").stat().st_mode) == 0o600
    command = Path(f"/proc/{main_process(directory / 'redis')}/cmdline").read_text()
    assert password not in command
    assert password not in repr(server)


async def test_a_second_start_adopts_the_server_that_runs(directory: Path) -> None:
    one, other = EmbeddedRedis(directory / "redis"), EmbeddedRedis(directory / "redis")
    url = await one.start()
    process = main_process(directory / "redis")
    assert await other.start() == url
    assert main_process(directory / "redis") == process
    await other.stop()
    assert not processes.is_running(directory / "redis")
    await one.stop()


async def test_a_warm_start_has_the_same_url_and_no_memory(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    url = await server.start()
    with redis.Redis.from_url(url) as connection:
        connection.set("key", "value")
    await server.stop()
    assert await server.start() == url
    with redis.Redis.from_url(url) as connection:
        assert connection.get("key") is None


async def test_stop_leaves_no_process_and_can_be_repeated(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    await server.start()
    process = main_process(directory / "redis")
    await server.stop()
    assert not Path(f"/proc/{process}").exists()
    await server.stop()
    await EmbeddedRedis(directory / "never").stop()
    assert not (directory / "never").exists()


async def test_after_kill_9_it_starts_again(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    await server.start()
    os.kill(main_process(directory / "redis"), signal.SIGKILL)
    processes.wait_gone(directory / "redis", timeout_seconds=10)
    assert answers(await server.start())


async def test_taken_ports(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    before = urlsplit(await server.start()).port
    assert before
    await server.stop()
    with socket.create_server(("127.0.0.1", before)):
        url = await server.start()
        assert urlsplit(url).port != before, "a remembered port is replaced"
        assert answers(url)
        with pytest.raises(PortTaken, match=f"port {before} .* choose another"):
            await EmbeddedRedis(directory / "other", port=before).start()


async def test_a_port_that_is_lost_in_the_last_moment_is_replaced(
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
        url = await EmbeddedRedis(directory / "redis").start()
    assert len(offered) == 2
    assert answers(url)


async def test_a_data_directory_that_cannot_be_made_is_named(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(DataDirectoryUnusable, match=f"{directory}/file/redis"):
        await EmbeddedRedis(directory / "file" / "redis").start()


@pytest.mark.parametrize(
    ("says", "told"), [("Redis server v=5.0.14 sha=0", "is version 5.0.14"), ("hello", "is no Redis")]
)
async def test_a_program_that_is_too_old_or_no_redis_is_refused(
    directory: Path, says: str, told: str
) -> None:
    program = directory / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    with pytest.raises(BinaryNotFound, match=f"{program} {told}.*6.2 or newer"):
        await EmbeddedRedis(directory / "redis", binary=program).start()


def test_without_the_wheel_the_environments_program_is_found_then_the_machines(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = redis_binary()
    places = [directory / "environment" / "bin" / "redis-server", directory / "path" / "valkey-server"]
    for place in places:
        place.parent.mkdir(parents=True)
        place.symlink_to(real)
    monkeypatch.setattr(binaries, "_package", lambda _: None)
    monkeypatch.setattr("sys.prefix", str(directory / "environment"))
    monkeypatch.setenv("PATH", str(directory / "path"))
    assert redis_binary() == places[0]
    places[0].unlink()
    assert redis_binary() == places[1]
    places[1].unlink()
    places[1].write_text("#!/bin/sh\nexit 1\n")
    places[1].chmod(0o755)
    with pytest.raises(
        BinaryNotFound, match=f"install redis-server or valkey-server.*passed over: {places[1]}"
    ):
        redis_binary()


@as_root
async def test_root_runs_it_as_an_ordinary_user_also_from_where_that_user_reaches_nothing(
    closed: Path, shelter: Path
) -> None:
    program = closed / "redis-server"
    program.write_bytes(redis_binary().read_bytes())
    program.chmod(0o755)
    server = EmbeddedRedis(closed / "redis", binary=program)
    assert answers(await server.start())
    (home,) = (shelter / "data").iterdir()
    account = placement.server_account()
    assert account is not None
    assert Path(f"/proc/{main_process(home)}").stat().st_uid == account.uid != 0
    await server.stop()
