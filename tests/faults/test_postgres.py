"""PostgreSQL runs but refuses or delays a request: no free connection, a template in use, a lock, a timeout."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from tests.faults.installation import Installation, assert_unavailable, wait_until
from tests.faults.slow import slow

pytestmark = pytest.mark.xdist_group("faults")


def test_server_without_a_free_connection_is_unavailable(installation: Installation) -> None:
    held = installation.lease()
    with ExitStack() as others:
        installation.control.refuse()
        installation.managed.refuse()
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            _all_connections(installation, others)
        installation.control.pass_on()
        installation.managed.pass_on()
        assert "clients" in assert_unavailable(installation.acquire())
        assert "clients" in installation.request("GET", "/readyz").text
        assert installation.request("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
        assert_unavailable(installation.request("DELETE", f"/v1/leases/{held['id']}"))
    installation.release(held)
    installation.check_recovery()


@slow
def test_template_with_a_connected_client_is_cloned(installation: Installation) -> None:
    with installation.as_superuser() as superuser:
        name = installation.template_database(superuser)
        superuser.execute(f"alter database {name} allow_connections true")
        try:
            with installation.as_superuser(name) as client, installation.larger_pool():
                pass
            with pytest.raises(psycopg.OperationalError):
                client.execute("select 1")
        finally:
            superuser.execute(f"alter database {name} allow_connections false")
    installation.check_recovery()


@slow
def test_drop_that_waits_for_a_lock_is_cancelled_and_retried_without_blocking_leases(
    installation: Installation,
) -> None:
    template = installation.post("/v1/templates", {"name": "gone", "sql": ["select 1"]})
    lease = installation.post("/v1/leases", {"template": "gone", "wait_seconds": 5})
    with installation.as_superuser() as superuser:
        superuser.execute("begin")
        superuser.execute(
            f"comment on database {lease['database']} is 'mine'"
        )  # takes a lock that a drop waits for
        assert installation.request("DELETE", f"/v1/templates/{template['id']}?force=true").status_code == 200
        assert installation.request("DELETE", f"/v1/leases/{lease['id']}").status_code == 200
        wait_until(lambda: "cannot drop" in installation.service.log)
        installation.release(installation.lease())
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lease["url"])
        superuser.execute("rollback")
        wait_until(
            lambda: (
                superuser.execute(
                    "select from pg_database where datname = %s", [lease["database"]]
                ).fetchone()
                is None
            )
        )
    installation.check_recovery()


@slow
def test_timeouts_set_for_the_services_role_have_no_effect(installation: Installation) -> None:
    with installation.as_superuser() as superuser:
        settings = {
            "statement_timeout": "1ms",
            "lock_timeout": "1ms",
            "idle_session_timeout": "1ms",
            "idle_in_transaction_session_timeout": "1ms",
            "default_transaction_read_only": "on",
            "default_transaction_isolation": "serializable",
        }
        for name, value in settings.items():
            superuser.execute(f"alter role freshdb set {name} to '{value}'")
        try:
            installation.end_service_sessions()
            for _ in range(5):
                installation.check_recovery()
        finally:
            superuser.execute("alter role freshdb reset all")
    installation.end_service_sessions()
    installation.check_recovery()


def test_crash_of_postgresql_undoes_no_answered_request(installation: Installation) -> None:
    """This also holds for PostgreSQL with ``synchronous_commit = off``, which the embedded server uses."""
    for _ in range(2):
        released, held = installation.lease(), installation.lease()
        installation.release(released)
        installation.crash()
        wait_until(lambda: installation.request("GET", "/readyz").status_code == 200)
        assert installation.get_lease(held)["state"] == "active"
        assert installation.get_lease(released)["state"] == "released"
        psycopg.connect(held["url"]).close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(released["url"])
        installation.release(held)
        installation.check_recovery()


def _all_connections(installation: Installation, others: ExitStack) -> None:
    while True:
        others.enter_context(installation.as_superuser())
