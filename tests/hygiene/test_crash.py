"""The server crashes during a lease or during a reset, and the next holder still finds the template.

PostgreSQL's counters of use do not survive a crash, so no earlier state of them can be relied upon.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from freshdb_service.embedded import EmbeddedPostgres, postgres_binaries
from tests import plain_http
from tests.hygiene.change import ISOLATIONS, Holder
from tests.hygiene.conftest import SETTINGS, TEMPLATE, LeasedPool
from tests.hygiene.pool import Lease, Pool
from tests.hygiene.snapshot import differences
from tests.limits import LIMIT_SECONDS
from tests.servers import wanted_majors
from tests.services import Service, start_service
from tests.shares import share

CHANGES = (
    "INSERT INTO note (body) VALUES ('committed')",
    "DELETE FROM pair",
    "UPDATE person SET code = 'x'",
    "SELECT nextval('ticket')",
    "CREATE TABLE mine (a integer)",
)
# A crash empties unlogged tables, also those of the template itself.
LOGGED_TEMPLATE = TEMPLATE.replace("INSERT INTO scratch VALUES (1);", "")
UNFINISHED = ("BEGIN", "INSERT INTO note (body) VALUES ('unfinished')", "DROP TABLE kept")
AFTERWARDS = ("INSERT INTO audit (happened) VALUES ('after')", "DELETE FROM preference")
CRASH_DELAYS_SECONDS = share((0.0, 0.003, 0.01, 0.03), 4)
# A row that was claimed at the moment of a crash becomes available when its claim has expired.
FAST_SETTINGS = {**SETTINGS, "claim_seconds": 5, "reconciler_seconds": 2}
VERSIONS = [
    pytest.param(major, marks=pytest.mark.xdist_group(f"hygiene-crash-{major}"), id=f"pg{major}")
    for major in share(wanted_majors(), 3)
]


@dataclass(frozen=True, slots=True)
class CrashableServer:
    """A service with a server that a test can crash."""

    data: Path
    server: EmbeddedPostgres
    superuser: str
    service: Service
    http: httpx.Client

    @property
    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.data / "cluster" / "postmaster.pid").read_text().split()[0]))

    def crash(self, *, stopped_backends: Sequence[int] = ()) -> None:
        """Crash the server as ``pg_ctl stop -m immediate`` does. ``also`` are stopped backends, which cannot react."""
        postmaster = self.postmaster
        postmaster.send_signal(signal.SIGQUIT)
        for backend in stopped_backends:
            os.kill(backend, signal.SIGKILL)
        wait_until(lambda: not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE)

    def start(self) -> None:
        """Start the server after a crash, and wait until the service is ready."""
        assert asyncio.run(self.server.start()) == self.superuser
        wait_until(lambda: self.http.get("/readyz").status_code == 200)

    @contextmanager
    def leased_pools(self) -> Iterator[list[LeasedPool]]:
        """Open a pool of each isolation, with its first lease and the snapshot of its clean database."""
        name = f"crash-{time.monotonic_ns()}"
        opened = [
            Pool.of(self.service, self.superuser, isolation, name, LOGGED_TEMPLATE)
            for isolation in ISOLATIONS
        ]
        try:
            leases = [pool.acquire() for pool in opened]
            yield [
                LeasedPool(pool, lease, pool.snapshotter.snapshot(lease.subject))
                for pool, lease in zip(opened, leases, strict=True)
            ]
        finally:
            for pool in opened:
                pool.close()


@pytest.fixture(scope="module")
def crashable(request: pytest.FixtureRequest, service_redis_url: str) -> Iterator[CrashableServer]:
    directory = Path(tempfile.mkdtemp(prefix="freshdb-crash-"))
    directory.chmod(0o711)
    data = directory / "postgres"
    # Commits must survive, also those of the control plane's rows.
    server = EmbeddedPostgres(
        data, binaries=postgres_binaries(request.param), settings={"synchronous_commit": "on"}
    )
    superuser = asyncio.run(server.start())
    service = start_service([superuser], service_redis_url, settings=FAST_SETTINGS)
    try:
        with httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=LIMIT_SECONDS
        ) as http:
            yield CrashableServer(data, server, superuser, service, http)
        assert service.stop() == 0
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(directory)


@pytest.mark.parametrize("crashable", VERSIONS, indirect=True)
def test_changes_before_and_after_a_crash_are_cleaned(crashable: CrashableServer) -> None:
    """Changes before and after the crash are found, although the counters begin at zero in between."""
    with crashable.leased_pools() as leased_pools, ExitStack() as stack:
        for leased in leased_pools:
            holder = stack.enter_context(Holder(leased.lease.subject))
            holder.run(*CHANGES)
            holder.run_in(holder.connect(), *UNFINISHED)
        crashable.crash()
        crashable.start()
        for leased in leased_pools:
            assert leased.pool.snapshotter.differs(leased.baseline, leased.lease.subject)
            Holder(leased.lease.subject).run(*AFTERWARDS)
            _release_when_possible(leased)
            _check_next_lease_is_clean(leased)


@pytest.mark.parametrize("crashable", VERSIONS, indirect=True)
def test_rows_written_only_after_a_crash_are_cleaned(crashable: CrashableServer) -> None:
    with crashable.leased_pools() as leased_pools:
        crashable.crash()
        crashable.start()
        for leased in leased_pools:
            Holder(leased.lease.subject).run(*AFTERWARDS)
            _release_when_possible(leased)
            _check_next_lease_is_clean(leased)


@pytest.mark.parametrize("crashable", VERSIONS, indirect=True)
def test_reset_interrupted_by_a_crash_is_completed(crashable: CrashableServer) -> None:
    """A stopped backend does not end when it is terminated, so the reset is still in progress when the server crashes."""
    with crashable.leased_pools() as leased_pools, ExitStack() as stack:
        stopped = []
        for leased in leased_pools:
            holder = stack.enter_context(Holder(leased.lease.subject))
            holder.run(*CHANGES)
            connection = holder.connect()
            holder.run_in(connection, *UNFINISHED)
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[-1], signal.SIGSTOP)
        try:
            for leased in leased_pools:
                leased.pool.release(leased.lease)
            for leased in leased_pools:
                wait_until(lambda: leased.pool.is_being_reset(leased.lease))  # noqa: B023 - called at once
        finally:
            crashable.crash(stopped_backends=stopped)
            crashable.start()
        for leased in leased_pools:
            _check_next_lease_is_clean(leased)


@pytest.mark.parametrize("crashable", VERSIONS, indirect=True)
def test_crash_right_after_a_release_leaves_a_clean_database(crashable: CrashableServer) -> None:
    with crashable.leased_pools() as leased_pools:
        for seconds in CRASH_DELAYS_SECONDS:
            for leased in leased_pools:
                Holder(leased.lease.subject).run(*CHANGES)
                leased.pool.release(leased.lease)
            time.sleep(seconds)  # the crash comes at a different moment each time
            crashable.crash()
            crashable.start()
            for leased in leased_pools:
                _check_next_lease_is_clean(leased)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


def _release_when_possible(leased: LeasedPool) -> None:
    """Release as soon as the service can. It may still be detecting that its own connections are lost."""
    wait_until(lambda: leased.pool.http.delete(f"/v1/leases/{leased.lease.id}").status_code == httpx.codes.OK)


def _check_next_lease_is_clean(leased: LeasedPool) -> None:
    before = leased.lease.subject.user
    leased.lease = _acquire_with_retries(leased.pool)
    assert leased.lease.subject.user != before
    found = differences(leased.baseline, leased.pool.snapshotter.snapshot(leased.lease.subject))
    assert not found, "\n".join(found)


def _acquire_with_retries(pool: Pool) -> Lease:
    """Acquire as clients do: repeat the request while the response says to retry."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        answer = pool.request_lease()
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
            return pool.granted(answer)
        time.sleep(0.1)
