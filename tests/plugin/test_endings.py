"""The ends of a run release its leases, lost leases are reported, and databases of failed tests can be kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable

import psycopg
import pytest

from freshdb import Client, Lease
from tests.limits import LIMIT_SECONDS
from tests.plugin.suites import BEAT_OFTEN, Suite, eventually, finish

HANGS = """
import pathlib, time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_hangs(freshdb, freshdb_session, number):
    pathlib.Path(f"ready-{number}").touch()
    time.sleep(60)
"""
WORKERS = pytest.mark.parametrize("workers", [0, 2], ids=["plain", "xdist"])


def start_hanging(suite: Suite, workers: int) -> subprocess.Popen[str]:
    suite.write("test_hangs.py", HANGS)
    process = suite.start("-n", str(workers), "--freshdb-ttl=3600")
    eventually(lambda: len(list(suite.directory.glob("ready-*"))) == (workers or 1), "the tests hold leases")
    return process


@WORKERS
def test_ctrl_c_releases_every_lease(suite: Suite, active: Callable[[], list[Lease]], workers: int) -> None:
    with start_hanging(suite, workers) as process:
        assert len(active()) >= 2 * (workers or 1)  # including spares of the next tests
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole process group
        finished = finish(process)
    assert finished.status == pytest.ExitCode.INTERRUPTED
    eventually(lambda: active() == [], "the leases are released")


@WORKERS
def test_sigterm_releases_every_lease(suite: Suite, active: Callable[[], list[Lease]], workers: int) -> None:
    with start_hanging(suite, workers) as process:
        process.terminate()
        finished = finish(process)
    assert finished.status in {128 + signal.SIGTERM, -signal.SIGTERM}
    eventually(lambda: active() == [], "the leases are released")


def test_leases_of_a_killed_run_expire(
    suite: Suite, client: Client, active: Callable[[], list[Lease]]
) -> None:
    suite.write("conftest.py", BEAT_OFTEN)
    suite.write("test_hangs.py", HANGS)
    with suite.start("--freshdb-ttl=5") as process:
        eventually((suite.directory / "ready-0").exists, "the test holds its lease")
        held = {one.id for one in active()}
        assert held
        process.kill()
        finish(process)
    eventually(lambda: active() == [], "the leases expire")
    assert {client.get_lease(one).state for one in held} == {"expired"}


@pytest.mark.parametrize("workers", ["0", "2"], ids=["plain", "xdist"])
def test_run_that_stops_at_the_first_failure_releases_every_lease(
    suite: Suite, active: Callable[[], list[Lease]], workers: str
) -> None:
    suite.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_it(freshdb, freshdb_class, freshdb_module, freshdb_session, number):
            assert number != 1
        """,
    )
    finished = suite.run("-x", "-n", workers)
    assert finished.status != 0
    assert active() == []


def test_lease_revoked_during_a_test_is_an_error_with_the_reason(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import freshdb as package

        def test_loses(freshdb):
            with package.Client() as client:
                client.revoke(freshdb.lease.id)

        def test_next(freshdb):
            assert freshdb.url
        """,
    )
    finished = suite.run()
    assert finished.counts() == {"passed": 2, "error": 1}
    assert "was lost while the test held it" in finished.output
    assert "revoked" in finished.output
    assert "Traceback" not in finished.output


def test_tests_of_a_class_fail_after_its_lease_is_lost(suite: Suite) -> None:
    suite.write("conftest.py", BEAT_OFTEN)
    suite.write(
        "test_it.py",
        f"""
        import freshdb as package

        class TestShared:
            def test_loses(self, freshdb_class):
                with package.Client() as client:
                    client.revoke(freshdb_class.lease.id)
                assert freshdb_class._held.lost.wait({LIMIT_SECONDS})  # until the heartbeat notices

            def test_after(self, freshdb_class):
                raise SystemExit("never run")

        def test_unconcerned(freshdb):
            pass
        """,
    )
    finished = suite.run(f"--freshdb-ttl={LIMIT_SECONDS}")
    assert finished.counts() == {"passed": 2, "error": 2}
    assert "never run" not in finished.output.replace('raise SystemExit("never run")', "")


@pytest.mark.parametrize("workers", ["0", "2"], ids=["plain", "xdist"])
def test_keep_option_keeps_the_database_of_a_failed_test(suite: Suite, client: Client, workers: str) -> None:
    suite.write(
        "test_it.py",
        """
        import pathlib, psycopg

        def test_fails(freshdb):
            pathlib.Path("url").write_text(freshdb.url)
            with psycopg.connect(freshdb.url) as connection:
                connection.execute("INSERT INTO item (name) VALUES ('evidence')")
            raise AssertionError("look")

        def test_passes(freshdb):
            pass
        """,
    )
    finished = suite.run("--freshdb-keep", "-n", workers)
    assert finished.counts() == {"passed": 1, "failed": 1}
    shown = re.search(r"test_it.py::test_fails: .*freshdb psql --lease (\S+)", finished.output)
    assert shown is not None, finished.output
    [kept] = client.leases(state="kept")
    assert kept.id == shown.group(1)
    with psycopg.connect((suite.directory / "url").read_text()) as connection:
        rows = connection.execute("SELECT name FROM item WHERE name = 'evidence'").fetchall()
    assert rows == [("evidence",)]
    client.revoke(kept.id)


def test_no_database_is_kept_by_default(suite: Suite, client: Client) -> None:
    suite.write("test_it.py", "def test_fails(freshdb):\n    raise AssertionError\n")
    assert suite.run().counts() == {"failed": 1}
    assert client.leases(state="kept") == []


def test_forked_child_does_not_release_leases_of_its_parent(
    suite: Suite, active: Callable[[], list[Lease]]
) -> None:
    suite.write(
        "test_it.py",
        """
        import atexit, os, warnings
        import psycopg

        def test_forks(freshdb):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fork warns about the heartbeat's thread
                child = os.fork()
            if child == 0:
                atexit._run_exitfuncs()  # as at the regular exit of a child
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            with psycopg.connect(freshdb.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        """,
    )
    assert suite.run().counts() == {"passed": 1}
    assert active() == []


def test_sigterm_handler_of_the_suite_is_not_replaced(suite: Suite) -> None:
    suite.write(
        "conftest.py",
        """
        import signal
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        """,
    )
    suite.write(
        "test_it.py",
        """
        import os, signal

        def test_it(freshdb):
            os.kill(os.getpid(), signal.SIGTERM)
        """,
    )
    assert suite.run().counts() == {"passed": 1}
