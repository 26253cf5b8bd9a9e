"""Prefetching: leases are acquired before their tests start, in their names, without making other clients wait."""

from __future__ import annotations

import os
import secrets
import signal
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from freshdb import Client, Lease, ensure_service, stop_service
from freshdb.models import Isolation
from tests.limits import LIMIT_SECONDS
from tests.plugin.suites import BEAT_OFTEN, Suite, eventually, finish

PREAMBLE = f"""
import os, pathlib, time
import pytest
import freshdb as package

LIMIT_SECONDS = {LIMIT_SECONDS}

def spares(own):
    with package.Client() as client:
        return [one for one in client.leases(state="active") if one.id != own.lease.id]

def spare(own):
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (found := spares(own)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(found) == 1
    return found[0]

def note(name, text):
    pathlib.Path(name).write_text(text)

def noted(name):
    return pathlib.Path(name).read_text()
"""
KEEP_SPARES = f"""
from freshdb.pytest_plugin import prefetch

prefetch._CHECK_SECONDS = ()
prefetch._MAX_SPARE_SECONDS = {10 * LIMIT_SECONDS}
"""
"""A ``conftest.py`` with which a spare is kept for its test, however slow the machine is."""
CHECK_SPARES = f"""
from freshdb.pytest_plugin import prefetch

prefetch._CHECK_SECONDS = [0.1 * number for number in range(1, 10_000)]
prefetch._MAX_SPARE_SECONDS = {10 * LIMIT_SECONDS}
"""
"""A ``conftest.py`` with which a spare is released only when another client waits."""
BOTH = pytest.mark.parametrize("workers", ["0", "1"], ids=["plain", "xdist"])


def by_test(leases: list[Lease]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        found.setdefault(lease.holder["test"].rpartition("::")[2], []).append(lease)
    return found


@pytest.fixture
def template(client: Client) -> str:
    """Create a template, and so a pool, for this test only."""
    name = f"own-{secrets.token_hex(4)}"
    client.ensure_sql(name, [f"CREATE TABLE item (name text); COMMENT ON TABLE item IS '{name}'"])
    return name


@pytest.fixture
def suite(suite: Suite, template: str) -> Suite:
    suite.environment["FRESHDB_TEMPLATE"] = template
    return suite


@pytest.fixture
def leases(client: Client, template: str) -> Callable[[], dict[str, list[Lease]]]:
    """Return the ended leases of the suite by the names of their tests."""
    return lambda: by_test(client.leases(template=template, state="released"))


def limit(client: Client, template: str, most: int) -> None:
    """Limit the template's pool to `most` databases, and wait until all are ready."""
    lease = client.acquire(template)
    client.resize(lease.pool_id, min_ready=0, max_size=most, idle_seconds=0.01)
    client.release(lease.id)
    eventually(lambda: sum(_databases(client, lease).values()) <= most, "the pool shrinks to its size")
    client.resize(lease.pool_id, min_ready=most, idle_seconds=300)
    eventually(lambda: _databases(client, lease) == {"ready": most}, "its databases are ready")


def warm(client: Client, template: str, ready: int, isolation: Isolation = "database") -> None:
    """Create a pool, and wait until `ready` databases are ready."""
    lease = client.acquire(template, isolation=isolation)
    client.resize(lease.pool_id, min_ready=ready)
    client.release(lease.id)
    eventually(lambda: _databases(client, lease).get("ready", 0) >= ready, "databases are ready")


def _databases(client: Client, lease: Lease) -> dict[str, int]:
    return {state: number for state, number in client.pool(lease.pool_id).databases.items() if number}


@BOTH
def test_lease_of_the_next_test_is_acquired_in_its_name_while_a_test_runs(suite: Suite, workers: str) -> None:
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first(freshdb):
    found = spare(freshdb)
    assert found.holder["test"] == "test_it.py::test_second"
    note("second", found.id)

def test_second(freshdb):
    assert freshdb.lease.id == noted("second")
    assert freshdb.lease.holder["test"] == "test_it.py::test_second"
""",
    )
    assert suite.run("-n", workers).counts() == {"passed": 2}


@pytest.mark.parametrize("way", ["--freshdb-prefetch=0", "environment", "project"])
def test_prefetch_0_acquires_and_releases_within_each_test(
    suite: Suite, leases: Callable[[], dict[str, list[Lease]]], way: str
) -> None:
    suite.write("test_it.py", "def test_first(freshdb):\n    pass\n\ndef test_second(freshdb):\n    pass\n")
    if way == "project":
        (suite.directory / "pytest.ini").unlink()
        suite.write("pyproject.toml", "[tool.pytest.ini_options]\n[tool.freshdb]\nprefetch = 0\n")
    environment = {"FRESHDB_PREFETCH": "0"} if way == "environment" else {}
    arguments = [way] if way.startswith("--") else []
    assert suite.run(*arguments, **environment).counts() == {"passed": 2}
    ended = leases()
    [first], [second] = ended["test_first"], ended["test_second"]
    assert first.ended_at is not None
    assert first.ended_at <= second.granted_at


def test_prefetch_2_acquires_leases_of_two_tests(suite: Suite, client: Client, template: str) -> None:
    warm(client, template, 3)
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first(freshdb):
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(found := spares(freshdb)) < 2:
        assert time.monotonic() < deadline
    names = {one.holder["test"].rpartition("::")[2]: one.id for one in found}
    assert names.keys() == {"test_second", "test_third"}
    note("second", names["test_second"])
    note("third", names["test_third"])

def test_second(freshdb):
    assert freshdb.lease.id == noted("second")

def test_third(freshdb):
    assert freshdb.lease.id == noted("third")
""",
    )
    assert suite.run("--freshdb-prefetch=2").counts() == {"passed": 3}


def test_spare_has_the_template_and_isolation_of_the_next_test(suite: Suite, client: Client) -> None:
    warm(client, "shop", 2, "schema")
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first():
    pass

def test_second(freshdb):
    found = spare(freshdb)
    assert found.template.startswith("shop@") and found.isolation == "schema"
    note("third", found.id)

@pytest.mark.freshdb(template="shop", isolation="schema")
def test_third(freshdb):
    assert freshdb.lease.id == noted("third")
    assert freshdb.schema is not None

def test_fourth():
    pass
""",
    )
    assert suite.run().counts() == {"passed": 4}


def test_unused_spare_is_released_and_later_leases_name_their_tests(
    suite: Suite, leases: Callable[[], dict[str, list[Lease]]], active: Callable[[], list[Lease]]
) -> None:
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
@pytest.fixture
def unwilling():
    pytest.skip("not today")

def test_first(freshdb):
    spare(freshdb)

def test_skipped(unwilling, freshdb):
    pass

def test_third(freshdb):
    deadline = time.monotonic() + LIMIT_SECONDS
    while "skipped" in str(spares(freshdb)):
        assert time.monotonic() < deadline
    assert freshdb.lease.holder["test"] == "test_it.py::test_third"

@pytest.mark.skip
def test_marked(freshdb):
    pass

def test_fifth(freshdb):
    assert freshdb.lease.holder["test"] == "test_it.py::test_fifth"
""",
    )
    assert suite.run().counts() == {"passed": 3, "skipped": 2}
    assert active() == []
    ended = leases()
    assert ended.keys() == {"test_first", "test_skipped", "test_third", "test_fifth"}


def test_lost_spare_is_replaced_by_a_new_lease(suite: Suite) -> None:
    suite.write("conftest.py", KEEP_SPARES + BEAT_OFTEN)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
from freshdb.pytest_plugin import _RUN

def test_first(freshdb, pytestconfig):
    found = spare(freshdb)
    [waiting] = pytestconfig.stash[_RUN]._prefetcher._spares.values()
    with package.Client() as client:
        client.revoke(found.id)
    assert waiting.lease.held.lost.wait(LIMIT_SECONDS)  # its heartbeat notices
    note("lost", found.id)

def test_second(freshdb):
    assert freshdb.url
    assert freshdb.lease.id != noted("lost")
""",
    )
    assert suite.run(f"--freshdb-ttl={LIMIT_SECONDS}").counts() == {"passed": 2}


@pytest.mark.parametrize(
    ("ending", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)], ids=["sigterm-plain", "ctrl-c-xdist"]
)
def test_interrupted_run_releases_its_spares(
    suite: Suite,
    client: Client,
    template: str,
    active: Callable[[], list[Lease]],
    workers: int,
    ending: signal.Signals,
) -> None:
    warm(client, template, 4)
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
@pytest.mark.parametrize("number", range(8))
def test_it(freshdb, number):
    pathlib.Path(f"ready-{number}").touch()
    time.sleep(60)
""",
    )
    with suite.start("-n", str(workers), "--freshdb-ttl=3600") as process:
        ready = suite.directory.glob
        eventually(lambda: len(list(ready("ready-*"))) == (workers or 1), "each worker runs a test")
        eventually(lambda: len(active()) == 2 * (workers or 1), "each worker has a spare")
        os.killpg(process.pid, ending)
        finish(process)
    eventually(lambda: active() == [], "the leases are released")


def test_run_that_stops_at_the_first_failure_releases_its_spare(
    suite: Suite, active: Callable[[], list[Lease]]
) -> None:
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE + "\ndef test_first(freshdb):\n    spare(freshdb)\n    raise ValueError\n"
        "\ndef test_second(freshdb):\n    pass\n",
    )
    assert suite.run("-x").counts() == {"failed": 1}
    assert active() == []


def test_waiting_client_gets_the_database_of_a_spare(suite: Suite, client: Client, template: str) -> None:
    limit(client, template, 2)
    suite.write("conftest.py", CHECK_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first(freshdb):
    spare(freshdb)
    note("ready", "")
    deadline = time.monotonic() + LIMIT_SECONDS
    while not pathlib.Path("served").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def test_second(freshdb):
    assert freshdb.url
""",
    )
    with suite.start() as process:
        eventually((suite.directory / "ready").exists, "the test has its database, and there is a spare")
        lease = client.acquire(template, wait_seconds=LIMIT_SECONDS)
        (suite.directory / "served").touch()
        client.release(lease.id)
        assert finish(process).counts() == {"passed": 2}


def test_pool_of_one_database_serves_two_workers(suite: Suite, client: Client, template: str) -> None:
    limit(client, template, 1)
    suite.write(
        "test_it.py",
        PREAMBLE
        + "\n@pytest.mark.parametrize('number', range(8))\ndef test_it(freshdb, number):\n    pass\n",
    )
    assert suite.run("-n", "2", f"--freshdb-wait={LIMIT_SECONDS}").counts() == {"passed": 8}


def test_spare_does_not_block_the_lease_of_a_module(suite: Suite, client: Client, template: str) -> None:
    limit(client, template, 2)
    body = (
        PREAMBLE
        + """
def test_first(freshdb, freshdb_module):
    assert freshdb.database != freshdb_module.database

def test_second(freshdb):
    pass

def test_third(freshdb, freshdb_module):
    assert freshdb.database != freshdb_module.database
"""
    )
    for name in ("one", "other", "third"):
        suite.write(f"test_{name}.py", body)
    assert suite.run(f"--freshdb-wait={LIMIT_SECONDS}").counts() == {"passed": 9}


@pytest.mark.parametrize("fixture", ["freshdb", "freshdb_class"])
def test_spare_does_not_block_a_fixture_requested_during_a_test(
    suite: Suite, client: Client, template: str, fixture: str
) -> None:
    suite.write("conftest.py", KEEP_SPARES)
    limit(client, template, 1)
    suite.write(
        "test_it.py",
        PREAMBLE
        + f"""
class TestFirst:
    def test_first(self, request):
        from freshdb.pytest_plugin import _RUN
        deadline = time.monotonic() + LIMIT_SECONDS
        while not request.config.stash[_RUN]._prefetcher._spares:
            assert time.monotonic() < deadline
        assert request.getfixturevalue("{fixture}").url

def test_second(freshdb):
    assert freshdb.url
""",
    )
    assert suite.run(f"--freshdb-wait={LIMIT_SECONDS}").counts() == {"passed": 2}


@BOTH
def test_database_of_a_failed_test_is_kept_while_a_spare_exists(
    suite: Suite, client: Client, template: str, active: Callable[[], list[Lease]], workers: str
) -> None:
    suite.write("conftest.py", KEEP_SPARES)
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first(freshdb):
    spare(freshdb)
    raise ValueError

def test_second(freshdb):
    assert freshdb.lease.holder["test"] == "test_it.py::test_second"
""",
    )
    finished = suite.run("--freshdb-keep", "-n", workers)
    assert finished.counts() == {"failed": 1, "passed": 1}
    [kept] = client.leases(state="kept", template=template)
    assert kept.id in finished.output
    assert active() == []
    client.revoke(kept.id)


@BOTH
def test_loss_found_at_the_release_is_an_error_of_the_test_that_held_the_lease(
    suite: Suite, workers: str
) -> None:
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
class TestShop:
    def test_loses(self, freshdb):
        with package.Client() as client:
            client.revoke(freshdb.lease.id)

def test_next(freshdb):
    assert freshdb.url
""",
    )
    finished = suite.run("-n", workers)
    assert finished.counts() == {"passed": 2, "error": 1}
    assert finished.status == pytest.ExitCode.TESTS_FAILED
    assert "ERROR at teardown of TestShop.test_loses" in finished.output
    assert "ERROR test_it.py::TestShop::test_loses" in finished.output
    assert "was lost while the test held it: " in finished.output
    assert "Traceback" not in finished.output


@BOTH
def test_lost_lease_of_the_last_test_is_reported(suite: Suite, workers: str) -> None:
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_loses(freshdb):
    with package.Client() as client:
        client.revoke(freshdb.lease.id)
""",
    )
    finished = suite.run("-n", workers)
    assert finished.counts() == {"passed": 1, "error": 1}
    assert finished.status == pytest.ExitCode.TESTS_FAILED


@contextmanager
def own_service(suite: Suite) -> Iterator[None]:
    data = suite.directory / "data"
    suite.environment |= {
        "FRESHDB_URL": ensure_service(data),
        "FRESHDB_DATA": str(data),
        "FRESHDB_TEMPLATE": "shop",
    }
    try:
        with Client(suite.environment["FRESHDB_URL"]) as client:
            client.ensure_sql("shop", ["CREATE TABLE item (name text)"])
            warm(client, "shop", 1)
        yield
    finally:
        stop_service(data)


def test_unreleased_leases_are_listed_in_the_terminal_summary(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_it(freshdb):
    note("lease", freshdb.lease.id)
    assert package.stop_service(pathlib.Path(os.environ["FRESHDB_DATA"]))
""",
    )
    with own_service(suite):
        finished = suite.run("-n", "1", "--freshdb-wait=1")
    assert finished.counts() == {"passed": 1}
    assert "could not be released" in finished.output
    assert (suite.directory / "lease").read_text() in finished.output


def test_leases_are_acquired_and_released_when_tests_patch_httpx(
    suite: Suite, active: Callable[[], list[Lease]]
) -> None:
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
import httpx

@pytest.fixture
def no_network(freshdb, monkeypatch):
    def refuse(*arguments):
        note("tried", "")
        raise RuntimeError("no network in this test")
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", refuse)

@pytest.mark.parametrize("number", range(3))
def test_it(no_network, freshdb, number):
    deadline = time.monotonic() + LIMIT_SECONDS
    while number < 2 and not pathlib.Path("tried").exists():
        assert time.monotonic() < deadline
    assert freshdb.url
""",
    )
    finished = suite.run()
    assert finished.counts() == {"passed": 3}
    assert "could not be released" not in finished.output
    assert active() == []


def test_forked_test_does_not_use_spares_of_its_parent(
    suite: Suite, active: Callable[[], list[Lease]]
) -> None:
    """Run each test and its fixtures in a child, as pytest-forked does."""
    suite.write(
        "conftest.py",
        KEEP_SPARES
        + textwrap.dedent("""
        import os, warnings
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            if "forked" not in item.name:
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    reports = runtestprotocol(item, nextitem=nextitem, log=False)
                    code = 0 if all(one.passed for one in reports) else 2
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed" if code else "passed", None, "call")
            item.ihook.pytest_runtest_logreport(report=report)
            return True
        """),
    )
    suite.write(
        "test_it.py",
        PREAMBLE
        + """
def test_first(freshdb):
    note("spare", spare(freshdb).id)

@pytest.mark.parametrize("number", range(3))
def test_forked(freshdb, number):
    import psycopg
    assert freshdb.lease.id != noted("spare")
    with psycopg.connect(freshdb.url) as connection:
        connection.execute("INSERT INTO item (name) VALUES ('ink')")

def test_last(freshdb):
    assert freshdb.url
""",
    )
    with suite.start() as process:
        finished = finish(process)
    assert finished.counts() == {"passed": 5}, finished.output
    assert active() == []


def test_malformed_prefetch_number_is_reported_with_its_source(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(freshdb):\n    pass\n")
    finished = suite.run("--freshdb-prefetch=-1")
    assert finished.status == pytest.ExitCode.USAGE_ERROR
    assert "--freshdb-prefetch: '-1' is not a whole number" in finished.output
