"""Connections that hang: all data is dropped in both directions, and no connection is closed.

The service gives up after its configured timeouts, reports that, uses up no resource, and continues with the network.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.installation import Installation, assert_unavailable, wait_until
from tests.faults.slow import slow

pytestmark = pytest.mark.xdist_group("faults")


def test_hanging_control_plane_is_reported_and_uses_up_no_connections(installation: Installation) -> None:
    held = installation.lease()
    installation.control.drop_all()
    try:
        for _ in range(2):  # more than the connections; the second time, no request waits
            assert {assert_unavailable(one) for one in installation.in_parallel(40, installation.acquire)}
        assert (
            installation.request("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
        )  # needs Redis only
        assert_unavailable(installation.request("DELETE", f"/v1/leases/{held['id']}"))
        assert installation.request("GET", "/readyz").status_code == 503
        assert installation.request("GET", "/livez").status_code == 200
    finally:
        installation.control.pass_on()
    installation.release(held)
    installation.check_recovery()


def test_transaction_of_an_unreachable_replica_is_ended_and_its_locks_are_released(
    installation: Installation,
) -> None:
    """The backend does not notice the lost connection. It holds its locks, and waits for the next statement."""
    pool, control_database = installation.pool()["id"], f"{installation.service.prefix}_control"
    sessions = "select 1 from pg_stat_activity where query like 'UPDATE pools%' and "
    with (
        installation.as_superuser(control_database) as holder,
        installation.as_superuser(control_database) as observer,
        ThreadPoolExecutor(1) as one,
    ):
        holder.execute("begin")
        holder.execute("select from pools where id = %s for update", [pool])
        resizing = one.submit(installation.request, "PATCH", f"/v1/pools/{pool}", {"idle_seconds": 301})
        try:
            wait_until(lambda: observer.execute(f"{sessions} wait_event_type = 'Lock'").fetchone())
            installation.control.drop_all()
            holder.execute("rollback")
            wait_until(lambda: observer.execute(f"{sessions} state = 'idle in transaction'").fetchone())
            assert_unavailable(resizing.result())
        finally:
            installation.control.pass_on()
        wait_until(
            lambda: (
                installation.request("PATCH", f"/v1/pools/{pool}", {"idle_seconds": 302}).status_code == 200
            )
        )
    installation.check_recovery()


@slow
def test_hanging_managed_server_fails_only_its_own_requests(
    installation: Installation,
) -> None:
    one, two = installation.lease(), installation.lease()
    installation.managed.drop_all()
    try:
        assert installation.request("POST", f"/v1/leases/{one['id']}/renew").status_code == 200
        assert (
            installation.request("DELETE", f"/v1/leases/{one['id']}").status_code == 200
        )  # cleaned as soon as it can be
        assert_unavailable(installation.request("POST", f"/v1/leases/{two['id']}/reset"))
        assert_unavailable(installation.request("POST", "/v1/templates", {"name": "u", "fingerprint": "u"}))
        assert "one" in installation.request("GET", "/readyz").text
    finally:
        installation.managed.pass_on()
    installation.release(two)
    installation.check_recovery()


@slow
def test_hanging_redis_is_reported_and_uses_up_no_connections(installation: Installation) -> None:
    held = installation.lease()
    installation.redis.drop_all()
    try:
        details = {
            assert_unavailable(one) for one in installation.in_parallel(60, installation.acquire)
        }  # more than the connections
        assert any("Redis" in detail for detail in details)
        assert all("Redis" in detail or "too many acquires" in detail for detail in details)
        assert_unavailable(installation.request("POST", f"/v1/leases/{held['id']}/renew"))
    finally:
        installation.redis.pass_on()
    assert installation.request("POST", f"/v1/leases/{held['id']}/renew").status_code == 200
    installation.release(held)
    installation.check_recovery()


def test_copy_on_a_hanging_server_is_abandoned(installation: Installation) -> None:
    """A copy may take ten minutes, and this one would. But a server that gives no sign of life is not copying."""
    wait_until(installation.is_settled)
    with installation.as_superuser() as superuser, installation.as_superuser() as observer:
        superuser.execute("begin")
        # Takes a lock that the copy waits for.
        superuser.execute(f"comment on database {installation.template_database(superuser)} is 'mine'")
        with installation.larger_pool():
            try:
                copying = "select from pg_stat_activity where query like 'CREATE DATABASE%' and wait_event_type = 'Lock'"
                wait_until(lambda: observer.execute(copying).fetchone() is not None)
                installation.managed.drop_all()
                wait_until(lambda: installation.databases().get("creating", 0) == 0)
            finally:
                installation.managed.pass_on()
                superuser.execute("rollback")
    installation.check_recovery()
