"""The compose file is valid. With its settings and PostgreSQL's configuration, the stack works.

These tests have no container engine, so the same processes run without containers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from freshdb import Client
from freshdb_service.embedded import EmbeddedPostgres
from tests.deploy.documents import DEPLOY, compose, postgres_settings
from tests.runs import end_servers_in, run_sync
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("compose")  # one installation for the tests of this module

TOKEN = "a-secret"
VARIABLES = {
    "CONTROL_PASSWORD": "control",
    "MANAGED_PASSWORD": "managed",
    "GRAFANA_PASSWORD": "grafana",
    "FRESHDB_TOKENS": f"ci:{TOKEN}",
}


@dataclass(frozen=True)
class Stack:
    control: str
    managed: str
    replicas: list[Service]


@pytest.fixture(scope="module")
def stack(redis_server_url: str) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="freshdb-deploy-"))
    home.chmod(0o755)
    access = str(shutil.copy(DEPLOY / "postgres" / "pg_hba.conf", home))
    replicas: list[Service] = []
    try:
        dsns = {}
        for name in ("control", "managed"):
            settings = {
                **postgres_settings(f"{name}.conf"),
                "listen_addresses": "127.0.0.1",
                "hba_file": access,
            }
            server = EmbeddedPostgres(home / name, settings=settings)
            dsns[name] = run_sync(server.start())
        inside = compose(VARIABLES)["services"]["freshdb-1"]["environment"]
        _, _, rest = inside["FRESHDB_POSTGRES"].partition("=")
        assert "@managed:5432/" in rest
        given = {
            **{name: str(value) for name, value in inside.items()},
            "FRESHDB_CONTROL": dsns["control"],
            "FRESHDB_POSTGRES": f"managed={dsns['managed']}",
            "FRESHDB_ADVERTISE": "managed=localhost",
            "FRESHDB_REDIS": redis_server_url,
        }
        for _ in range(2):
            first = replicas[0] if replicas else None
            control = dsns["control"]
            replicas.append(
                start_service(
                    [f"managed={dsns['managed']}"],
                    redis_server_url,
                    environment=given,
                    control=control,
                    replica_of=first,
                )
            )
        yield Stack(dsns["control"], dsns["managed"], replicas)
    finally:
        for replica in replicas:
            replica.stop()
        end_servers_in(home)
        shutil.rmtree(home)


def test_compose_file_is_valid() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        check=True,
        capture_output=True,
    )


def test_ports_are_published_at_the_requested_address_only() -> None:
    services = compose(VARIABLES | {"PUBLISH": "127.0.0.1"})["services"]
    published = [port for one in services.values() for port in one.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_missing_password_is_an_error() -> None:
    for name in VARIABLES:
        with pytest.raises(KeyError, match=name):
            compose({key: value for key, value in VARIABLES.items() if key != name})


def test_mounted_directories_exist() -> None:
    services = compose(VARIABLES)["services"]
    mounted = [volume.split(":")[0] for one in services.values() for volume in one.get("volumes", ())]
    for source in mounted:
        if source.startswith("."):
            assert (DEPLOY / source).is_dir(), source


@pytest.mark.parametrize("name", ["control", "managed"])
def test_postgresql_has_every_setting_of_its_file(stack: Stack, name: str) -> None:
    with psycopg.connect(getattr(stack, name)) as connection:
        rows = connection.execute(
            "select lower(name) from pg_settings where source = 'configuration file'"
        ).fetchall()
        wrong = connection.execute(
            "select name, error from pg_file_settings where error is not null"
        ).fetchall()
    assert {row[0] for row in rows} >= postgres_settings(f"{name}.conf").keys()
    assert wrong == []


def test_client_with_both_addresses_survives_a_killed_replica(stack: Stack) -> None:
    with Client(",".join(one.url for one in stack.replicas), token=TOKEN) as client:
        client.ensure_sql("shop", ["create table item (id int)"])
        with client.lease("shop") as lease:
            assert "@localhost:" in lease.url
            with psycopg.connect(lease.url, autocommit=True) as connection:
                connection.execute("insert into item values (1)")
        stack.replicas[0].kill()
        for isolation in ("database", "schema"):
            with client.lease("shop", isolation=isolation) as lease, psycopg.connect(lease.url) as connection:
                assert connection.execute("select count(*) from item").fetchone() == (0,)
