from __future__ import annotations

from dataclasses import replace

import pytest

from freshdb_service.errors import BackendUnavailable
from freshdb_service.postgres import Activity
from freshdb_service.status.diagnosis import ServerLimits, ServerStatus
from freshdb_service.store.dashboard_queries import ServerDetails
from freshdb_service.templates.placement import least_used

LIMITS = ServerLimits(max_databases=100, max_disk_bytes=1000)
CALM = Activity(connections=3, max_connections=97, active=0)


def server(
    name: str,
    activity: Activity | None = CALM,
    *,
    databases: int = 0,
    templates: int = 0,
    disk_bytes: int = 0,
) -> ServerStatus:
    look = ServerDetails(name, "host", 5432, 180000, disk_bytes, databases, templates, leased=0)
    return ServerStatus(look, activity, None if activity else "no answer")


def chosen(*servers: ServerStatus) -> str:
    return least_used(servers, LIMITS, databases_each=4).server.name


def test_first_of_equal_servers_is_chosen() -> None:
    assert chosen(server("one"), server("two")) == "one"


@pytest.mark.parametrize(
    "busy",
    [
        server("one", databases=5),
        server("one", disk_bytes=10),
        server("one", replace(CALM, connections=4)),
        server("one", replace(CALM, active=1)),
    ],
    ids=["databases", "disk", "connections", "statements"],
)
def test_each_resource_counts(busy: ServerStatus) -> None:
    assert chosen(busy, server("two")) == "two"


def test_nearly_full_resource_outweighs_slight_use_of_all_others() -> None:
    few_connections_left = server("one", replace(CALM, connections=90))
    assert chosen(few_connections_left, server("two", databases=20, disk_bytes=200, templates=1)) == "two"


def test_larger_server_is_chosen_at_equal_load() -> None:
    assert (
        chosen(server("small", replace(CALM, connections=20)), server("large", Activity(40, 997, 0)))
        == "large"
    )


def test_new_templates_count_with_their_future_databases() -> None:
    taken = {"one": 0, "two": 0, "three": 0}
    for _ in range(30):
        taken[chosen(*(server(name, templates=held) for name, held in taken.items()))] += 1
    assert set(taken.values()) == {10}
    assert chosen(server("new", templates=2), server("filled", templates=1, databases=4)) == "filled"


@pytest.mark.parametrize(
    "full",
    [server("full", databases=90, templates=10), server("full", disk_bytes=1000)],
    ids=["databases", "disk"],
)
def test_full_and_unavailable_servers_are_not_chosen(full: ServerStatus) -> None:
    crowded = server("three", Activity(97, 97, 90), databases=99, disk_bytes=999)
    assert chosen(full, server("away", None), crowded) == "three"


def test_error_names_limits_or_unavailable_servers() -> None:
    with pytest.raises(BackendUnavailable, match="max_databases or max_disk_bytes"):
        chosen(server("full", databases=100), server("full and away", None, databases=100))
    with pytest.raises(BackendUnavailable, match="away: no answer"):
        chosen(server("full", databases=100), server("away", None))
