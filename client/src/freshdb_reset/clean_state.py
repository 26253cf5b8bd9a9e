"""The state that a used database should have again: its own baseline and mark, and the profile of its template.

A profile is read from a fresh copy of the template. It holds the rows of small tables, so that they can be loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from freshdb_reset.baseline import KnownState, Site
from freshdb_reset.catalog_fingerprint import Catalogs, Extent
from freshdb_reset.change_detection import InspectionQuery
from freshdb_reset.connection import Connection, Rights
from freshdb_reset.storage import Storage, read_numbers_digest, read_positions, read_storage
from freshdb_reset.table_model import (
    Qualified,
    Relations,
    TableModel,
    copy_out,
    read_relations,
    read_table_model,
)
from freshdb_reset.verdict import Cause, Unprovable

SEED_ROWS: Final = 10_000
"""Maximum number of rows of a table that can be loaded again."""
SEED_BYTES: Final = 2**25
"""Maximum size of the rows that a profile holds."""


@dataclass(frozen=True, slots=True)
class TemplateProfile:
    """One template, with one isolation.

    Attributes:
        model: tables and sequences of the template.
        relations: relations with counters, by the OIDs that all clones share, or ``None`` for isolation ``schema``.
        seeds: rows of its small tables, in the text format of ``COPY``.
        extents: fingerprint of its clones' catalogs, or empty for isolation ``schema``.
        storage: storage of its tables, or ``None`` if only rows are restored, and not what a plan shows.
        numbers: hash over the numbers and hints of its tables and indexes.
        positions: hashes over the positions of the rows of the tables in ``seeds``.
        statements: call that makes ``pg_stat_statements`` forget the statements of a login in a database (their OIDs are its
            parameters). It is ``None`` without that extension, and empty if the role may not call it.
        unlike: tables whose rows do not get the same positions when they are loaded again. Resets add to it.
    """

    model: TableModel
    relations: Relations | None
    seeds: Mapping[Qualified, bytes] = field(repr=False)
    extents: Mapping[str, Extent] = field(repr=False)
    storage: Mapping[Qualified, Storage] | None = field(default=None, repr=False)
    numbers: str = ""
    positions: Mapping[Qualified, str] = field(default_factory=dict, repr=False)
    statements: str | None = None
    unlike: set[Qualified] = field(default_factory=set, repr=False, compare=False)


async def read_profile(
    connection: Connection, rights: Rights, known: KnownState, catalogs: Catalogs
) -> TemplateProfile:
    """Read the profile of a template from a fresh copy.

    Args:
        connection: connection to the copy.
        rights: what the connection allows.
        known: baseline of the copy.
        catalogs: catalogs of the server.
    """
    site = known.baseline.site
    model = await read_table_model(
        connection, rights.version, schema=site.schema, as_replica=rights.as_replica
    )
    seeds: dict[Qualified, bytes] = {}
    for name, table in model.tables.items():
        if table.rows is None or not 0 < table.rows <= SEED_ROWS or table.materialized:
            continue
        rows = await copy_out(connection, name, table.columns, site.schema)
        if sum(map(len, seeds.values())) + len(rows) > SEED_BYTES:
            break
        seeds[name] = rows
    storage = await read_storage(connection, rights, schema=site.schema)
    numbers = await read_numbers_digest(connection, rights, schema=site.schema)
    positions = await read_positions(connection, seeds, site.schema)
    statements = await connection.fetchval(_STATEMENTS)
    if site.schema is not None:
        return TemplateProfile(model, None, seeds, {}, storage, numbers, positions, statements)
    relations = await read_relations(connection, schema=None)
    extents = await catalogs.extents(connection, site.names(known.baseline.numbers[0]), ())
    return TemplateProfile(model, relations, seeds, extents, storage, numbers, positions, statements)


_STATEMENTS: Final = """
SELECT CASE WHEN has_function_privilege(p.oid, 'EXECUTE')
            THEN format('%I.%I($1::oid, $2::oid, 0::bigint%s)', n.nspname, p.proname,
                        CASE WHEN p.pronargs = 4 THEN ', false' END) ELSE '' END
FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
     JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE e.extname = 'pg_stat_statements' AND p.proname = 'pg_stat_statements_reset'
  AND current_setting('pg_stat_statements.max', true) IS NOT NULL  -- loaded by the server
"""
"""The call names the type of every argument: no function of the template's author fits as well."""


@dataclass(frozen=True, slots=True)
class CleanState:
    """The state that a used database should have again.

    Attributes:
        site: names of the database, with the login of the lease.
        known: baseline and mark of the database.
        template: profile of its template.
    """

    site: Site
    known: KnownState
    template: TemplateProfile

    @property
    def extents(self) -> Mapping[str, Extent]:
        """Fingerprint of the catalogs."""
        return self.template.extents if self.site.schema is None else self.known.baseline.extents

    @property
    def relations(self) -> Relations:
        """Relations of the database that have counters.

        Raises:
            Unprovable: they are not known.
        """
        relations = self.template.relations if self.site.schema is None else self.known.baseline.relations
        if relations is None:
            raise Unprovable("its clean state was not recorded", cause=Cause.UNKNOWN)
        return relations

    @property
    def numbers_of(self) -> Mapping[Qualified, int]:
        """OIDs of the tables and sequences."""
        relations = self.relations
        return {
            name: number for some in (relations.tables, relations.sequences) for number, name in some.items()
        }

    @property
    def query(self) -> InspectionQuery:
        """The query that inspects the database.

        Raises:
            Unprovable: the relations with counters are not known.
        """
        return InspectionQuery(self.site, self.relations, self.known.mark)
