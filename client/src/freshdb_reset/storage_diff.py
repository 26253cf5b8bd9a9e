"""Find the tables whose planner statistics, or numbers in ``pg_class``, are not those of the template any more.

``VACUUM`` and ``ANALYZE`` change them, by a holder or by autovacuum, and so do indexes and triggers that were created and
dropped again. PostgreSQL counts the first two per table. The rest writes to catalogs.
"""

from __future__ import annotations

from dataclasses import dataclass

from freshdb_reset.catalog_fingerprint import STATISTICS
from freshdb_reset.change_detection import Inspection
from freshdb_reset.clean_state import CleanState
from freshdb_reset.connection import Reader, Rights
from freshdb_reset.storage import read_numbers_digest, read_storage
from freshdb_reset.table_model import Qualified, shown
from freshdb_reset.verdict import Cause, Unprovable


@dataclass(frozen=True, slots=True)
class StorageChanges:
    """Tables that differ from the template in what the planner reads.

    Attributes:
        numbers: tables whose numbers or hints in ``pg_class`` differ.
        statistics: tables that have statistics of their columns, and have none in the template.
        can_be_set: true if the role may write to the catalogs that hold both.
    """

    numbers: frozenset[Qualified] = frozenset()
    statistics: frozenset[Qualified] = frozenset()
    can_be_set: bool = True


async def find_storage_changes(
    connection: Reader, rights: Rights, expected: CleanState, inspection: Inspection
) -> StorageChanges:
    """Compare numbers and statistics with the template's, if anything may have changed them.

    Args:
        connection: connection to the database.
        rights: what the connection allows. Only a superuser may put numbers and statistics back.
        expected: the state that the database should have.
        inspection: what changed in it.

    Raises:
        Unprovable: there are differences that cannot be put back.
    """
    if expected.template.statements == "":
        raise Unprovable(
            "pg_stat_statements keeps the statements of its login, and this role may not reset them",
            cause=Cause.PLANNER,
        )
    templates = expected.template.storage
    in_schema = expected.site.schema is not None
    in_catalogs = inspection.elsewhere and (in_schema or bool(inspection.catalogs))
    if templates is None or not (inspection.maintained or in_catalogs):
        return StorageChanges()
    schema = expected.site.schema
    only_definitions = not (inspection.maintained or in_schema or inspection.catalogs & STATISTICS)
    if (
        only_definitions  # as temporary tables write
        and await read_numbers_digest(connection, rights, schema=schema) == expected.template.numbers
    ):
        return StorageChanges()
    only = None if in_catalogs else [expected.numbers_of[name] for name in inspection.maintained]
    found = await read_storage(connection, rights, schema=schema, only=only)
    numbers: set[Qualified] = set()
    statistics: set[Qualified] = set()
    for name, now in found.items():
        then = templates.get(name)
        if then is None:
            raise Unprovable(f"the table {shown(name)} is not part of the template", cause=Cause.CATALOGS)
        if now.statistics != then.statistics:
            if then.statistics or not rights.superuser:
                raise Unprovable(
                    f"planner statistics of the table {shown(name)} were gathered again", cause=Cause.PLANNER
                )
            statistics.add(name)
        if not now.equals_in_catalog(then, shared=in_schema) or (
            rights.superuser and now.parts != then.parts
        ):
            numbers.add(name)
    return StorageChanges(frozenset(numbers), frozenset(statistics), can_be_set=rights.superuser)
