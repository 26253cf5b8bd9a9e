"""A full disk of the control plane and the managed server, on a small file system of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from freshdb_service.embedded import EmbeddedPostgres
from tests.faults.proxy import Proxy
from tests.faults.slow import slow
from tests.faults.stage import SETTINGS, Stage, until
from tests.runs import run_sync
from tests.servers import Servers
from tests.services import start_service

_MEGABYTES = 160
SHORT = {"template": "t", "ttl_seconds": 5, "wait_seconds": 1}
"""A lease whose answer is lost in a crash expires soon."""


@pytest.fixture
def disk(servers: Servers) -> Iterator[Path]:
    """Mount a small file system."""
    made = Path(tempfile.mkdtemp(prefix="scratch-disk-", dir=servers.root))
    command = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m,mode=0755", "tmpfs", str(made)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        made.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield made
    subprocess.run(["umount", str(made)], check=True)
    made.rmdir()


@pytest.fixture
def small(disk: Path, redis_url: str) -> Iterator[Stage]:
    """A service whose PostgreSQL server has a small disk."""
    settings = {
        "min_wal_size": "32MB",
        "max_wal_size": "32MB",
        "max_connections": "60",
        "shared_buffers": "16MB",
    }
    postgres = EmbeddedPostgres(disk / "postgres", settings=settings)
    with ExitStack() as stack:
        dsn = run_sync(postgres.start())
        stack.callback(lambda: run_sync(postgres.stop()))
        control, managed, keys = (stack.enter_context(Proxy(url)) for url in (dsn, dsn, redis_url))
        service = start_service([f"one={managed.url}"], keys.url, settings=SETTINGS, control=control.url)
        made = Stage(service, control, managed, keys, postgres, dsn, redis_url, redis_url)
        made.post("/v1/templates", {"name": "t", "sql": ["create table t (id int)"]}, 201)
        yield made
        assert service.stop() == 0


@slow
def test_a_full_disk_is_an_answer_and_everything_goes_on_when_there_is_room(small: Stage, disk: Path) -> None:
    until(lambda: small.databases() == {"ready": 2})
    held, pool = small.lease(), f"/v1/pools/{small.pool()['id']}"
    filler = disk / "filler"
    _fill(filler)
    try:
        small.ask("PATCH", pool, {"min_ready": 3})  # there is no room for one more
        while (
            answer := small.ask("POST", "/v1/leases", SHORT)
        ).status_code == 201:  # a table of the control plane, or its log, has to grow
            small.ask("DELETE", f"/v1/leases/{answer.json()['id']}")
        assert answer.status_code == 503, answer.text  # unavailable, or no database could be cleaned
        assert "No space left on device" in (disk / "postgres" / "postgres.log").read_text()
        assert small.ask("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
    finally:
        filler.unlink()
    run_sync(small.postgres.start())  # its log is on the same disk, so it may have stopped
    until(lambda: small.ask("GET", "/readyz").status_code == 200)
    with psycopg.connect(held["url"]) as connection:
        assert connection.execute("select * from t").fetchall() == []
    small.release(held)
    until(lambda: small.ask("PATCH", pool, {"min_ready": 3}).status_code == 200)
    until(lambda: small.databases() == {"ready": 3})
    small.as_before()
    with small.as_superuser() as superuser:
        prefix = small.service.prefix
        databases = superuser.execute(
            "select count(*) from pg_database where starts_with(datname, %s)", [f"{prefix}_d_"]
        ).fetchone()
        assert databases == (3,)  # no half-created database is left


def _fill(path: Path) -> None:
    """Fill the disk completely."""
    with path.open("wb", buffering=0) as file:
        try:
            for size in (2**20, 2**12):
                while True:
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), size)
                        file.seek(size, os.SEEK_CUR)
                    except OSError:
                        break
        finally:
            file.flush()
