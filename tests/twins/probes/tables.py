"""The template's tables, as probes use them. See ``tests/twins/template.sql``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from tests.twins.probes.session import Session
from tests.twins.probes.values import Json

SEEDED: Final = (
    "item",
    "seed",
    "measured",
    "customer",
    "orders",
    "event_2024",
    "event_2025",
    "document",
    "place",
    "ranged",
    "audited",
    "audit_entry",
    "plain",
)
EMPTY: Final = ("empty_one", "empty_two", "empty_measured", "hashed", "scratch")
STORED: Final = (*SEEDED, *EMPTY)
"""Tables that have rows of their own and can be written."""
READABLE: Final = (*STORED, "event", "city_count", "large_order")
SEQUENCES: Final = (
    "item_id_seq",
    "empty_one_id_seq",
    "empty_two_id_seq",
    "audit_entry_id_seq",
    "ticket",
    "untouched",
)
NEW_ROWS: Final[Mapping[str, str]] = {
    "item": "(id, name) VALUES (9001, 'probe')",
    "seed": "VALUES (9001, 3, 'probe')",
    "measured": "VALUES (9001, 'kind 1', 1, '2024-05-05')",
    "customer": "VALUES (9001, 'probe', 'city 1')",
    "orders": "VALUES (9001, 1, 10)",
    "event": "VALUES (9001, '2024-07-01', 'probe'), (9002, '2025-07-01', 'probe')",
    "document": "VALUES (9001, '{\"n\": 3}', 'probe')",
    "place": "VALUES (9001, '[3,8)')",
    "ranged": "VALUES (150)",
    "audited": "VALUES (9001, 'probe')",
    "plain": "VALUES (1, 'same')",
    "empty_one": "(id, label, amount) OVERRIDING SYSTEM VALUE VALUES (9001, 'probe', 1)",
    "empty_two": "(id, note) VALUES (9001, 'probe')",
    "empty_measured": "VALUES (9001, 'probe')",
    "hashed": "VALUES ('probe')",
    "scratch": "VALUES (9001, 'probe')",
}
"""The rest of an INSERT for each table. No row takes a value of a sequence, except for the trigger of ``audited``."""
FILL_EMPTY: Final = (
    (
        "INSERT INTO empty_one (id, label, amount) OVERRIDING SYSTEM VALUE"
        " SELECT n, 'label ' || n % 20, n % 50 FROM generate_series(1, 500) AS n"
    ),
    "INSERT INTO empty_two (id, empty_one_id, note) SELECT n, n, 'note ' || n FROM generate_series(1, 500) AS n",
    "INSERT INTO empty_measured SELECT n, 'word ' || n % 9 FROM generate_series(1, 500) AS n",
    "INSERT INTO hashed SELECT 'word ' || n % 9 FROM generate_series(1, 500) AS n",
    "INSERT INTO scratch SELECT n, repeat('x', 100) FROM generate_series(1, 500) AS n",
)
"""Statements that put 500 rows into each empty table."""


def for_each(names: Iterable[str], work: Callable[[Session, str], Json]) -> Callable[[Session], Json]:
    """Return the run of a probe whose result has the result of this work, or its error, for each name."""

    def run(session: Session) -> Json:
        return {name: session.outcome(partial(work, session, name)) for name in names}

    return run
