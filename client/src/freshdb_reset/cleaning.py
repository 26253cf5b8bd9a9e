"""Carry out a plan on a connection to the database, and compare the storage with the template's afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from freshdb_reset.change_detection import Inspection, WrittenTable
from freshdb_reset.clean_state import CleanState
from freshdb_reset.connection import Connection, Rights
from freshdb_reset.plan import Plan, make_plan
from freshdb_reset.storage import (
    clear_statistics_statements,
    numbers_script,
    read_positions,
    read_storage,
)
from freshdb_reset.table_model import Qualified, full_name, shown
from freshdb_reset.verdict import Cause, Unprovable

_WITHOUT_DATABASE_STATISTICS: Final = 16_00_00
"""First version whose ``VACUUM`` can leave out a scan of ``pg_class``."""


async def settle(
    connection: Connection, rights: Rights, plan: Plan, expected: CleanState, inspection: Inspection
) -> None:
    """Vacuum after ``restore_rows``, compare the storage with the template's, and set what the planner reads.

    If the template has ``pg_stat_statements``, the statements of the login are forgotten, too.

    If this raises, the database is not clean, and no login may be let in.

    Args:
        connection: connection to the database.
        rights: what the connection allows.
        plan: the steps.
        expected: the state that the database has afterwards.
        inspection: what the plan was made from.

    Raises:
        Unprovable: positions of rows or sizes are not as in the template, and a rebuild is needed.
    """
    wrong = await _vacuum(connection, rights, plan, expected)
    if wrong:
        if not wrong <= inspection.tables.keys():
            raise _unlike(next(iter(wrong)))
        again = make_plan(
            expected.template,
            _Part({name: inspection.tables[name] for name in wrong}),
            in_order=not rights.as_replica,
            insufficient=wrong,
        )
        await restore_rows(connection, again, expected)
        wrong = await _vacuum(connection, rights, again, expected)
        if wrong:
            raise _unlike(next(iter(wrong)))
        plan.truncate += again.truncate
        plan.reload += again.reload
    if rights.superuser:
        templates = expected.template.storage or {}
        fresh = [name for name in plan.truncate if not templates[name].is_new]
        numbers = {name: templates[name] for name in (*fresh, *plan.vacuum, *plan.numbers)}
        if numbers:
            await connection.execute(numbers_script(rights.version, numbers, expected.site.schema))
    if expected.template.statements:
        login, database, _ = expected.known.baseline.numbers
        await connection.fetch(f"SELECT {expected.template.statements}", login, database)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the tables that were written to."""

    tables: dict[Qualified, WrittenTable]
    sequences: tuple[Qualified, ...] = ()


async def restore_rows(
    connection: Connection, plan: Plan, expected: CleanState, first: Sequence[str] = ()
) -> None:
    """Restore rows and sequences, in one transaction.

    Args:
        connection: connection to the database.
        plan: the steps.
        expected: the state that the database has afterwards.
        first: statements that the transaction begins with.
    """
    schema, template = expected.site.schema, expected.template
    # A truncation creates indexes again, and statistics may decide their size.
    statistics = clear_statistics_statements(plan.statistics, schema) if plan.statistics else []
    script = "; ".join(
        [
            *first,
            *statistics,
            *plan.deletions(schema, expected.known.mark.transaction),
            *plan.sequence_settings(schema),
        ]
    )
    if plan.load:
        async with connection.transaction():
            await connection.execute(script)
            for name in plan.load:
                await connection.copy_to_table(
                    name[1],
                    source=BytesIO(template.seeds[name]),
                    columns=template.model.tables[name].columns,
                    schema_name=name[0] or schema,
                    format="text",
                    freeze=True,
                )
                # An index that grew row by row returns equal keys in another order than one that was built at once.
                await connection.execute(f"REINDEX TABLE {full_name(name, schema)}")
    elif script:
        await connection.execute(script)  # one message is one transaction


async def _vacuum(
    connection: Connection, rights: Rights, plan: Plan, expected: CleanState
) -> frozenset[Qualified]:
    """Vacuum tables.

    Returns:
        tables whose storage is not the template's, although it should be.

    Raises:
        Unprovable: a table that was loaded again is not like the template's.
    """
    schema, template = expected.site.schema, expected.template
    templates = template.storage or {}
    vacuum = list(plan.vacuum)
    if not rights.superuser:  # a superuser sets the numbers of truncated tables without a vacuum
        vacuum += [name for name in plan.truncate if name not in vacuum and not templates[name].is_new]
    if not vacuum:
        return frozenset()
    # Without skipping, every block's space is recorded: it decides where new rows go.
    options = "FREEZE, DISABLE_PAGE_SKIPPING, INDEX_CLEANUP ON, TRUNCATE ON, PARALLEL 0"
    if rights.version >= _WITHOUT_DATABASE_STATISTICS:
        options += ", SKIP_DATABASE_STATS"
    tables = ", ".join(full_name(name, schema) for name in vacuum)
    await connection.execute(f"VACUUM ({options}) {tables}")
    numbers_of, shared = expected.numbers_of, schema is not None
    found = await read_storage(connection, rights, schema=schema, only=[numbers_of[name] for name in vacuum])
    wrong = frozenset(
        name
        for name, now in found.items()
        if not now.equals_in_files(templates[name], shared=shared)
        or now.total > templates[name].bound
        or not (rights.superuser or now.equals_in_catalog(templates[name], shared=shared))
    )
    positions = await read_positions(connection, plan.reload, schema)
    unlike = [name for name in plan.reload if name in wrong or positions[name] != template.positions[name]]
    if unlike:
        template.unlike.update(unlike)
        raise _unlike(unlike[0])
    return wrong


def _unlike(name: Qualified) -> Unprovable:
    return Unprovable(
        f"rows of the table {shown(name)} did not get the template's positions or space again",
        cause=Cause.PLANNER,
    )
