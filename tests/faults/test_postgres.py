"""PostgreSQL runs but refuses or delays a request: no free connection, a template in use, a lock, a timeout."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from tests.faults.slow import slow
from tests.faults.stage import Stage, refused, until

pytestmark = pytest.mark.xdist_group("faults")


def test_a_server_without_a_free_connection_is_an_answer(stage: Stage) -> None:
    held = stage.lease()
    with ExitStack() as others:
        stage.control.refuse()
        stage.managed.refuse()
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            _all_connections(stage, others)
        stage.control.pass_on()
        stage.managed.pass_on()
        assert "clients" in refused(stage.acquire())
        assert "clients" in stage.ask("GET", "/readyz").text
        assert stage.ask("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
        refused(stage.ask("DELETE", f"/v1/leases/{held['id']}"))
    stage.release(held)
    stage.as_before()


@slow
def test_a_template_that_somebody_connects_to_is_cloned_all_the_same(stage: Stage) -> None:
    with stage.as_superuser() as superuser:
        name = stage.template_database(superuser)
        superuser.execute(f"alter database {name} allow_connections true")
        try:
            with stage.as_superuser(name) as guest, stage.one_more():
                pass
            with pytest.raises(psycopg.OperationalError):
                guest.execute("select 1")
        finally:
            superuser.execute(f"alter database {name} allow_connections false")
    stage.as_before()


@slow
def test_a_drop_that_waits_for_a_lock_is_given_up_tried_again_and_holds_nobody_up(stage: Stage) -> None:
    template = stage.post("/v1/templates", {"name": "gone", "sql": ["select 1"]})
    lease = stage.post("/v1/leases", {"template": "gone", "wait_seconds": 5})
    with stage.as_superuser() as superuser:
        superuser.execute("begin")
        superuser.execute(
            f"comment on database {lease['database']} is 'mine'"
        )  # takes a lock that a drop waits for
        assert stage.ask("DELETE", f"/v1/templates/{template['id']}?force=true").status_code == 200
        assert stage.ask("DELETE", f"/v1/leases/{lease['id']}").status_code == 200
        until(lambda: "cannot drop" in stage.service.log)
        stage.release(stage.lease())
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lease["url"])
        superuser.execute("rollback")
        until(
            lambda: (
                superuser.execute(
                    "select from pg_database where datname = %s", [lease["database"]]
                ).fetchone()
                is None
            )
        )
    stage.as_before()


@slow
def test_timeouts_that_are_set_for_our_role_do_not_reach_us(stage: Stage) -> None:
    with stage.as_superuser() as superuser:
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
            stage.without_sessions()
            for _ in range(5):
                stage.as_before()
        finally:
            superuser.execute("alter role freshdb reset all")
    stage.without_sessions()
    stage.as_before()


def test_no_crash_undoes_what_was_answered(stage: Stage) -> None:
    """This also holds for PostgreSQL with ``synchronous_commit = off``, which the embedded server uses."""
    for _ in range(2):
        given_back, held = stage.lease(), stage.lease()
        stage.release(given_back)
        stage.crash()
        until(lambda: stage.ask("GET", "/readyz").status_code == 200)
        assert stage.shown(held)["state"] == "active"
        assert stage.shown(given_back)["state"] == "released"
        psycopg.connect(held["url"]).close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(given_back["url"])
        stage.release(held)
        stage.as_before()


def _all_connections(stage: Stage, others: ExitStack) -> None:
    while True:
        others.enter_context(stage.as_superuser())
