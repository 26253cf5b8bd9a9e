"""Access to a service without tokens, and creation of its first token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from freshdb.cli import main
from tests import plain_http
from tests.integration.auth.conftest import refused, until
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import Service, start_service

EVERYWHERE = "0.0.0.0"  # noqa: S104 - that is the point

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def token(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``freshdb token`` in this process, and return exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["token", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def open_service(postgres_18: PostgresServer, redis_url: str) -> Iterator[Service]:
    service = start_service([postgres_18.dsn], redis_url, settings={"token_refresh_seconds": 0.2})
    yield service
    assert service.stop() == 0


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_loopback_is_open_only_before_the_first_token(open_service: Service) -> None:
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=open_service.url, timeout=LIMIT_SECONDS
    ) as http:
        http.post("/v1/templates", json={"name": "t", "sql": ["select 1"]}).raise_for_status()
        lease = http.post("/v1/leases", json={"template": "t"}).json()
        assert lease["principal"] == "anonymous"
        made = http.post("/v1/tokens", json={"name": "ops", "scopes": ["admin"]})
        assert made.status_code == 201, made.text
        refused(http.get("/v1/leases"), 401, "unauthorized")
        refused(http.post("/v1/tokens", json={"name": "mine", "scopes": ["admin"]}), 401, "unauthorized")
        headers = bearer(made.json()["token"])
        assert http.get(f"/v1/leases/{lease['id']}", headers=headers).json()["password"] is None
        assert http.delete("/v1/tokens/ops", headers=headers).status_code == 200
        refused(http.get("/v1/leases", headers=headers), 401, "unauthorized")
        refused(http.get("/v1/leases"), 401, "unauthorized")  # although no token is left
        assert http.get("/livez").status_code == 200


def test_first_token_is_created_in_the_control_planes_database(
    open_service: Service, token: Command, postgres_18: PostgresServer
) -> None:
    control = ("--control", open_service.control_dsn)
    asked = f"{open_service.url}/v1/leases"
    assert plain_http.get(asked).status_code == 200
    code, secret, said = token("create", "--name", "old", "--scopes", "read", "--max-leases", "2", *control)
    assert (code, said.count("it is shown only once")) == (0, 1)
    assert plain_http.get(asked, headers=bearer(secret.strip())).status_code == 200
    until(lambda: plain_http.get(asked).status_code == 401)
    changed = json.loads(
        token("set", "old", "--max-leases", "none", "--max-disk", "2GB", *control, "--json")[1]
    )
    assert (changed["max_leases"], changed["max_disk_bytes"]) == (None, 2 * 2**30)
    rotated = json.loads(token("rotate", changed["id"], "--grace", "1h", *control, "--json")[1])
    for one in (secret.strip(), rotated["token"]):
        assert plain_http.get(asked, headers=bearer(one)).status_code == 200
    shown = json.loads(token("show", "old", *control, "--json")[1])
    assert shown["use"] == {"leases": 0, "databases": 0, "disk_bytes": 0}
    assert token("revoke", "old", *control) == (0, "", "revoked old\n")
    assert token("list", *control)[1] == ""
    assert "revoked" in token("list", "--all", *control)[1]
    until(lambda: plain_http.get(asked, headers=bearer(rotated["token"])).status_code == 401)

    elsewhere = ("--host", EVERYWHERE, "--insecure")
    start = ([postgres_18.dsn], open_service.redis_url)
    with pytest.raises(
        RuntimeError, match="freshdb token create --name admin --scopes admin --control DSN"
    ) as caught:
        start_service(*start, arguments=elsewhere, replica_of=open_service)
    assert "listening on 0.0.0.0 needs a token" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    secret = json.loads(token("create", "--name", "ops", "--scopes", "admin", *control, "--json")[1])["token"]
    service = start_service(*start, arguments=elsewhere, replica_of=open_service)
    url = service.url.replace(EVERYWHERE, "127.0.0.1")
    refused(plain_http.get(f"{url}/v1/leases"), 401, "unauthorized")
    records = plain_http.get(f"{url}/v1/audit", params={"action": "token.*"}, headers=bearer(secret)).json()[
        "items"
    ]
    assert service.stop() == 0
    done = [(one["action"], one["label"], one["address"]) for one in reversed(records)]
    assert done == [
        ("token.created", "old", None),
        ("token.changed", "old", None),
        ("token.rotated", "old", None),
        ("token.revoked", "old", None),
        ("token.created", "ops", None),
    ]
    assert all(one["principal"].endswith(" (control plane)") for one in records)


def test_other_database_than_a_control_plane_gets_no_tables(
    postgres_18: PostgresServer, token: Command
) -> None:
    code, _, said = token("create", "--name", "ops", "--control", postgres_18.dsn)
    assert code == 1
    assert "this database is no control plane" in said
    with psycopg.connect(postgres_18.dsn) as connection:
        assert connection.execute("select to_regclass('tokens'), to_regclass('trail')").fetchone() == (
            None,
            None,
        )
    code, _, said = token("list", "--control", "mysql://root:hunter2@h/x")
    assert code == 1
    assert "hunter2" not in said
    assert "postgresql://user:password@host" in said
