"""Carry out a plan on a connection to the database."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from freshdb_reset.clean_state import CleanState
from freshdb_reset.connection import Connection
from freshdb_reset.plan import Plan
from freshdb_reset.table_model import full_name


async def clean(connection: Connection, plan: Plan, expected: CleanState, first: Sequence[str] = ()) -> None:
    """Make a database clean in one transaction, and vacuum after it.

    Args:
        connection: connection to the database.
        plan: the steps.
        expected: the state that the database has afterwards.
        first: statements that the transaction begins with.
    """
    schema, template = expected.site.schema, expected.template
    script = "; ".join(
        [
            *first,
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
                )
    elif script:
        await connection.execute(script)  # one message is one transaction
    if plan.vacuum:
        tables = ", ".join(full_name(name, schema) for name in plan.vacuum)
        await connection.execute(f"VACUUM (INDEX_CLEANUP ON, TRUNCATE ON) {tables}")
