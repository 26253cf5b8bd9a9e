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
from tests.hygiene.conftest import SETTINGS, TEMPLATE, Stand
from tests.hygiene.ground import Ground, Lease
from tests.hygiene.judge import differences
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
MOMENTS_SECONDS = share((0.0, 0.003, 0.01, 0.03), 4)
# A row that was claimed at the moment of a crash becomes available when its claim has expired.
IMPATIENT = {**SETTINGS, "claim_seconds": 5, "reconciler_seconds": 2}
VERSIONS = [
    pytest.param(major, marks=pytest.mark.xdist_group(f"hygiene-crash-{major}"), id=f"pg{major}")
    for major in share(wanted_majors(), 3)
]


@dataclass(frozen=True, slots=True)
class Site:
    """A service with a server that a test can crash."""

    home: Path
    server: EmbeddedPostgres
    superuser: str
    service: Service
    http: httpx.Client

    @property
    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.home / "cluster" / "postmaster.pid").read_text().split()[0]))

    def crash(self, *, also: Sequence[int] = ()) -> None:
        """Crash the server as ``pg_ctl stop -m immediate`` does. ``also`` are stopped backends, which cannot react."""
        postmaster = self.postmaster
        postmaster.send_signal(signal.SIGQUIT)
        for backend in also:
            os.kill(backend, signal.SIGKILL)
        until(lambda: not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE)

    def start(self) -> None:
        """Start the server after a crash, and wait until the service is ready."""
        assert asyncio.run(self.server.start()) == self.superuser
        until(lambda: self.http.get("/readyz").status_code == 200)

    @contextmanager
    def stands(self) -> Iterator[list[Stand]]:
        """Open a pool of each isolation, with its first lease and the picture of its clean database."""
        name = f"crash-{time.monotonic_ns()}"
        opened = [
            Ground.of(self.service, self.superuser, isolation, name, LOGGED_TEMPLATE)
            for isolation in ISOLATIONS
        ]
        try:
            leases = [ground.acquire() for ground in opened]
            yield [
                Stand(ground, lease, ground.judge.picture(lease.subject))
                for ground, lease in zip(opened, leases, strict=True)
            ]
        finally:
            for ground in opened:
                ground.close()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, service_redis_url: str) -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="freshdb-crash-"))
    directory.chmod(0o711)
    home = directory / "postgres"
    # Commits must survive, also those of the control plane's rows.
    server = EmbeddedPostgres(
        home, binaries=postgres_binaries(request.param), settings={"synchronous_commit": "on"}
    )
    superuser = asyncio.run(server.start())
    service = start_service([superuser], service_redis_url, settings=IMPATIENT)
    try:
        with httpx.Client(verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=60) as http:
            yield Site(home, server, superuser, service, http)
        assert service.stop() == 0
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(directory)


@pytest.mark.parametrize("site", VERSIONS, indirect=True)
def test_a_crash_in_the_middle_of_a_lease(site: Site) -> None:
    """Changes before and after the crash are found, although the counters begin at zero in between."""
    with site.stands() as stands, ExitStack() as held:
        for stand in stands:
            holder = held.enter_context(Holder(stand.clean.subject))
            holder.run(*CHANGES)
            holder.run_in(holder.connect(), *UNFINISHED)
        site.crash()
        site.start()
        for stand in stands:
            assert stand.ground.judge.sees_difference(stand.baseline, stand.clean.subject)
            Holder(stand.clean.subject).run(*AFTERWARDS)
            _release(stand)
            _next_is_clean(stand)


@pytest.mark.parametrize("site", VERSIONS, indirect=True)
def test_rows_written_only_after_a_crash(site: Site) -> None:
    with site.stands() as stands:
        site.crash()
        site.start()
        for stand in stands:
            Holder(stand.clean.subject).run(*AFTERWARDS)
            _release(stand)
            _next_is_clean(stand)


@pytest.mark.parametrize("site", VERSIONS, indirect=True)
def test_a_crash_in_the_middle_of_a_reset(site: Site) -> None:
    """A stopped backend does not end when it is terminated, so the reset is still in progress when the server crashes."""
    with site.stands() as stands, ExitStack() as held:
        stopped = []
        for stand in stands:
            holder = held.enter_context(Holder(stand.clean.subject))
            holder.run(*CHANGES)
            connection = holder.connect()
            holder.run_in(connection, *UNFINISHED)
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[-1], signal.SIGSTOP)
        try:
            for stand in stands:
                stand.ground.release(stand.clean)
            for stand in stands:
                until(lambda: stand.ground.is_being_reset(stand.clean))  # noqa: B023 - called at once
        finally:
            site.crash(also=stopped)
            site.start()
        for stand in stands:
            _next_is_clean(stand)


@pytest.mark.parametrize("site", VERSIONS, indirect=True)
def test_a_crash_right_after_a_release(site: Site) -> None:
    with site.stands() as stands:
        for seconds in MOMENTS_SECONDS:
            for stand in stands:
                Holder(stand.clean.subject).run(*CHANGES)
                stand.ground.release(stand.clean)
            time.sleep(seconds)  # the crash comes at a different moment each time
            site.crash()
            site.start()
            for stand in stands:
                _next_is_clean(stand)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def _release(stand: Stand) -> None:
    """Release as soon as the service can. It may still be detecting that its own connections are lost."""
    until(lambda: stand.ground.http.delete(f"/v1/leases/{stand.clean.id}").status_code == httpx.codes.OK)


def _next_is_clean(stand: Stand) -> None:
    before = stand.clean.subject.user
    stand.clean = _acquired(stand.ground)
    assert stand.clean.subject.user != before
    found = differences(stand.baseline, stand.ground.judge.picture(stand.clean.subject))
    assert not found, "\n".join(found)


def _acquired(ground: Ground) -> Lease:
    """Acquire as clients do: repeat the request while the response says to retry."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        answer = ground.ask()
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
            return ground.granted(answer)
        time.sleep(0.1)
