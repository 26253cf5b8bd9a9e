"""Probes of the sizes of relations, of their maps, of values and of the database."""

from __future__ import annotations

from typing import Final

from tests.twins.probes.probe import DATABASE, Probe, Within
from tests.twins.probes.session import Query
from tests.twins.probes.tables import EMPTY, READABLE

_PAGE: Final = 8192
_MEBIBYTE: Final = 1024 * 1024
_FROM: Final = "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE {scope n.nspname}"
_ONE_PAGE_IF_EMPTY: Final = {f"{table}/*": Within(_PAGE) for table in EMPTY}

PROBES: Final = (
    Probe(
        name="sizes.tables",
        observes="pg_relation_size of tables and sequences. Equal with rows of the template. One page more without rows",
        run=Query(
            f"SELECT c.relname, pg_relation_size(c.oid) AS main {_FROM} AND c.relkind IN ('r', 'm', 'S')",
            key=1,
        ),
        tolerances=_ONE_PAGE_IF_EMPTY,
    ),
    Probe(
        name="sizes.indexes",
        observes="pg_relation_size of indexes. Equal for tables with rows. One page more without rows",
        run=Query(
            "SELECT t.relname AS parent, c.relname, pg_relation_size(c.oid) AS main FROM pg_class AS c"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_index AS i ON i.indexrelid = c.oid"
            " JOIN pg_class AS t ON t.oid = i.indrelid WHERE {scope n.nspname} AND c.relkind = 'i'",
            key=2,
        ),
        tolerances={f"{table}.*": Within(_PAGE) for table in EMPTY},
    ),
    Probe(
        name="sizes.maps",
        observes="sizes of the free space map, of the visibility map and of the initial copy of unlogged tables. Equal:"
        " a map that a clone does not have shows that VACUUM was there",
        run=Query(
            "SELECT c.relname, pg_relation_size(c.oid, 'fsm') AS fsm, pg_relation_size(c.oid, 'vm') AS vm,"
            f" pg_relation_size(c.oid, 'init') AS init {_FROM} AND c.relkind IN ('r', 'm', 'i', 'S')",
            key=1,
        ),
    ),
    Probe(
        name="sizes.toast",
        observes="sizes of the tables of values that are stored outside their table, and of their indexes. Equal",
        run=Query(
            "SELECT c.relname, pg_relation_size(c.reltoastrelid) AS main, pg_indexes_size(c.reltoastrelid) AS indexes"
            f" {_FROM} AND c.reltoastrelid <> 0",
            key=1,
        ),
    ),
    Probe(
        name="sizes.totals",
        observes="pg_table_size, pg_indexes_size and pg_total_relation_size, as monitoring reads them: at most five pages"
        " more or less, which are the three pages of a free space map, one of a visibility map and one of data",
        run=Query(
            "SELECT c.relname, pg_table_size(c.oid) AS table_size, pg_indexes_size(c.oid) AS indexes,"
            f" pg_total_relation_size(c.oid) AS total {_FROM} AND c.relkind IN ('r', 'm', 'p')",
            key=1,
        ),
        tolerances={"*": Within(5 * _PAGE)},
    ),
    Probe(
        name="sizes.database",
        observes="pg_database_size: at most 1 MiB more or less. The system catalogs grow with the holder's statements",
        run=Query("SELECT pg_database_size(current_database()) AS bytes"),
        tolerances={"*": Within(_MEBIBYTE)},
        isolations=DATABASE,
    ),
    Probe(
        name="sizes.catalogs",
        observes="sizes of the system catalogs: at most 256 KiB more or less each",
        run=Query(
            "SELECT c.relname, pg_relation_size(c.oid) AS main FROM pg_class AS c"
            " WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared",
            key=1,
        ),
        tolerances={"*": Within(_MEBIBYTE / 4)},
        isolations=DATABASE,
    ),
    Probe(
        name="sizes.values",
        observes="pg_column_size of whole rows, which shows compression and storage outside the table",
        run=Query(
            " UNION ALL ".join(
                f"SELECT '{table}' AS name, sum(pg_column_size(t.*)) AS bytes FROM {table} AS t"
                for table in READABLE
            )
            + " UNION ALL SELECT 'document.long', sum(pg_column_size(long)) FROM document"
            " UNION ALL SELECT 'document.long ' || coalesce(pg_column_compression(long), 'plain'), count(*)"
            " FROM document GROUP BY 1",
            key=1,
        ),
    ),
)
