"""The schema of the example suite, and its DDL: ``python -m tests.benchmarks.suites.tables`` prints it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, MetaData, Table, Text, func
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from tests.benchmarks.running import TABLES

metadata = MetaData()


def _table(number: int) -> Table:
    return Table(
        f"t{number}",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("name", Text, nullable=False, index=True),
        Column("at", DateTime(timezone=True), server_default=func.now()),
        *([Column("parent_id", BigInteger, ForeignKey(f"t{number - 1}.id"))] if number else []),
    )


tables = [_table(number) for number in range(TABLES)]


def ddl() -> str:
    """Return the statements that ``create_all`` would run."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    return ";\n".join(statements) + ";\n"


if __name__ == "__main__":
    print(ddl())  # noqa: T201 - what it is for
