"""Probes of the order of rows where a query requests none, and of the places of rows in their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from tests.twins.probes.probe import Probe, Stage
from tests.twins.probes.session import Session
from tests.twins.probes.tables import NEW_ROWS, READABLE, STORED, for_each
from tests.twins.probes.values import Json

_SAMPLED: Final = (*STORED, "event", "city_count")
_QUEUES: Final = {
    "item": "SELECT id FROM item LIMIT 1",
    "seed": "SELECT id FROM seed WHERE k = 3 LIMIT 1",
    "measured": "SELECT id FROM measured WHERE kind = 'kind 2' LIMIT 1",
    "orders": "SELECT id FROM orders WHERE total > 100 LIMIT 1",
    "audited": "SELECT id FROM audited WHERE state = 'new' LIMIT 1",
    "plain": "SELECT ctid FROM plain WHERE n = 1 LIMIT 1",
}
_TIES: Final = {
    "seed": "SELECT id FROM seed ORDER BY k",
    "seed, backward": "SELECT id FROM seed ORDER BY k DESC",
    "measured": "SELECT id FROM measured ORDER BY kind",
    "measured, lower": "SELECT id FROM measured ORDER BY lower(kind) LIMIT 300",
    "orders": "SELECT id FROM orders ORDER BY customer_id",
}
_SORTED_TIES: Final = {
    "distinct on kind": "SELECT DISTINCT ON (kind) m::text FROM measured AS m",
    "distinct on k": "SELECT DISTINCT ON (k) s::text FROM seed AS s",
    "distinct on city": "SELECT DISTINCT ON (city) c::text FROM customer AS c",
    "order by city": "SELECT id FROM customer ORDER BY city LIMIT 20",
    "order by state": "SELECT id FROM audited ORDER BY state",
}
_HASHED: Final = {
    "group by": "SELECT kind || count(*) FROM measured GROUP BY kind",
    "distinct": "SELECT DISTINCT city FROM customer",
    "union": "SELECT k FROM seed UNION SELECT amount FROM measured",
    "except": "SELECT id FROM seed EXCEPT SELECT id FROM customer",
    "join": "SELECT c.id || '-' || o.id FROM customer AS c JOIN orders AS o ON o.customer_id = c.id LIMIT 50",
    "three tables": "SELECT s.id || '-' || c.id || '-' || o.id FROM seed AS s JOIN customer AS c ON c.id = s.id"
    " JOIN orders AS o ON o.customer_id = c.id",
    "cross": "SELECT i.id || '-' || p.n FROM item AS i, plain AS p",
}


def _each(tables: Iterable[str], sql: str) -> Callable[[Session], Json]:
    """Run a query whose ``{table}`` is the name, for each table. ``t`` is the row."""
    return for_each(tables, lambda session, table: session.lines(sql.replace("{table}", table)))


def _named(
    queries: Mapping[str, str], prepare: str = "SELECT", suffix: str = ""
) -> Callable[[Session], Json]:
    """Run these queries after a statement that prepares the session."""

    def run(session: Session) -> Json:
        session.execute(prepare)
        return {name: session.outcome(partial(session.lines, sql + suffix)) for name, sql in queries.items()}

    return run


def _cursor(session: Session, table: str) -> Json:
    session.execute(f"DECLARE probe SCROLL CURSOR FOR SELECT t::text FROM {table} AS t")
    steps = ("NEXT", "FORWARD 2", "LAST", "PRIOR", "ABSOLUTE 2", "FIRST")
    read: list[Json] = [session.lines(f"FETCH {step} FROM probe") for step in steps]
    session.execute("CLOSE probe")
    return read


def _copied(session: Session, table: str) -> Json:
    names = session.names
    with session.connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        return [names.plain(bytes(line).decode()) for line in copy]


def _inserted(session: Session, table: str) -> Json:
    """Insert a row, and return where it is in the table and in a scan."""
    before = session.rows(f"SELECT count(*) FROM {table}")[0][0]
    place = session.lines(f"INSERT INTO {table} {NEW_ROWS[table]} RETURNING tableoid::regclass || ctid::text")
    scan = session.rows(f"SELECT tableoid::regclass || ctid::text FROM {table}")
    places = [row[0] for row in scan]
    return {"place": place, "rows before": before, "positions": [places.index(one) for one in place]}


def _system_columns(session: Session, table: str) -> Json:
    """Count what Hibernate, EF Core and others use as the version of a row, without the values of transaction ids."""
    columns = "count(*), count(DISTINCT xmin::text), count(*) FILTER (WHERE xmax::text <> '0'), min(cmin::text::int8)"
    return session.names.plain(session.rows(f"SELECT {columns}, max(cmin::text::int8) FROM {table}")[0])


PROBES: Final = (
    Probe(
        name="order.rows",
        observes="all rows of each table in the order of a scan",
        run=_each(READABLE, "SELECT t::text FROM {table} AS t"),
    ),
    Probe(
        name="order.limits",
        observes="the first row of each table by LIMIT 1, and rows by OFFSET",
        run=_each(
            READABLE,
            "(SELECT t::text FROM {table} AS t LIMIT 1) UNION ALL (SELECT t::text FROM {table} AS t OFFSET 1 LIMIT 1)"
            " UNION ALL (SELECT t::text FROM {table} AS t OFFSET 20 LIMIT 2)",
        ),
    ),
    Probe(
        name="order.first_last_ctid",
        observes="the place of the first and of the last row of each table",
        run=_each(STORED, "SELECT min(ctid) || ' to ' || max(ctid) FROM {table} AS t"),
    ),
    Probe(
        name="order.ctids",
        observes="the places of all rows of each table in the order of a scan",
        run=_each(STORED, "SELECT ctid FROM {table} AS t"),
    ),
    Probe(
        name="order.tid_range",
        observes="the rows of the first page of each table, by a range of places as tools that copy in parts use it",
        run=_each(STORED, "SELECT t::text FROM {table} AS t WHERE ctid < '(1,0)'"),
    ),
    Probe(
        name="order.system_columns",
        observes="numbers of transactions and commands that wrote the rows, and of locked rows. Not their ids",
        run=for_each(STORED, _system_columns),
    ),
    Probe(
        name="order.aggregates",
        observes="string_agg and array_agg without ORDER BY",
        run=_each(
            READABLE,
            "SELECT string_agg(left(t::text, 50), ';') FROM {table} AS t"
            " UNION ALL SELECT (array_agg(left(t::text, 20)))::text FROM {table} AS t",
        ),
    ),
    Probe(
        name="order.row_number",
        observes="row_number() over a window without order",
        run=_each(READABLE, "SELECT left(t::text, 50) || row_number() OVER () FROM {table} AS t"),
    ),
    Probe(
        name="order.cursor",
        observes="rows that a cursor returns forward, backward and by position",
        run=for_each(READABLE, _cursor),
    ),
    Probe(name="order.copy", observes="the lines of COPY TO", run=for_each(STORED, _copied)),
    Probe(
        name="order.sample_of_pages",
        observes="rows of TABLESAMPLE SYSTEM with a fixed seed",
        run=_each(_SAMPLED, "SELECT t::text FROM {table} AS t TABLESAMPLE SYSTEM (40) REPEATABLE (7)"),
    ),
    Probe(
        name="order.sample_of_rows",
        observes="rows of TABLESAMPLE BERNOULLI with a fixed seed",
        run=_each(_SAMPLED, "SELECT t::text FROM {table} AS t TABLESAMPLE BERNOULLI (30) REPEATABLE (7)"),
    ),
    Probe(
        name="order.ties_in_index",
        observes="rows with equal keys in the order of an index",
        run=_named(_TIES, "SET LOCAL enable_seqscan = off"),
    ),
    Probe(
        name="order.ties_in_sort",
        observes="rows with equal keys after a sort, and the rows that DISTINCT ON keeps",
        run=_named(_SORTED_TIES),
    ),
    Probe(
        name="order.hashed",
        observes="rows of joins, groups and set operations, in the order in which they come",
        run=_named(_HASHED),
    ),
    Probe(
        name="order.inserted",
        observes="the place of a new row, and its position in a scan: the last one",
        run=for_each(NEW_ROWS, _inserted),
        stage=Stage.ROLLED_BACK,
    ),
    Probe(
        name="order.queue",
        observes="the row that a worker of a queue takes: FOR UPDATE SKIP LOCKED",
        run=_named(_QUEUES, suffix=" FOR UPDATE SKIP LOCKED"),
        stage=Stage.ROLLED_BACK,
    ),
)
