"""``freshdb serve`` as a command: it stops the servers that it started, and reports errors of its start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import start_service

SERVE = [sys.executable, "-m", "freshdb_service"]


def refused(*arguments: str, code: int = 1, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    done = subprocess.run(
        [*SERVE, "--port", "0", *arguments],
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_service_stops_the_servers_that_it_started(tmp_path: Path, how: signal.Signals) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    data = tmp_path / "data"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*SERVE, "--port", "0", "--data", str(data)],
            env=clean,
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    while not (data / "service.json").exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    url = json.loads((data / "service.json").read_text())["url"]
    with httpx.Client(verify=plain_http.NO_CERTIFICATES, base_url=url, timeout=LIMIT_SECONDS) as http:
        assert http.get("/readyz").json() == {
            "status": "ok",
            "checks": {"control_plane": "ok", "redis": "ok", "server embedded": "ok"},
        }
        http.post("/v1/templates", json={"name": "t", "sql": ["create table t (id int)"]}).raise_for_status()
        lease = http.post("/v1/leases", json={"template": "t"}).json()
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
        with psycopg.connect(lease["url"]) as connection:
            connection.execute("select * from t")
        process.send_signal(how)
        assert process.wait(LIMIT_SECONDS) == 0
    assert not [one for one in started if _runs(one)]
    assert not (data / "service.json").exists()


def test_signal_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FRESHDB_")}
    data = tmp_path / "data"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*SERVE, "--port", "0", "--data", str(data)], env=clean, stdin=subprocess.DEVNULL, stderr=log
        )
    started: list[psutil.Process] = []
    while not started:  # usually initdb
        assert process.poll() is None, (tmp_path / "log").read_text()
        started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_SECONDS) == 0
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ]
    assert left == []
    assert "listens on" not in (tmp_path / "log").read_text()


def test_waiting_caller_is_refused_when_the_replica_stops(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    service = start_service([postgres_18.dsn], redis_url, settings={"min_ready": 0, "max_size": 1})
    answers: list[httpx.Response] = []
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * LIMIT_SECONDS
    ) as http:
        http.post("/v1/templates", json={"name": "t", "sql": ["select 1"]}).raise_for_status()
        lease = http.post("/v1/leases", json={"template": "t"}).json()

        def wait() -> None:
            answers.append(
                plain_http.post(
                    f"{service.url}/v1/leases",
                    json={"template": "t", "wait_seconds": LIMIT_SECONDS},
                    timeout=2 * LIMIT_SECONDS,
                )
            )

        waiting = threading.Thread(target=wait)
        waiting.start()
        while http.get(f"/v1/pools/{lease['pool_id']}").json()["waiting"] == 0:
            pass
    assert service.stop() == 0
    waiting.join(30)
    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "shutting_down")
    assert answers[0].headers["retry-after"] == "1"


def test_leases_survive_a_restart(postgres_18: PostgresServer, redis_url: str) -> None:
    first = start_service([postgres_18.dsn], redis_url)
    plain_http.post(
        f"{first.url}/v1/templates",
        json={"name": "t", "sql": ["create table t (id int)"]},
        timeout=LIMIT_SECONDS,
    )
    lease = plain_http.post(f"{first.url}/v1/leases", json={"template": "t"}, timeout=LIMIT_SECONDS).json()
    assert first.stop() == 0
    second = start_service([postgres_18.dsn], redis_url, replica_of=first)
    try:
        assert plain_http.get(f"{second.url}/v1/leases/{lease['id']}").json()["state"] == "active"
        with psycopg.connect(lease["url"]) as connection:
            connection.execute("select * from t")
        assert plain_http.post(f"{second.url}/v1/leases/{lease['id']}/renew").status_code == 200
    finally:
        assert second.stop() == 0


def test_idle_service_stops_itself(postgres_18: PostgresServer, redis_url: str) -> None:
    service = start_service([postgres_18.dsn], redis_url, arguments=["--idle-exit-seconds", "1"])
    assert service.process.wait(LIMIT_SECONDS) == 0
    assert "idle for" in service.log


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = refused("--port", str(port), "--data", str(tmp_path))
    assert f"cannot listen on 127.0.0.1:{port}" in words
    assert "--port" in words


def test_read_only_data_directory_is_refused() -> None:
    words = refused("--data", "/proc/nowhere")
    assert "cannot write to the data directory /proc/nowhere" in words
    assert "--data" in words


def test_second_service_on_the_same_data_directory_is_refused(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    service = start_service([postgres_18.dsn], redis_url)
    try:
        words = refused("--data", str(service.data), code=3)
        assert f"another freshdb serves from {service.data} at {service.url}" in words
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("mysql://root:hunter2@127.0.0.1/x", "postgresql://user:password@host"),
        ("postgresql://", "postgresql://user:password@host"),
        ("nonsense", "postgresql://user:password@host"),
    ],
)
def test_malformed_dsn_is_refused(dsn: str, words: str) -> None:
    said = refused("--postgres", dsn, code=2)
    assert words in said
    assert "hunter2" not in said


def test_unreachable_server_is_refused(redis_url: str) -> None:
    said = refused("--postgres", "postgresql://u:hunter2@127.0.0.1:1/x", "--redis", redis_url)
    assert "127.0.0.1:1" in said
    assert "hunter2" not in said


def test_wrong_password_is_refused(postgres_18: PostgresServer, redis_url: str) -> None:
    parts = urlsplit(postgres_18.dsn)
    wrong = postgres_18.dsn.replace(f":{parts.password}@", ":hunter2@")
    said = refused("--postgres", wrong, "--redis", redis_url)
    assert "password" in said
    assert "hunter2" not in said


def test_missing_redis_is_refused(postgres_18: PostgresServer) -> None:
    arguments = [
        "--postgres",
        f"shared={postgres_18.dsn}",
        "--adopt",
        "shared",
        "--redis",
        "redis://127.0.0.1:1/0",
    ]
    assert "Redis does not answer" in refused(*arguments, FRESHDB_PREFIX="fdbnoredis")


def test_other_address_than_loopback_needs_a_token(tmp_path: Path) -> None:
    said = refused("--host", "0.0.0.0", "--insecure", "--data", str(tmp_path))  # noqa: S104 - that is the point
    assert "listening on 0.0.0.0 needs a token, and there is none: start the service on loopback" in said


def test_server_with_foreign_databases_is_managed_only_if_adopted(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    with psycopg.connect(postgres_18.dsn, autocommit=True) as connection:
        connection.execute("create database aaa_precious")
    try:
        arguments = ["--postgres", f"shared={postgres_18.dsn}", "--redis", redis_url]
        said = refused(*arguments, FRESHDB_PREFIX="fdbadopt")
        assert "aaa_precious" in said
        assert "--adopt shared" in said
        with psycopg.connect(
            postgres_18.dsn, autocommit=True
        ) as connection:  # not even the control plane's database
            made = connection.execute("select from pg_database where datname = 'fdbadopt_control'").fetchall()
            assert made == []
        said = refused(*arguments, "--adopt", "shared", FRESHDB_PREFIX="fdbadopt", FRESHDB_DENY="aaa*")
        assert "aaa_precious is on the deny list (aaa*)" in said
        service = start_service([f"shared={postgres_18.dsn}"], redis_url)
        assert service.stop() == 0
    finally:
        with psycopg.connect(postgres_18.dsn, autocommit=True) as connection:
            connection.execute("drop database aaa_precious")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
