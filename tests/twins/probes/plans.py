"""Probes of the plans of fixed queries: nodes, estimates of rows, width and costs, and the pages that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.twins.probes.probe import Probe, Stage, Within
from tests.twins.probes.session import Session
from tests.twins.probes.tables import FILL_EMPTY
from tests.twins.probes.values import Json

QUERIES: Final[Mapping[str, str]] = {
    "equality_on_key": "SELECT * FROM seed WHERE id = 17",
    "equality_on_index": "SELECT * FROM seed WHERE k = 3",
    "equality_with_statistics": "SELECT * FROM measured WHERE kind = 'kind 2'",
    "value_without_rows": "SELECT * FROM measured WHERE kind = 'kind 77'",
    "range_on_key": "SELECT * FROM measured WHERE id BETWEEN 100 AND 200",
    "range_of_dates": "SELECT * FROM measured WHERE at < date '2024-02-01'",
    "index_of_expression": "SELECT * FROM measured WHERE lower(kind) = 'kind 2'",
    "dependent_columns": "SELECT * FROM measured WHERE kind = 'kind 2' AND amount = 2",
    "distinct_of_two_columns": "SELECT kind, amount, count(*) FROM measured GROUP BY kind, amount",
    "count": "SELECT count(*) FROM seed",
    "group_without_statistics": "SELECT k, count(*) FROM seed GROUP BY k",
    "join_of_two": "SELECT * FROM customer AS c JOIN orders AS o ON o.customer_id = c.id WHERE c.city = 'city 3'",
    "join_of_three": "SELECT * FROM seed AS s JOIN customer AS c ON c.id = s.id"
    " JOIN orders AS o ON o.customer_id = c.id WHERE o.total > 300",
    "left_join": "SELECT * FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id WHERE o.id IS NULL",
    "lateral": "SELECT * FROM customer AS c, LATERAL (SELECT * FROM orders AS o WHERE o.customer_id = c.id LIMIT 1) AS l",
    "view": "SELECT count(*) FROM large_order WHERE customer_id = 5",
    "materialized_view": "SELECT * FROM city_count WHERE customers > 10",
    "one_partition": "SELECT * FROM event WHERE at = date '2024-08-01'",
    "all_partitions": "SELECT count(*) FROM event WHERE id > 100",
    "partition_at_run_time": "SELECT * FROM event WHERE at = (SELECT max(at) FROM measured)",
    "index_only": "SELECT id FROM seed WHERE id < 20",
    "index_only_with_statistics": "SELECT count(*) FROM orders WHERE customer_id = 7",
    "gin": "SELECT * FROM document WHERE body @> '{\"n\": 3}'",
    "gist": "SELECT * FROM place WHERE during && int4range(10, 12)",
    "hash": "SELECT * FROM hashed WHERE word = 'x'",
    "brin": "SELECT * FROM ranged WHERE n BETWEEN 10 AND 20",
    "empty_join": "SELECT * FROM empty_one AS a JOIN empty_two AS b ON b.empty_one_id = a.id WHERE a.label = 'x'",
    "empty_join_without_filter": "SELECT * FROM empty_one AS a JOIN empty_two AS b ON b.empty_one_id = a.id",
    "empty_with_statistics": "SELECT * FROM empty_measured WHERE word = 'x' ORDER BY id",
    "empty_scan": "SELECT * FROM empty_two WHERE note IS NOT NULL",
    "unlogged": "SELECT * FROM scratch WHERE id > 3 ORDER BY id",
    "not_in": "SELECT * FROM customer WHERE id NOT IN (SELECT customer_id FROM orders)",
    "exists": "SELECT * FROM customer AS c WHERE EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id)",
    "like": "SELECT * FROM seed WHERE v LIKE 'value 1%'",
    "order_by_limit": "SELECT * FROM measured ORDER BY at DESC LIMIT 10",
    "order_by_key_limit": "SELECT * FROM orders ORDER BY id LIMIT 10",
    "one_row": "SELECT * FROM item WHERE name = 'pen'",
    "no_index": "SELECT n, count(*) FROM plain GROUP BY n HAVING count(*) > 1",
    "union": "SELECT id FROM item UNION SELECT id FROM seed UNION ALL SELECT id FROM empty_one",
    "recursive": "WITH RECURSIVE r AS (SELECT id FROM seed WHERE k = 1 UNION SELECT s.id FROM seed AS s"
    " JOIN r ON s.id = r.id + 1) SELECT count(*) FROM r",
    "update": "UPDATE seed SET v = 'x' WHERE k = 3",
    "delete": "DELETE FROM orders WHERE customer_id IN (SELECT id FROM customer WHERE city = 'city 1')",
}
_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "seed": ("SELECT * FROM seed WHERE k = $1", "3"),
    "measured": ("SELECT * FROM measured WHERE kind = $1 AND amount > $2", "'kind 2', 1"),
    "orders": ("SELECT * FROM orders WHERE customer_id = $1 ORDER BY id", "7"),
    "empty_one": ("SELECT * FROM empty_one WHERE label = $1", "'x'"),
}
_INDEX_ONLY: Final[Mapping[str, str]] = {
    "item": "SELECT id FROM item",
    "seed": "SELECT k FROM seed",
    "measured": "SELECT kind FROM measured",
    "customer": "SELECT id FROM customer",
    "orders": "SELECT customer_id FROM orders",
    "empty_one": "SELECT label FROM empty_one",
    "document": "SELECT id FROM document",
    "place": "SELECT id FROM place",
    "scratch": "SELECT id FROM scratch",
}
_NODE: Final = frozenset(
    (
        "Node Type",
        "Strategy",
        "Join Type",
        "Scan Direction",
        "Operation",
        "Relation Name",
        "Index Name",
        "Startup Cost",
        "Total Cost",
        "Plan Rows",
        "Plan Width",
        "Subplans Removed",
        "Parallel Aware",
        "Inner Unique",
        "Planned Partitions",
    )
)
_COSTS: Final[Mapping[str, Within]] = {"*Startup Cost": Within(0.01, 0.01), "*Total Cost": Within(0.01, 0.01)}


def _planned(session: Session, query: str) -> Json:
    return _node(session.rows(f"EXPLAIN (FORMAT JSON, COSTS ON) {query}")[0][0][0]["Plan"])


def _node(plan: Mapping[str, object], *, only: frozenset[str] = _NODE) -> dict[str, Json]:
    node: dict[str, Json] = {}
    for name, value in plan.items():
        if name == "Plans" and isinstance(value, list):
            node["below"] = [_node(one, only=only) for one in value]
        elif name in only and isinstance(value, str | int | float):
            node[name] = value
    return node


def _plan(query: str) -> Callable[[Session], Json]:
    return lambda session: _planned(session, query)


def _all_plans(session: Session) -> Json:
    """Plan every query after 500 rows came into each empty table."""
    for statement in FILL_EMPTY:
        session.execute(statement)
    return {name: session.outcome(partial(_planned, session, query)) for name, query in QUERIES.items()}


def _generic(session: Session) -> Json:
    """Plan prepared statements without their parameters' values."""
    session.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    plans: dict[str, Json] = {}
    for name, (query, values) in _PARAMETERS.items():
        session.execute(f"PREPARE probe AS {query}")
        plans[name] = _planned(session, f"EXECUTE probe ({values})")
        session.execute("DEALLOCATE probe")
    return plans


def _heap_fetches(session: Session) -> Json:
    session.execute("SET LOCAL enable_seqscan = off")
    session.execute("SET LOCAL enable_bitmapscan = off")
    only = frozenset(("Node Type", "Index Name", "Actual Rows", "Heap Fetches"))
    return {name: _node(_executed(session, query), only=only) for name, query in _INDEX_ONLY.items()}


def _buffers(session: Session) -> Json:
    """Return the pages that each query reads, from the cache or not."""
    pages: dict[str, Json] = {}
    for name, query in QUERIES.items():
        if name not in {"update", "delete"}:
            plan = _executed(session, query)
            pages[name] = int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
    return pages


def _actual_rows(session: Session) -> Json:
    only = frozenset(
        (
            "Node Type",
            "Actual Rows",
            "Actual Loops",
            "Rows Removed by Filter",
            "Rows Removed by Index Recheck",
        )
    )
    return {
        name: _node(_executed(session, query), only=only)
        for name, query in QUERIES.items()
        if name not in {"update", "delete"}
    }


def _executed(session: Session, query: str) -> dict[str, int]:
    plan: dict[str, int] = session.rows(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query}")[0][0][
        0
    ]["Plan"]
    return plan


PROBES: Final = (
    *(
        Probe(
            name=f"plans.{name}",
            observes=f"plan and estimates of: {query}. Costs may differ by 1 %",
            run=_plan(query),
            tolerances=_COSTS,
        )
        for name, query in QUERIES.items()
    ),
    Probe(
        name="plans.generic",
        observes="plans of prepared statements without the values of their parameters. Costs may differ by 1 %",
        run=_generic,
        tolerances=_COSTS,
    ),
    Probe(
        name="plans.heap_fetches",
        observes="rows for which an index-only scan reads the table, because the page is not marked as visible to all",
        run=_heap_fetches,
    ),
    Probe(
        name="plans.actual_rows",
        observes="rows and loops of each node of the executed queries",
        run=_actual_rows,
    ),
    Probe(
        name="plans.buffers",
        observes="pages that the queries read, from the cache or not: at most 2 pages and 10 % more or less."
        " Written pages are left out, because the first reader of a page may mark its rows as committed",
        run=_buffers,
        tolerances={"*": Within(2, 0.1)},
    ),
    Probe(
        name="plans.after_inserts",
        observes="plans of all these queries after 500 rows came into each empty table. Costs may differ by 1 %",
        run=_all_plans,
        stage=Stage.ROLLED_BACK,
        tolerances=_COSTS,
    ),
)
