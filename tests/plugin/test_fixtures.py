"""The values and scopes of the four fixtures, and the release of their leases."""

from __future__ import annotations

from collections.abc import Callable

from freshdb import Client, Lease
from tests.plugin.suites import Suite

PREAMBLE = """
import psycopg
import pytest

def items(database):
    with psycopg.connect(database.url) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM item ORDER BY id")]

def add(database, name):
    with psycopg.connect(database.url) as connection:
        connection.execute("INSERT INTO item (name) VALUES (%s)", [name])

"""


def test_each_test_gets_a_clean_database(suite: Suite) -> None:
    suite.write(
        "test_shop.py",
        PREAMBLE
        + """
@pytest.mark.parametrize("name", ["ink", "cup", "hat"])
def test_is_clean(freshdb, name):
    assert items(freshdb) == ["pen"]
    add(freshdb, name)
    assert items(freshdb) == ["pen", name]
""",
    )
    assert suite.run().counts() == {"passed": 3}


def test_tests_of_a_class_share_a_database_of_their_own(suite: Suite) -> None:
    body = """
    def test_first(self, freshdb_class):
        assert items(freshdb_class) == ["pen"]
        add(freshdb_class, "ink")

    def test_second(self, freshdb_class):
        assert items(freshdb_class) == ["pen", "ink"]
"""
    suite.write("test_shop.py", f"{PREAMBLE}\nclass TestOne:{body}\nclass TestOther:{body}")
    assert suite.run().counts() == {"passed": 4}


def test_tests_of_a_module_share_a_database_of_their_own(suite: Suite) -> None:
    body = """
def test_first(freshdb_module):
    assert items(freshdb_module) == ["pen"]
    add(freshdb_module, "ink")

def test_second(freshdb_module):
    assert items(freshdb_module) == ["pen", "ink"]
"""
    suite.write("test_one.py", PREAMBLE + body)
    suite.write("test_other.py", PREAMBLE + body)
    assert suite.run().counts() == {"passed": 4}


def test_shared_database_can_be_reset_between_tests(suite: Suite) -> None:
    suite.write(
        "test_shop.py",
        PREAMBLE
        + """
@pytest.fixture
def shop(freshdb_module):
    yield freshdb_module
    freshdb_module.reset()

@pytest.mark.parametrize("name", ["ink", "cup"])
def test_is_clean(shop, name, freshdb_module):
    assert items(shop) == ["pen"]
    add(shop, name)

def test_is_the_same_lease_with_another_login(freshdb_module):
    lease, url = freshdb_module.lease.id, freshdb_module.url
    freshdb_module.reset()
    assert freshdb_module.lease.id == lease
    assert freshdb_module.url != url
    assert items(freshdb_module) == ["pen"]
""",
    )
    assert suite.run().counts() == {"passed": 3}


def test_tests_of_a_session_share_a_database_beside_their_own(suite: Suite) -> None:
    body = """
def test_it(freshdb_session, freshdb):
    assert freshdb_session.lease.id != freshdb.lease.id
    assert items(freshdb) == ["pen"]
    add(freshdb_session, "ink")
    assert set(items(freshdb_session)) == {"pen", "ink"}
"""
    suite.write("test_one.py", PREAMBLE + body)
    suite.write("test_other.py", PREAMBLE + body.replace("add(", "#"))
    assert suite.run().counts() == {"passed": 2}


def test_fixture_value_has_urls_for_every_tool_and_a_repr_without_password(suite: Suite) -> None:
    suite.write(
        "test_value.py",
        """
import os, subprocess, sys
import psycopg

def test_value(freshdb):
    plain = f"postgresql://{freshdb.user}:{freshdb.password}@{freshdb.host}:{freshdb.port}/{freshdb.database}"
    assert freshdb.url == plain
    assert freshdb.async_url == plain.replace("postgresql:", "postgresql+asyncpg:")
    assert freshdb.sqlalchemy_url("psycopg") == plain.replace("postgresql:", "postgresql+psycopg:")
    assert freshdb.env()["DATABASE_URL"] == plain
    assert freshdb.template.startswith("shop@")
    assert freshdb.schema is None
    assert freshdb.password and freshdb.password not in repr(freshdb)
    assert freshdb.database in repr(freshdb)

def test_environment_is_enough_for_libpq(freshdb):
    code = "import psycopg; print(psycopg.connect().execute('SELECT name FROM item').fetchone()[0])"
    environment = os.environ | freshdb.env()
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "pen\\n"
""",
    )
    assert suite.run().counts() == {"passed": 2}


def test_failed_assertion_shows_no_password(suite: Suite) -> None:
    suite.write(
        "test_leak.py",
        """
def test_leak(freshdb, pytestconfig):
    (pytestconfig.rootpath / "password").write_text(freshdb.password)
    assert freshdb is None
""",
    )
    finished = suite.run("--showlocals", "-vv")
    assert finished.counts() == {"failed": 1}
    assert (suite.directory / "password").read_text() not in finished.output


def test_holder_names_test_worker_and_run(suite: Suite, client: Client) -> None:
    suite.write("test_holder.py", "class TestHolder:\n    def test_it(self, freshdb):\n        pass\n")
    run = {"GITHUB_SERVER_URL": "https://ci.example", "GITHUB_REPOSITORY": "shop/shop", "GITHUB_RUN_ID": "17"}
    assert suite.run("-n", "1", **run).counts() == {"passed": 1}
    holders = [lease.holder for lease in client.leases(state="released") if lease.holder.get("run")]
    assert [holder["run"] for holder in holders] == ["https://ci.example/shop/shop/actions/runs/17"]
    assert holders[0]["test"] == "test_holder.py::TestHolder::test_it"
    assert holders[0]["worker"] == "gw0"
    assert {"host", "user", "pid"} <= holders[0].keys()


def test_every_lease_is_released_at_the_end(suite: Suite, active: Callable[[], list[Lease]]) -> None:
    suite.write(
        "test_all.py",
        """
class TestAll:
    def test_passes(self, freshdb, freshdb_class, freshdb_module, freshdb_session):
        pass

    def test_fails(self, freshdb, freshdb_class, freshdb_module, freshdb_session):
        raise AssertionError
""",
    )
    assert suite.run().counts() == {"passed": 1, "failed": 1}
    assert active() == []


def test_fixture_requested_at_run_time_gets_a_database(suite: Suite) -> None:
    suite.write(
        "test_late.py",
        PREAMBLE
        + "def test_late(request):\n    assert items(request.getfixturevalue('freshdb')) == ['pen']\n",
    )
    assert suite.run().counts() == {"passed": 1}
