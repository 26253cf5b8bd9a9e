"""Connections that hang: all data is swallowed in both directions, and no connection is closed.

The service gives up after its configured timeouts, reports that, uses up no resource, and continues with the network.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.slow import slow
from tests.faults.stage import Stage, refused, until

pytestmark = pytest.mark.xdist_group("faults")


def test_a_control_plane_that_hangs_is_an_answer_and_uses_nothing_up(stage: Stage) -> None:
    held = stage.lease()
    stage.control.swallow()
    try:
        for _ in range(2):  # more than the connections; the second time, no request waits
            assert {refused(one) for one in stage.many(40, stage.acquire)}
        assert stage.ask("POST", f"/v1/leases/{held['id']}/renew").status_code == 200  # needs Redis only
        refused(stage.ask("DELETE", f"/v1/leases/{held['id']}"))
        assert stage.ask("GET", "/readyz").status_code == 503
        assert stage.ask("GET", "/livez").status_code == 200
    finally:
        stage.control.pass_on()
    stage.release(held)
    stage.as_before()


def test_a_transaction_whose_replica_cannot_be_heard_any_more_holds_nobody_up_for_long(stage: Stage) -> None:
    """The backend does not notice the lost connection. It holds its locks, and waits for the next statement."""
    pool, whose = stage.pool()["id"], f"{stage.service.prefix}_control"
    sessions = "select 1 from pg_stat_activity where query like 'UPDATE pools%' and "
    with (
        stage.as_superuser(whose) as holder,
        stage.as_superuser(whose) as observer,
        ThreadPoolExecutor(1) as one,
    ):
        holder.execute("begin")
        holder.execute("select from pools where id = %s for update", [pool])
        resizing = one.submit(stage.ask, "PATCH", f"/v1/pools/{pool}", {"idle_seconds": 301})
        try:
            until(lambda: observer.execute(f"{sessions} wait_event_type = 'Lock'").fetchone())
            stage.control.swallow()
            holder.execute("rollback")
            until(lambda: observer.execute(f"{sessions} state = 'idle in transaction'").fetchone())
            refused(resizing.result())
        finally:
            stage.control.pass_on()
        until(lambda: stage.ask("PATCH", f"/v1/pools/{pool}", {"idle_seconds": 302}).status_code == 200)
    stage.as_before()


@slow
def test_a_managed_server_that_hangs_costs_whoever_needs_it_an_answer_and_nobody_else_anything(
    stage: Stage,
) -> None:
    one, two = stage.lease(), stage.lease()
    stage.managed.swallow()
    try:
        assert stage.ask("POST", f"/v1/leases/{one['id']}/renew").status_code == 200
        assert (
            stage.ask("DELETE", f"/v1/leases/{one['id']}").status_code == 200
        )  # cleaned as soon as it can be
        refused(stage.ask("POST", f"/v1/leases/{two['id']}/reset"))
        refused(stage.ask("POST", "/v1/templates", {"name": "u", "fingerprint": "u"}))
        assert "one" in stage.ask("GET", "/readyz").text
    finally:
        stage.managed.pass_on()
    stage.release(two)
    stage.as_before()


@slow
def test_a_redis_that_hangs_is_an_answer_and_uses_nothing_up(stage: Stage) -> None:
    held = stage.lease()
    stage.redis.swallow()
    try:
        details = {refused(one) for one in stage.many(60, stage.acquire)}  # more than the connections
        assert any("Redis" in detail for detail in details)
        assert all("Redis" in detail or "came before" in detail for detail in details)
        refused(stage.ask("POST", f"/v1/leases/{held['id']}/renew"))
    finally:
        stage.redis.pass_on()
    assert stage.ask("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
    stage.release(held)
    stage.as_before()


def test_a_copy_that_hangs_is_given_up_with_its_server(stage: Stage) -> None:
    """A copy may take ten minutes, and this one would. But a server that gives no sign of life is not copying."""
    until(stage.settled)
    with stage.as_superuser() as superuser, stage.as_superuser() as observer:
        superuser.execute("begin")
        # Takes a lock that the copy waits for.
        superuser.execute(f"comment on database {stage.template_database(superuser)} is 'mine'")
        with stage.one_more():
            try:
                copying = "select from pg_stat_activity where query like 'CREATE DATABASE%' and wait_event_type = 'Lock'"
                until(lambda: observer.execute(copying).fetchone() is not None)
                stage.managed.swallow()
                until(lambda: stage.databases().get("creating", 0) == 0)
            finally:
                stage.managed.pass_on()
                superuser.execute("rollback")
    stage.as_before()
