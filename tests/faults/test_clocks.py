"""A replica or a client whose wall clock is wrong and jumps. No lease ends early or late because of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import plain_http
from tests.faults.clocks import WrongClock, faketime_library, remove_shared_memory
from tests.faults.installation import wait_until
from tests.faults.slow import slow
from tests.limits import LIMIT_SECONDS
from tests.servers import ALL_MAJORS_REQUIRED, PostgresServer
from tests.services import Service, start_service

ROOT = Path(__file__).parents[2]
HOUR = 3600
TTL_SECONDS = 4.0
LONG_SECONDS = 60.0
LATE_SECONDS = 3.0
_WALL_CLOCK_ALLOWED = {
    Path("client/src/freshdb/cli/token_arguments.py"),
    Path("client/src/freshdb/cli/watch.py"),
    Path("client/src/freshdb/cli/frame.py"),
}
"""``freshdb audit --since 2h`` refers to the user's clock, and ``--watch`` shows it. Neither ends a lease."""
_WALL_CLOCK = re.compile(
    r"datetime\.(now|utcnow|today)\(|date\.today\(|\btime\.time(_ns)?\(|localtime\(|gmtime\("
)


@pytest.fixture
def library() -> Path:
    found = faketime_library()
    if found is not None:
        return found
    if ALL_MAJORS_REQUIRED:
        pytest.fail("libfaketime is missing (Debian's package of this name): see .ci/run")
    pytest.skip("libfaketime is not installed (Debian's package of this name)")


@pytest.fixture
def clock(tmp_path: Path, library: Path) -> Iterator[WrongClock]:
    yield WrongClock(tmp_path / "clock", library)
    remove_shared_memory()


@pytest.fixture
def replicas(postgres_18: PostgresServer, redis_url: str, clock: WrongClock) -> Iterator[list[Service]]:
    """Two replicas, one with the right clock and one with a wrong clock."""
    settings = {"min_ready": 4, "max_size": 6}
    right = start_service([postgres_18.dsn], redis_url, settings=settings)
    clock.set_offset(-HOUR)
    wrong = start_service(
        [postgres_18.dsn], redis_url, settings=settings, replica_of=right, environment=clock.environment
    )
    yield [right, wrong]
    for service in (right, wrong):
        assert service.stop() == 0


def ask(service: Service, method: str, path: str, body: object = None) -> dict[str, Any]:
    answer = plain_http.request(method, service.url + path, json=body, timeout=LIMIT_SECONDS)
    assert answer.is_success, answer.text
    content: dict[str, Any] = answer.json()
    return content


def seconds_left(lease: dict[str, Any]) -> float:
    return (datetime.fromisoformat(lease["expires_at"]) - datetime.now(UTC)).total_seconds()


@slow
def test_replica_with_a_wrong_clock_that_jumps_ends_no_lease_early_or_late(
    replicas: list[Service], clock: WrongClock
) -> None:
    right, wrong = replicas
    ask(right, "POST", "/v1/templates", {"name": "t", "sql": ["select 1"]})
    ask(
        right,
        "DELETE",
        f"/v1/leases/{ask(right, 'POST', '/v1/leases', {'template': 't', 'wait_seconds': 30})['id']}",
    )
    wait_until(
        lambda: ask(right, "GET", "/v1/pools")["items"][0]["databases"].get("ready", 0) >= len(replicas) * 2
    )
    body = {"template": "t", "ttl_seconds": TTL_SECONDS, "wait_seconds": LIMIT_SECONDS}
    began = time.monotonic()
    not_renewed = [ask(service, "POST", "/v1/leases", body) for service in replicas]
    renewed = [
        ask(service, "POST", "/v1/leases", {**body, "ttl_seconds": LONG_SECONDS}) for service in replicas
    ]
    assert all(seconds_left(lease) <= TTL_SECONDS + 0.5 for lease in not_renewed)
    assert all(0 < seconds_left(lease) <= LONG_SECONDS + 0.5 for lease in renewed)
    ends = [time.monotonic() + seconds_left(lease) for lease in not_renewed]
    states = ["active", "active"]
    jumped = False
    while states != ["expired", "expired"]:
        now = time.monotonic()
        assert now < max(ends) + LATE_SECONDS + (now - began) / 2, (
            f"leases not expired: {states}"
        )  # a busy machine counts double
        for service, lease in zip((wrong, right), renewed, strict=True):
            renewal = ask(service, "POST", f"/v1/leases/{lease['id']}/renew")
            assert LONG_SECONDS - 0.5 <= renewal["ttl_seconds"] <= LONG_SECONDS
        for number, lease in enumerate(not_renewed):
            before = time.monotonic()
            states[number] = ask(right, "GET", f"/v1/leases/{lease['id']}")["state"]
            assert states[number] == "active" or before >= ends[number] - 0.5
        if not jumped and now - began > TTL_SECONDS / 2:
            clock.set_offset(HOUR)
            jumped = True
        time.sleep(0.1)
    assert jumped
    for lease in renewed:
        assert ask(wrong, "GET", f"/v1/leases/{lease['id']}")["state"] == "active"
        ask(wrong, "DELETE", f"/v1/leases/{lease['id']}")


HOLDER = """
import sys, time
from pathlib import Path
from threading import Event
from freshdb import Client

with Client(sys.argv[1]) as client, client.lease("t", ttl_seconds=4) as lease:
    before = time.time()
    Path(sys.argv[2]).write_text("+3600")
    Event().wait(4.5)
    while time.time() - before < 3600:
        Event().wait(0.05)
    Path(sys.argv[2]).write_text("-3600")
    Event().wait(4.5)
    while time.time() > before:
        Event().wait(0.05)
    assert lease.url
print("kept")
"""


def test_client_whose_clock_jumps_keeps_its_lease(
    service: Service, clock: WrongClock, tmp_path: Path
) -> None:
    ask(service, "POST", "/v1/templates", {"name": "t", "sql": ["select 1"]})
    clock.set_offset(0)
    held = subprocess.run(
        [sys.executable, "-c", HOLDER, service.url, str(tmp_path / "clock")],
        env=os.environ | clock.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert (held.stdout, held.returncode) == ("kept\n", 0), held.stderr


def test_no_code_reads_the_wall_clock() -> None:
    """Instants come from Redis and PostgreSQL, durations from monotonic clocks. No code reads the time of day."""
    sources = [*(ROOT / "service/src").rglob("*.py"), *(ROOT / "client/src").rglob("*.py")]
    assert len(sources) > 100
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if path.relative_to(ROOT) not in _WALL_CLOCK_ALLOWED
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if _WALL_CLOCK.search(line)
    ]
    assert found == []
