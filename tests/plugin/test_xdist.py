"""With xdist, the run is prepared once for all workers, and only if a test needs a database."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from freshdb import Client, Lease
from tests.plugin.suites import Suite

BUILD = """
import os, pathlib, psycopg
with pathlib.Path("builds").open("a") as builds:
    builds.write("built\\n")
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute(pathlib.Path("schema.sql").read_text())
"""


@pytest.fixture
def project(suite: Suite) -> Suite:
    """A project with its own build command, and with a fingerprint that no other test has."""
    (suite.directory / "pytest.ini").unlink()
    del suite.environment["FRESHDB_TEMPLATE"]
    suite.write("build.py", BUILD)
    suite.write("schema.sql", f"-- {suite.directory}\nCREATE TABLE item (name text);")
    write_project(suite, f"{sys.executable} build.py")
    suite.write(
        "test_it.py",
        """
        import psycopg, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(freshdb, number):
            with psycopg.connect(freshdb.url) as connection:
                assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)
                connection.execute("INSERT INTO item VALUES ('ink')")
        """,
    )
    return suite


def write_project(suite: Suite, build: str) -> None:
    suite.write(
        "pyproject.toml",
        f"""
        [tool.pytest.ini_options]
        filterwarnings = "error"

        [tool.freshdb]
        template = "project"
        inputs = ["*.sql"]
        build = "{build}"
        """,
    )


def builds(suite: Suite) -> int:
    path = suite.directory / "builds"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_workers_share_one_build_and_the_next_run_does_not_build(project: Suite) -> None:
    assert project.run("-n", "2").counts() == {"passed": 6}
    assert builds(project) == 1
    assert project.run("-n", "2").counts() == {"passed": 6}
    assert project.run().counts() == {"passed": 6}
    assert builds(project) == 1


def test_changed_input_is_built_again(project: Suite) -> None:
    assert project.run().counts() == {"passed": 6}
    with (project.directory / "schema.sql").open("a") as schema:
        schema.write("\nCREATE TABLE other (name text);")
    assert project.run("-n", "2").counts() == {"passed": 6}
    assert builds(project) == 2


def test_each_worker_has_its_own_session_database(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import pathlib, pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(freshdb_session, worker_id, number):
            with pathlib.Path("seen").open("a") as seen:
                seen.write(f"{worker_id} {freshdb_session.lease.id}\\n")
        """,
    )
    assert suite.run("-n", "2", "--dist=each").counts() == {"passed": 40}
    pairs = {tuple(line.split()) for line in (suite.directory / "seen").read_text().splitlines()}
    assert {worker for worker, _ in pairs} == {"gw0", "gw1"}
    assert len(pairs) == len({lease for _, lease in pairs}) == 2


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_failed_build_is_one_error_and_no_test_runs(project: Suite, workers: tuple[str, ...]) -> None:
    project.write(
        "build.py",
        "import sys\nwith open('builds', 'a') as builds:\n    builds.write('built\\n')\nsys.exit('no ink left')",
    )
    finished = project.run(*workers)
    assert finished.status == pytest.ExitCode.TESTS_FAILED
    assert finished.output.count("no ink left") == 1
    assert "Traceback" not in finished.output
    assert " passed" not in finished.output
    assert " error" not in finished.output.splitlines()[-1]
    assert builds(project) == 1


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_run_without_database_tests_starts_no_service_and_builds_nothing(
    project: Suite, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    del project.environment["FRESHDB_URL"]
    data = tmp_path / "data"
    with (project.directory / "test_it.py").open("a") as tests:
        tests.write(
            textwrap.dedent("""
            def test_plain():
                pass
        """)
        )
    finished = project.run("-k", "plain", *workers, FRESHDB_DATA=str(data))
    assert finished.counts()["passed"] == 1
    assert "freshdb: not started yet, template project" in finished.output
    assert builds(project) == 0
    assert not (data / "service.json").exists()


@pytest.mark.parametrize(
    "arguments", [("--collect-only",), ("-n", "2", "--collect-only")], ids=["plain", "xdist"]
)
def test_collect_only_builds_nothing(project: Suite, arguments: tuple[str, ...]) -> None:
    assert project.run(*arguments).status == 0
    assert builds(project) == 0


def test_crashed_worker_is_replaced_and_the_other_tests_pass(
    suite: Suite, client: Client, active: Callable[[], list[Lease]]
) -> None:
    suite.write(
        "test_it.py",
        """
        import os, pathlib, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(freshdb, number):
            if number == 0:
                os._exit(1)
            assert freshdb.url
        """,
    )
    finished = suite.run("-n", "2")
    for lease in active():  # the crashed worker held leases that end only by their TTL
        client.revoke(lease.id)
    assert finished.counts() == {"failed": 1, "passed": 5}
