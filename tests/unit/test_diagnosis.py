from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from freshdb_service.lifecycle import DatabaseState, Isolation, TemplateState
from freshdb_service.postgres import Activity
from freshdb_service.status.diagnosis import (
    Finding,
    PoolStatus,
    ServerLimits,
    ServerStatus,
    findings,
    status_of,
)
from freshdb_service.store.dashboard_queries import ServerDetails
from freshdb_service.store.rows import PoolRow, TemplateRow

LIMITS = ServerLimits(max_databases=100, max_disk_bytes=1000)
POOL = PoolRow(
    id=uuid4(),
    template_id=uuid4(),
    template="shop@1",
    template_state=TemplateState.READY,
    template_database="t",
    isolation=Isolation.DATABASE,
    server="one",
    min_ready=1,
    max_size=4,
    idle_seconds=1,
    blueprint=None,
    refusal=None,
    last_error=None,
    last_acquired_at=datetime.now(UTC),
    idle=False,
)
TEMPLATE = TemplateRow(
    id=uuid4(),
    name="shop",
    fingerprint="1",
    state=TemplateState.READY,
    server="one",
    extensions=[],
    sql=None,
    content=None,
    attempt=1,
    build_token=None,
    build_seconds=60,
    build_deadline_at=None,
    build_overdue=False,
    database_name="t",
    size_bytes=1,
    error=None,
    warnings=[],
    created_at=datetime.now(UTC),
    ready_at=None,
    last_used_at=datetime.now(UTC),
)
SERVER = ServerDetails("one", "host", 5432, 180000, disk_bytes=10, databases=4, templates=1, leased=0)
WELL = ServerStatus(SERVER, Activity(connections=3, max_connections=97, active=0), None)


def found(
    pool: PoolRow = POOL,
    *,
    server: ServerStatus = WELL,
    waiting: int = 0,
    longest: float = 0.0,
    **databases: int,
) -> list[Finding]:
    held = {DatabaseState(state): count for state, count in databases.items()}
    return findings([PoolStatus(pool, held, waiting, longest)], [server], [], LIMITS)


def test_healthy_state_has_no_findings() -> None:
    assert found(ready=2, leased=2) == []
    assert status_of([]) == "ok"


@pytest.mark.parametrize(("longest", "status"), [(1.0, "ok"), (31.0, "attention")])
def test_full_pool_is_explained_and_becomes_a_warning_after_a_long_wait(longest: float, status: str) -> None:
    [finding] = said = found(waiting=3, longest=longest, leased=3, resetting=1)
    assert (finding.code, status_of(said)) == ("pool_full", status)
    assert "3 waiting" in finding.message
    assert "3 in use, 1 being reset" in finding.message
    assert "max_size" in finding.remedy


def test_wait_for_databases_in_creation_is_info() -> None:
    [finding] = found(waiting=1, longest=1, creating=2)
    assert (finding.code, finding.severity) == ("coming", "info")


def test_wait_without_progress_is_an_error_with_its_cause() -> None:
    broken = replace(POOL, last_error="no such extension")
    assert [(one.code, one.severity) for one in found(broken, waiting=1)] == [("provision_failing", "error")]
    full = ServerStatus(replace(SERVER, databases=100), WELL.activity, None)
    assert {one.code for one in found(waiting=1, server=full)} == {"server_full", "server_nearly_full"}
    disk = ServerStatus(replace(SERVER, disk_bytes=1000), WELL.activity, None)
    assert {one.code for one in found(waiting=1, server=disk)} == {"disk_full", "disk_nearly_full"}


def test_failed_creation_is_a_warning_while_databases_are_ready() -> None:
    broken = replace(POOL, last_error="no such extension")
    assert status_of(found(broken, ready=1)) == "attention"
    assert status_of(found(broken)) == "failing"


def test_unavailable_server_is_the_first_error() -> None:
    away = ServerStatus(SERVER, None, "connection refused")
    said = found(replace(POOL, refusal=["it has event triggers"]), server=away)
    assert [one.code for one in said] == ["server_away", "isolation_unsupported"]
    assert status_of(said) == "failing"


def test_server_of_other_replicas_is_a_warning() -> None:
    others = ServerStatus(SERVER, None, "this replica was not started with it", managed_here=False)
    assert [(one.code, one.severity) for one in found(server=others)] == [("server_unmanaged", "warning")]


def test_unavailable_server_without_databases_has_no_finding() -> None:
    unused = ServerStatus(replace(SERVER, databases=0, templates=0), None, "connection refused")
    assert found(server=unused) == []


@pytest.mark.parametrize(
    ("state", "error", "code", "severity", "words"),
    [
        (TemplateState.FAILED, {"message": "no such table"}, "template_failed", "warning", "no such table"),
        (
            TemplateState.RETIRED,
            {"message": "the order changed"},
            "template_outdated",
            "warning",
            "the order changed",
        ),
        (TemplateState.BUILDING, None, "template_rebuilding", "info", "from its SQL"),
    ],
)
def test_template_without_clones_is_a_finding_with_its_reason(
    state: TemplateState, error: dict[str, object] | None, code: str, severity: str, words: str
) -> None:
    [finding] = findings([], [], [replace(TEMPLATE, state=state, error=error)], LIMITS)
    assert (finding.code, finding.severity, finding.label) == (code, severity, "shop@1")
    assert words in finding.message


def test_nearly_used_connections_are_a_warning() -> None:
    busy = ServerStatus(SERVER, Activity(connections=90, max_connections=97, active=9), None)
    assert [one.code for one in found(server=busy)] == ["connections_nearly_used"]


def test_pool_of_a_retired_template_has_no_finding() -> None:
    retired = replace(POOL, template_state=TemplateState.RETIRED, last_error="gone")
    assert found(retired) == []
