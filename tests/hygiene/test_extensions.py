"""Extensions in use: each template with an extension is leased, used, and clean for the next holder.

Five extensions are in the default suite. ``make hygiene`` has all of them, if Debian's packages are installed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import httpx
import psycopg
import pytest

from freshdb_service.embedded import EmbeddedPostgres, postgres_binaries
from tests import plain_http
from tests.hygiene.change import FORBIDDEN, ISOLATIONS, Holder, Isolation
from tests.hygiene.conftest import SETTINGS
from tests.hygiene.extension_uses import DEFAULT, USES, Use
from tests.hygiene.pool import Lease, Pool
from tests.hygiene.snapshot import differences
from tests.limits import LIMIT_SECONDS
from tests.servers import wanted_majors
from tests.services import Service, start_service
from tests.shares import ALL

pytestmark = pytest.mark.xdist_group("extensions")
PRELOADED = ("pg_stat_statements", "pgaudit")
WANTED = [use for use in (USES if ALL else DEFAULT) if use.major in wanted_majors()]


@dataclass(slots=True)
class Stage:
    """A service for each version, whose servers load the libraries that some extensions need."""

    root: Path
    redis_url: str
    exits: ExitStack
    _services: dict[int, tuple[str, Service]] = field(default_factory=dict)

    def service(self, major: int) -> tuple[str, Service]:
        """Return a superuser's DSN and the service."""
        if major not in self._services:
            binaries = postgres_binaries(major)
            assert binaries is not None
            libraries = [one for one in PRELOADED if _is_there(binaries, one)]
            settings = {"shared_preload_libraries": ", ".join(libraries)} if libraries else {}
            postgres = EmbeddedPostgres(self.root / str(major), binaries=binaries, settings=settings)
            dsn = asyncio.run(postgres.start())
            self.exits.callback(lambda: asyncio.run(postgres.stop()))
            service = start_service([dsn], self.redis_url, settings=SETTINGS)
            self.exits.callback(service.stop)
            self._services[major] = (dsn, service)
        return self._services[major]


def _is_there(binaries: Path, library: str) -> bool:
    return any((binaries.parent / "lib").glob(f"**/{library}.so"))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, service_redis_url: str) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("extensions")
    root.chmod(0o711)
    with ExitStack() as exits:
        yield Stage(root, service_redis_url, exits)


def require(dsn: str, use: Use) -> None:
    """Skip the test if a package is missing."""
    with psycopg.connect(dsn) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM pg_available_extensions")}
    needed = {form if isinstance(form, str) else form["name"] for form in use.forms}
    if not needed <= there:
        pytest.skip(f"install Debian's package {use.package}")


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("use", WANTED, ids=str)
def test_next_holder_finds_the_extension_as_in_the_template(
    stage: Stage, use: Use, isolation: Isolation
) -> None:
    dsn, service = stage.service(use.major)
    require(dsn, use)
    name = f"{use.name.replace(' ', '-')}-{isolation}"
    if use.danger:
        _check_danger(service, name, use)
        return
    pool = Pool.of(service, dsn, isolation, name, use.build, *use.forms)
    try:
        answer = pool.request_lease()
        if isolation == "schema" and use.refusal:
            _check_refusal(answer, use)
        else:
            _check_next_holder(pool, pool.granted(answer), use)
    finally:
        pool.close()


def _check_danger(service: Service, name: str, use: Use) -> None:
    body = {"name": name, "sql": [use.build], "extensions": [*use.forms]}
    answer = httpx.post(
        f"{service.url}/v1/templates", json=body, timeout=LIMIT_SECONDS, verify=plain_http.NO_CERTIFICATES
    )
    assert answer.status_code == 422, answer.text
    assert use.danger in answer.json()["detail"]


def _check_refusal(answer: httpx.Response, use: Use) -> None:
    assert (answer.status_code, answer.json()["code"]) == (422, "isolation_unsupported"), answer.text
    assert any(use.refusal in reason for reason in answer.json()["reasons"]), answer.text


def _check_next_holder(pool: Pool, lease: Lease, use: Use) -> None:
    baseline = pool.snapshotter.snapshot(lease.subject)
    assert _answer(lease, use) == use.value
    with Holder(lease.subject) as holder:
        for statement in use.forbidden_in(pool.isolation):
            with pytest.raises(psycopg.Error) as refusal:
                holder.run(statement)
            assert refusal.value.sqlstate == FORBIDDEN, (statement, refusal.value)
        holder.run(*use.hold, *(use.in_database if pool.isolation == "database" else ()))
    assert _answer(lease, use) != use.value or pool.snapshotter.differs(baseline, lease.subject)
    following = pool.next_of(lease)
    try:
        assert _answer(following, use) == use.value
        found = differences(baseline, pool.snapshotter.snapshot(following.subject))
        assert not found, "\n".join(found)
        if use.path and pool.isolation == "database":
            assert _reset_path(pool, following) == use.path
    finally:
        pool.release(following)


def _reset_path(pool: Pool, lease: Lease) -> str:
    """Wait for the event of the reset before this lease, and return its path."""
    until = monotonic() + LIMIT_SECONDS
    while monotonic() < until:
        for line in pool.http.get("/v1/events", params={"follow": "false", "since": "0"}).text.splitlines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if (event.get("database"), event.get("generation")) == (lease.database_id, lease.generation):
                return str(event.get("path"))
        sleep(0.1)
    pytest.fail("no event of the reset")


def _answer(lease: Lease, use: Use) -> object:
    with psycopg.connect(lease.subject.url) as connection:
        row = connection.execute(use.check).fetchone()  # type: ignore[arg-type, unused-ignore]
    return row and row[0]


def test_at_least_fifteen_extensions_are_leased() -> None:
    assert len({use.name for use in USES}) == len(USES)
    assert len([use for use in USES if " " not in use.name and not use.danger]) >= 15
