"""``freshdb token`` and ``freshdb audit`` against a service that requires tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from freshdb import Client
from freshdb.cli.arguments import parse
from tests.cli.conftest import SCHEMA, Freshdb, unique
from tests.servers import PostgresServer
from tests.services import Service, start_service

pytestmark = pytest.mark.xdist_group("closed")  # one service for all tests of this module


@pytest.fixture(scope="module")
def closed(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    service = start_service(
        [postgres_18.dsn], service_redis_url, settings={"tokens": "boss:boss-secret:admin"}
    )
    with Client(service.url, "boss-secret") as client:
        client.ensure_sql("shop", [SCHEMA])
    yield service
    assert service.stop() == 0


@pytest.fixture
def boss(closed: Service, tmp_path: Path) -> Freshdb:
    return Freshdb(tmp_path, {"FRESHDB_URL": closed.url, "FRESHDB_TOKEN": "boss-secret"})


def test_token_is_printed_alone_and_limited_to_its_scopes(boss: Freshdb, closed: Service) -> None:
    name = unique("ci")
    made = boss(
        "token", "create", "--name", name, "--scopes", "read,lease", "--expires", "90d", "--max-leases", "3"
    )
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("fdb_")
    assert f"the token of {name} (lease, read, until " in made.stderr
    assert secret not in made.stderr
    ci = Freshdb(boss.directory, {"FRESHDB_URL": closed.url, "FRESHDB_TOKEN": secret})
    acquired = json.loads(ci("acquire", "shop", "--json").stdout)
    assert ci("token", "list").returncode == 1
    assert "lacks the scope 'admin'" in ci("token", "list").stderr
    listed = boss("token", "list").stdout
    [line] = [one for one in listed.splitlines() if name in one]
    assert "leases=3" in line
    assert secret[:12] in line
    assert secret not in listed
    assert "3 (1 used)" in boss("token", "show", name).stdout
    assert boss("token", "set", name, "--max-leases", "none", "--max-disk", "1GB").returncode == 0
    rotated = boss("token", "rotate", name, "--json")
    assert json.loads(rotated.stdout)["token"].startswith("fdb_")
    audited = boss("audit", "--principal", name, "--action", "lease.*").stdout
    assert acquired["id"] in audited
    assert audited.splitlines()[0].split()[:3] == ["AT", "ACTION", "PRINCIPAL"]
    [record] = json.loads(boss("audit", "--subject", acquired["id"], "--since", "1h", "--json").stdout)
    assert (record["action"], record["address"]) == ("lease.acquired", "127.0.0.1")
    revoked = boss("token", "revoke", name, "--leases")
    assert revoked.stderr == f"revoked {name}, and 1 of its leases\n"
    assert "unknown token" in ci("leases").stderr


def test_unknown_token_names_the_next_step(boss: Freshdb) -> None:
    done = boss("token", "rotate", "nobody")
    assert done.returncode == 1
    assert "there is no token 'nobody'" in done.stderr
    assert "freshdb token list" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create"], "--name"),
        (["create", "--name", "x", "--scopes", "root"], "some of read, lease, build, admin"),
        (["create", "--name", "x", "--expires", "soon"], "90d, 12h, 30m, or seconds"),
        (["create", "--name", "x", "--max-disk", "much"], "20GB, 500MB, or bytes"),
        (["create", "--name", "x", "--max-leases", "none"], "is not a number"),
        (["set", "x"], "give a quota"),
        (["revoke", "x", "--leases", "--control", "postgresql://h/x"], "--leases needs the service"),
    ],
)
def test_wrong_token_arguments_are_a_usage_error(tmp_path: Path, words: list[str], said: str) -> None:
    done = Freshdb(tmp_path, {"FRESHDB_URL": "http://127.0.0.1:9"})("token", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_times_and_sizes_are_read_with_their_units() -> None:
    given = parse(
        ["token", "create", "--name", "x", "--expires", "1.5h", "--max-ttl", "2m", "--max-disk", "3kB"]
    )
    assert (given.expires, given.max_ttl, given.max_disk) == (5400, 120, 3072)
    assert "max_leases" not in given
    assert parse(["audit", "--since", "2026-05-01T12:00Z"]).since.isoformat() == "2026-05-01T12:00:00+00:00"
