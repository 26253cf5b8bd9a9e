"""An acquire of a ready database needs at most three round trips to PostgreSQL and Redis, and a heartbeat one.

Two proxies in front of the servers count them: a round trip is a message to the server after an answer from it. The loops
have such long intervals that only the acquires are counted.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import start_service

ACQUIRES = 20


class Turns:
    """Counts the answers of the server that are followed by a message of the client, on all connections."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1

    def when_quiet(self) -> int:
        """Return the count once all connections are idle, after the loop runs that the changed pool triggered."""
        until = time.monotonic() + LIMIT_SECONDS
        while True:
            before = self.count
            time.sleep(0.5)
            if self.count == before:
                return before
            assert time.monotonic() < until, "the service does not become idle"


@contextmanager
def proxy(url: str, turns: Turns) -> Iterator[str]:
    """Run a proxy in front of the server of ``url``, and yield the URL of the proxy."""
    parts = urlsplit(url)
    target = (parts.hostname or "127.0.0.1", parts.port or 0)
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = [listener]

    def relay(inward: socket.socket, outward: socket.socket, mine: list[bool], *, to_server: bool) -> None:
        try:
            while data := inward.recv(65536):
                if to_server and not mine[0]:
                    turns.add()
                mine[0] = to_server
                outward.sendall(data)
            outward.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(target)
            open_sockets.extend((client, server))
            mine = [False]
            threading.Thread(
                target=relay, args=(client, server, mine), kwargs={"to_server": True}, daemon=True
            ).start()
            threading.Thread(
                target=relay, args=(server, client, mine), kwargs={"to_server": False}, daemon=True
            ).start()

    threading.Thread(target=accept, daemon=True).start()
    host = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{listener.getsockname()[1]}"
    yield urlunsplit(parts._replace(netloc=host))
    for one in open_sockets:
        one.close()


@pytest.mark.parametrize("quota", [None, 1000])
def test_acquire_needs_at_most_three_round_trips_with_a_token_and_quota(
    postgres_18: PostgresServer, redis_url: str, quota: int | None
) -> None:
    turns = Turns()
    loops = ("reaper", "janitor", "replenisher", "reconciler", "deaths", "token_refresh", "trail_flush")
    rarely = {f"{loop}_seconds": 3600 for loop in loops}
    with proxy(postgres_18.dsn, turns) as dsn, proxy(redis_url, turns) as redis:
        service = start_service([dsn], redis, settings={**rarely, "min_ready": ACQUIRES + 10})
        try:
            with httpx.Client(
                verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=LIMIT_SECONDS
            ) as http:
                if quota is not None:
                    wanted = {"name": "ci", "scopes": ["admin"], "max_leases": quota}
                    secret = http.post("/v1/tokens", json=wanted).json()["token"]
                    http.headers["authorization"] = f"Bearer {secret}"
                http.post("/v1/templates", json={"name": "t", "sql": ["select 1"]}).raise_for_status()
                lease = http.post("/v1/leases", json={"template": "t"}).json()
                pool = lease["pool_id"]
                while http.get(f"/v1/pools/{pool}").json()["databases"].get("ready", 0) < ACQUIRES + 10:
                    time.sleep(0.05)
                http.patch(
                    f"/v1/pools/{pool}", json={"min_ready": 0}
                ).raise_for_status()  # no more databases are created
                for _ in range(5):  # statements are prepared once per connection
                    http.post("/v1/leases", json={"template": "t"}).raise_for_status()
                before = turns.when_quiet()
                for _ in range(ACQUIRES):
                    http.post("/v1/leases", json={"template": "t"}).raise_for_status()
                per_acquire = (turns.count - before) / ACQUIRES
                before = turns.when_quiet()
                for _ in range(ACQUIRES):  # heartbeats are in the audit log, too, but not each of them
                    http.post(f"/v1/leases/{lease['id']}/renew").raise_for_status()
                per_renewal = (turns.count - before) / ACQUIRES
        finally:
            assert service.stop() == 0
    assert 2 <= per_acquire <= 3
    assert per_renewal < 1.5
