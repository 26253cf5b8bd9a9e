"""Random schemas and changes: after any changes to any template, the next holder finds the template.

``FRESHDB_HYGIENE_EXAMPLES=500`` draws more examples, and others each time. By default a few are drawn, always the same.
"""

from __future__ import annotations

import os
from contextlib import suppress

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.hygiene.change import ISOLATIONS, Holder, Isolation
from tests.hygiene.conftest import LeasedPool, LeasedPools
from tests.hygiene.snapshot import differences
from tests.hygiene.strategies import Scenario, scenarios
from tests.servers import wanted_majors

REQUESTED_EXAMPLES = os.environ.get("FRESHDB_HYGIENE_EXAMPLES")
EXAMPLES = int(REQUESTED_EXAMPLES) if REQUESTED_EXAMPLES else 3


@pytest.mark.xdist_group(f"hygiene-{wanted_majors()[0]}")
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("plain", [False, True], ids=["superuser", "plain"])
@settings(
    max_examples=EXAMPLES,
    derandomize=REQUESTED_EXAMPLES is None,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink]
    if REQUESTED_EXAMPLES
    else [Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenario=scenarios())
def test_random_changes_are_undone_for_next_holder(
    leased_pools: LeasedPools, isolation: Isolation, scenario: Scenario, *, plain: bool
) -> None:
    leased = leased_pools.open_pool(
        wanted_majors()[0], isolation, scenario.schema.sql, "property", plain=plain
    )
    try:
        for statements in scenario.holders:
            _lease_and_compare(leased, statements, left_open=scenario.left_open)
    finally:
        leased.pool.release(leased.lease)
        leased.pool.close()


def _lease_and_compare(leased: LeasedPool, statements: tuple[str, ...], *, left_open: bool) -> None:
    holder = Holder(leased.lease.subject)
    connection = holder.connect()
    for statement in statements:
        with suppress(psycopg.Error):
            holder.run_in(connection, statement)
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.rollback()
    if not left_open:
        holder.leave()
    leased.lease = leased.pool.next_of(leased.lease)
    holder.leave()
    found = differences(leased.baseline, leased.pool.snapshotter.snapshot(leased.lease.subject))
    assert not found, "\n".join([leased.pool.template, *statements, *found])
