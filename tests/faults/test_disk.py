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
from tests.faults.installation import SETTINGS, Installation, wait_until
from tests.faults.proxy import Proxy
from tests.faults.slow import slow
from tests.runs import run_sync
from tests.servers import Servers
from tests.services import start_service

_MEGABYTES = 160
SHORT_LEASE = {"template": "t", "ttl_seconds": 5, "wait_seconds": 1}
"""A lease whose answer is lost in a crash expires soon."""


@pytest.fixture
def disk(servers: Servers) -> Iterator[Path]:
    """Mount a small file system."""
    created = Path(tempfile.mkdtemp(prefix="scratch-disk-", dir=servers.root))
    command = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m,mode=0755", "tmpfs", str(created)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        created.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield created
    subprocess.run(["umount", str(created)], check=True)
    created.rmdir()


@pytest.fixture
def small_disk_installation(disk: Path, redis_url: str) -> Iterator[Installation]:
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
        control, managed, redis_proxy = (stack.enter_context(Proxy(url)) for url in (dsn, dsn, redis_url))
        service = start_service(
            [f"one={managed.url}"], redis_proxy.url, settings=SETTINGS, control=control.url
        )
        created = Installation(service, control, managed, redis_proxy, postgres, dsn, redis_url, redis_url)
        created.post("/v1/templates", {"name": "t", "sql": ["create table t (id int)"]}, 201)
        yield created
        assert service.stop() == 0


@slow
def test_full_disk_is_reported_and_the_service_recovers_when_space_is_free(
    small_disk_installation: Installation, disk: Path
) -> None:
    wait_until(lambda: small_disk_installation.databases() == {"ready": 2})
    held, pool = small_disk_installation.lease(), f"/v1/pools/{small_disk_installation.pool()['id']}"
    filler = disk / "filler"
    _fill(filler)
    try:
        small_disk_installation.request("PATCH", pool, {"min_ready": 3})  # there is no room for one more
        while (
            answer := small_disk_installation.request("POST", "/v1/leases", SHORT_LEASE)
        ).status_code == 201:  # a table of the control plane, or its log, has to grow
            small_disk_installation.request("DELETE", f"/v1/leases/{answer.json()['id']}")
        assert answer.status_code == 503, answer.text  # unavailable, or no database could be cleaned
        assert "No space left on device" in (disk / "postgres" / "postgres.log").read_text()
        assert small_disk_installation.request("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
    finally:
        filler.unlink()
    run_sync(small_disk_installation.postgres.start())  # its log is on the same disk, so it may have stopped
    wait_until(lambda: small_disk_installation.request("GET", "/readyz").status_code == 200)
    with psycopg.connect(held["url"]) as connection:
        assert connection.execute("select * from t").fetchall() == []
    small_disk_installation.release(held)
    wait_until(lambda: small_disk_installation.request("PATCH", pool, {"min_ready": 3}).status_code == 200)
    wait_until(lambda: small_disk_installation.databases() == {"ready": 3})
    small_disk_installation.check_recovery()
    with small_disk_installation.as_superuser() as superuser:
        prefix = small_disk_installation.service.prefix
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
