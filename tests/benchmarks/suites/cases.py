"""Small tests that commit. They read only their own rows, so they also pass without isolation."""

from __future__ import annotations

import os

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tests.benchmarks.suites.tables import tables

NUMBER = int(os.environ["BENCH_TESTS"])


@pytest.mark.parametrize("number", range(NUMBER))
def test_commits(session: Session, number: int) -> None:
    first, second, third = tables[number % (len(tables) - 2) :][:3]
    one = session.execute(first.insert().values(name="one").returning(first.c.id)).scalar_one()
    session.commit()
    two = session.execute(
        second.insert().values(name="two", parent_id=one).returning(second.c.id)
    ).scalar_one()
    session.execute(third.insert(), [{"name": name, "parent_id": two} for name in ("three", "four")])
    session.commit()
    found = session.scalar(select(func.count()).select_from(third).where(third.c.parent_id == two))
    assert found == 2
