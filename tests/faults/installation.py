"""The installation that the tests of faults use, and their requests to it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import psycopg

from freshdb_service.embedded import EmbeddedPostgres
from tests import plain_http
from tests.faults.proxy import Proxy
from tests.limits import LIMIT_SECONDS
from tests.runs import run_sync
from tests.services import Service

SETTINGS = {
    "min_ready": 2,
    "max_size": 3,
    "answer_seconds": 3,
    "command_timeout_seconds": 2,
    "failed_seconds": 0.5,
    "provision_concurrency": 2,
}
_TIMEOUTS = (
    *("statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"),
    "default_transaction_read_only",
)
WAIT_SECONDS = LIMIT_SECONDS
RESPONSE_LIMIT_SECONDS = LIMIT_SECONDS
"""Every answer comes within this time, whatever hangs. The service of these tests has a timeout of three seconds."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A service, and the proxies in front of its control plane, its managed server and its Redis."""

    service: Service
    control: Proxy
    managed: Proxy
    redis: Proxy
    postgres: EmbeddedPostgres
    dsn: str
    redis_url: str
    other_redis_url: str

    def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Send a request. The answer must come in time."""
        return plain_http.request(method, self.service.url + path, json=body, timeout=RESPONSE_LIMIT_SECONDS)

    def post(self, path: str, body: object = None, expected: int = 201) -> dict[str, Any]:
        """Send a request that must succeed."""
        answer = self.request("POST", path, body)
        assert answer.status_code == expected, answer.text
        done: dict[str, Any] = answer.json()
        return done

    def acquire(self, wait_seconds: float = 5, *, ttl_seconds: float | None = None) -> httpx.Response:
        """Ask for a lease."""
        return self.request(
            "POST", "/v1/leases", {"template": "t", "wait_seconds": wait_seconds, "ttl_seconds": ttl_seconds}
        )

    def lease(self, *, ttl_seconds: float | None = None) -> dict[str, Any]:
        """Ask for a lease until it is granted."""
        end = time.monotonic() + WAIT_SECONDS
        while (answer := self.acquire(ttl_seconds=ttl_seconds)).status_code != 201:
            assert time.monotonic() < end, answer.text
            time.sleep(0.02)
        got: dict[str, Any] = answer.json()
        return got

    def renew(self, lease: dict[str, Any]) -> None:
        """Renew a lease, with retries."""
        wait_until(lambda: self.request("POST", f"/v1/leases/{lease['id']}/renew").status_code == 200)

    def release(self, lease: dict[str, Any]) -> None:
        """Release a lease, with retries."""
        wait_until(lambda: self.request("DELETE", f"/v1/leases/{lease['id']}").status_code in {200, 410})

    def in_parallel(self, number: int, send: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """Send the same request many times in parallel."""
        with ThreadPoolExecutor(number) as executor:
            return [done.result() for done in [executor.submit(send) for _ in range(number)]]

    def get_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Return the service's description of a lease, as soon as the service can answer."""
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers.append(self.request("GET", f"/v1/leases/{lease['id']}"))
            return answers[-1].status_code != 503

        wait_until(is_answered)
        known: dict[str, Any] = answers[-1].json()
        return known if answers[-1].status_code == 200 else {"state": "unknown"}

    def waiters(self) -> int:
        """The number of waiters."""
        return int(self.pool()["waiting"])

    def databases(self) -> dict[str, int]:
        """The number of the pool's databases in each state."""
        states: dict[str, int] = self.pool()["databases"]
        return states

    def is_settled(self) -> bool:
        """Return true if the pool has its target size, and all of its databases are ready."""
        databases = self.databases()
        wanted = range(int(SETTINGS["min_ready"]), int(SETTINGS["max_size"]) + 1)
        return databases.keys() == {"ready"} and databases["ready"] in wanted

    def pool(self) -> dict[str, Any]:
        """The pool of the template that all tests use."""
        return next(one for one in self.listed("/v1/pools") if one["template"].startswith("t@"))

    def listed(self, path: str) -> list[dict[str, Any]]:
        """Return a list of the service, with retries until it answers."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            answers.append(self.request("GET", path))
            return answers[-1].status_code == 200

        wait_until(answered)
        items: list[dict[str, Any]] = answers[-1].json()["items"]
        return items

    def check_recovery(self) -> None:
        """Check that the service has recovered by itself: a lease is granted, is clean, and can be released."""
        wait_until(lambda: self.request("GET", "/readyz").status_code == 200)
        lease = self.lease()
        with psycopg.connect(lease["url"], autocommit=True) as connection:
            assert connection.execute("select * from t").fetchall() == []
            connection.execute("insert into t values (1)")
        self.release(lease)
        wait_until(self.is_settled)

    @contextmanager
    def larger_pool(self) -> Iterator[None]:
        """Let the pool need one more database than it has. Afterwards, restore its size."""
        wait_until(self.is_settled)
        number, path = self.databases()["ready"] + 1, f"/v1/pools/{self.pool()['id']}"
        self._resize(path, {"min_ready": number, "max_size": number})
        try:
            yield
            wait_until(lambda: self.databases() == {"ready": number})
        finally:
            self._resize(path, {name: SETTINGS[name] for name in ("min_ready", "max_size")})

    def _resize(self, path: str, sizes: dict[str, Any]) -> None:
        """Retry until the service accepts the sizes, because a fault of an earlier test may still have effects."""
        wait_until(lambda: self.request("PATCH", path, sizes).status_code == 200)

    def template_database(self, superuser: psycopg.Connection) -> str:
        """The database of the template that all tests use, which is the oldest one."""
        row = superuser.execute(
            "select datname from pg_database where not datallowconn and datname ~ '_t_' order by oid limit 1"
        ).fetchone()
        assert row is not None
        return str(row[0])

    @contextmanager
    def as_superuser(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        """A connection that bypasses the proxies, without the timeouts of its role."""
        dsn = self.dsn.rpartition("/")[0] + f"/{database}"
        with psycopg.connect(
            dsn, autocommit=True, options=" ".join(f"-c {name}=0" for name in _TIMEOUTS)
        ) as connection:
            yield connection

    def crash(self) -> None:
        """Stop PostgreSQL as a crash does, and start it again."""
        postmaster = psutil.Process(
            int((self.postgres.data / "cluster" / "postmaster.pid").read_text().split()[0])
        )
        postmaster.send_signal(signal.SIGQUIT)
        run_sync(_wait_for_exit(postmaster))
        run_sync(self.postgres.start())

    def end_service_sessions(self) -> None:
        """End all sessions of the service, so that it must open new ones."""
        with self.as_superuser() as superuser:
            superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'freshdb%'"
            )


def assert_unavailable(answer: httpx.Response) -> str:
    """Check that an answer reports an unavailable server, and return its detail."""
    assert (answer.status_code, answer.json().get("code")) == (503, "backend_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    detail: str = answer.json()["detail"]
    return detail


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


async def _wait_for_exit(process: psutil.Process) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.005)
