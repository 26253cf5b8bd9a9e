"""Probes of the planner's statistics, of the numbers and flags in pg_class, and of what ANALYZE would compute."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import DATABASE, Probe, Stage
from tests.twins.probes.session import Query, Session
from tests.twins.probes.tables import STORED
from tests.twins.probes.values import Json

_RELATIONS: Final = (
    "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE {scope n.nspname}"
)
_YOUNG: Final = 10_000_000
"""Transactions since a table was frozen. Each VACUUM FREEZE and TRUNCATE makes it younger, so only old age counts."""
_ALL_COLUMNS: Final = (
    "SELECT schemaname, tablename, attname, inherited, s.* FROM pg_stats AS s"
    " WHERE {scope schemaname} ORDER BY 1, 2, 3, 4"
)


def _after_analyze(session: Session) -> Json:
    """Analyze each table and return the statistics. ANALYZE reads all rows, because the tables are small."""
    with session.connection.transaction(force_rollback=True):
        for table in STORED:
            session.execute(f"ANALYZE {table}")
        return Query(_ALL_COLUMNS, key=4)(session)


PROBES: Final = (
    Probe(
        name="statistics.columns",
        observes="pg_stats of all columns, with their most common values, histograms and correlation",
        run=Query(_ALL_COLUMNS, key=4),
    ),
    Probe(
        name="statistics.extended",
        observes="pg_stats_ext: statistics of several columns",
        run=Query(
            "SELECT statistics_schemaname, statistics_name, e.* FROM pg_stats_ext AS e"
            " WHERE {scope schemaname} ORDER BY 1, 2",
            key=2,
        ),
    ),
    Probe(
        name="statistics.expressions",
        observes="pg_stats_ext_exprs: statistics of expressions of extended statistics",
        run=Query("SELECT e.* FROM pg_stats_ext_exprs AS e WHERE {scope schemaname}", bag=True),
    ),
    Probe(
        name="statistics.presence",
        observes="numbers of columns with statistics, by table. The login cannot read pg_statistic, but the view tells",
        run=Query(
            "SELECT n.nspname, c.relname, count(s.attname) AS columns FROM pg_class AS c"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname"
            " WHERE {scope n.nspname} GROUP BY 1, 2",
            key=2,
        ),
    ),
    Probe(
        name="statistics.pages_and_rows",
        observes="relpages, reltuples, relallvisible and, since 18, relallfrozen of tables, views and sequences",
        run=Query(
            f"SELECT n.nspname, c.relname AS name, c.* {_RELATIONS} AND c.relkind NOT IN ('i', 'I')",
            key=2,
            only=frozenset(("relpages", "reltuples", "relallvisible", "relallfrozen")),
        ),
    ),
    Probe(
        name="statistics.indexes",
        observes="relpages and reltuples of indexes",
        run=Query(
            f"SELECT c.relname, relpages, reltuples, relallvisible {_RELATIONS} AND c.relkind IN ('i', 'I')",
            key=1,
        ),
    ),
    Probe(
        name="statistics.toast",
        observes="relpages, reltuples and relallvisible of the tables of values that are stored outside their table",
        run=Query(
            "SELECT c.relname, t.relpages, t.reltuples, t.relallvisible, t.relhasindex, t.reloptions FROM pg_class AS t"
            " JOIN pg_class AS c ON c.reltoastrelid = t.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE {scope n.nspname}",
            key=1,
        ),
    ),
    Probe(
        name="statistics.flags",
        observes="flags of pg_class that PostgreSQL sets and often does not take back: relhasindex, relhasrules,"
        " relhastriggers, relhassubclass, relrowsecurity, relispopulated, relpersistence, relreplident",
        run=Query(
            f"SELECT c.relname, c.* {_RELATIONS}",
            key=1,
            only=frozenset(
                (
                    "relkind",
                    "relpersistence",
                    "relhasindex",
                    "relisshared",
                    "relhasrules",
                    "relhastriggers",
                    "relhassubclass",
                    "relrowsecurity",
                    "relforcerowsecurity",
                    "relispopulated",
                    "relreplident",
                    "relispartition",
                    "relnatts",
                    "relchecks",
                )
            ),
        ),
    ),
    Probe(
        name="statistics.frozen",
        observes=f"age of relfrozenxid and relminmxid: younger than {_YOUNG:,} transactions. The age itself grows with"
        " the transactions of the whole server",
        run=Query(
            f"SELECT c.relname, age(c.relfrozenxid) < {_YOUNG} AS young,"
            f" mxid_age(c.relminmxid) < {_YOUNG} AS young_multixact {_RELATIONS} AND c.relfrozenxid::text <> '0'",
            key=1,
        ),
    ),
    Probe(
        name="statistics.frozen_database",
        observes=f"age of datfrozenxid: younger than {_YOUNG:,} transactions",
        run=Query(
            f"SELECT age(datfrozenxid) < {_YOUNG} AS young, mxid_age(datminmxid) < {_YOUNG} AS young_multixact"
            " FROM pg_database WHERE datname = {database}"
        ),
        isolations=DATABASE,
    ),
    Probe(
        name="statistics.targets",
        observes="statistics targets and options of columns, statistics objects and tables",
        run=Query(
            "SELECT c.relname, a.attname, a.attstattarget, a.attoptions, c.reloptions FROM pg_attribute AS a"
            " JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE a.attnum > 0 AND {scope n.nspname}"
            " UNION ALL SELECT stxname, NULL, stxstattarget, NULL, NULL FROM pg_statistic_ext AS e"
            " JOIN pg_namespace AS n ON n.oid = e.stxnamespace WHERE {scope n.nspname}",
            bag=True,
        ),
    ),
    Probe(
        name="statistics.after_analyze",
        observes="pg_stats of all columns after ANALYZE of all tables, as the next autovacuum would write them",
        run=_after_analyze,
        stage=Stage.CHANGES,
    ),
)
