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
from tests.hygiene.conftest import Grounds, Stand
from tests.hygiene.drawing import Story, stories
from tests.hygiene.judge import differences
from tests.servers import wanted_majors

ASKED = os.environ.get("FRESHDB_HYGIENE_EXAMPLES")
EXAMPLES = int(ASKED) if ASKED else 3


@pytest.mark.xdist_group(f"hygiene-{wanted_majors()[0]}")
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("plain", [False, True], ids=["superuser", "plain"])
@settings(
    max_examples=EXAMPLES,
    derandomize=ASKED is None,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if ASKED else [Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(story=stories())
def test_random_changes_are_undone_for_next_holder(
    grounds: Grounds, isolation: Isolation, story: Story, *, plain: bool
) -> None:
    stand = grounds.open(wanted_majors()[0], isolation, story.schema.sql, "property", plain=plain)
    try:
        for statements in story.holders:
            _lease_and_judge(stand, statements, left_open=story.left_open)
    finally:
        stand.ground.release(stand.clean)
        stand.ground.close()


def _lease_and_judge(stand: Stand, statements: tuple[str, ...], *, left_open: bool) -> None:
    holder = Holder(stand.clean.subject)
    connection = holder.connect()
    for statement in statements:
        with suppress(psycopg.Error):
            holder.run_in(connection, statement)
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.rollback()
    if not left_open:
        holder.leave()
    stand.clean = stand.ground.next_of(stand.clean)
    holder.leave()
    found = differences(stand.baseline, stand.ground.judge.picture(stand.clean.subject))
    assert not found, "\n".join([stand.ground.template, *statements, *found])
