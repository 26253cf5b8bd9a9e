"""Compare the definitions of a used database, and of its surroundings, with what they were when it was clean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from freshdb_reset.baseline import surroundings_changed
from freshdb_reset.catalog_fingerprint import STATISTICS, Catalogs, Change, Extent, written_since, xid
from freshdb_reset.change_detection import Inspection, why_unreliable
from freshdb_reset.clean_state import CleanState
from freshdb_reset.connection import Connection, Reader
from freshdb_reset.table_model import Qualified
from freshdb_reset.verdict import Cause, Unprovable


async def check_definitions(
    connection: Connection, catalogs: Catalogs, expected: CleanState, inspection: Inspection
) -> frozenset[Qualified]:
    """Check that everything except rows and sequences is as it was.

    Returns:
        the tables whose storage was replaced, although their definition is the same.

    Raises:
        Unprovable: a definition differs, or may differ.
    """
    baseline, mark = expected.known.baseline, expected.known.mark
    lost = why_unreliable(baseline, mark, inspection)
    if lost is not None:
        objects = await _defined_since(connection, catalogs, expected)
        raise Unprovable(lost, cause=Cause.STATISTICS, objects=objects)
    if inspection.vacuuming:
        # It is about to change statistics. And it may run a function whose old definition is back by now.
        objects = await _defined_since(connection, catalogs, expected)
        raise Unprovable("autovacuum was at work in it", cause=Cause.PLANNER, objects=objects)
    rewritten = await _check_catalogs(connection, catalogs, expected, inspection)
    written_outside = inspection.mark.shared_writes != mark.shared_writes
    if written_outside and await surroundings_changed(connection, expected.site, baseline):
        raise Unprovable(
            "settings, privileges, comments or attributes of the database or its login changed",
            cause=Cause.SURROUNDINGS,
        )
    return rewritten


async def _check_catalogs(
    connection: Reader, catalogs: Catalogs, expected: CleanState, inspection: Inspection
) -> frozenset[Qualified]:
    in_schema = expected.site.schema is not None
    if not inspection.elsewhere or not (in_schema or inspection.catalogs):
        return frozenset()
    unreadable = inspection.catalogs.difference(catalogs.names, STATISTICS)
    if unreadable:
        raise Unprovable(
            f"{', '.join(sorted(unreadable))} was written to, which freshdb's role may not read",
            cause=Cause.CATALOGS,
        )
    names = [name for name in catalogs.names if in_schema or name in inspection.catalogs]
    written = await _compare(connection, catalogs, expected, names)
    return await _rewritten_tables(connection, expected) if "pg_class" in written else frozenset()


async def _compare(
    connection: Reader, catalogs: Catalogs, expected: CleanState, names: Iterable[str]
) -> set[str]:
    """Compare catalogs with their fingerprint.

    Returns:
        the catalogs with rows that were written again, and have the same content as before.

    Raises:
        Unprovable: a catalog differs.
    """
    baseline, since, scope = (
        expected.known.baseline,
        expected.known.mark.transaction,
        expected.known.baseline.scope,
    )
    changes = await catalogs.changes(connection, since, scope, names)
    written, reason = _written(changes, expected.extents)
    if reason is None:
        replaced = expected.site.names(baseline.numbers[0])
        now = await catalogs.extents(connection, replaced, scope, sorted(written))
        other = [name for name, extent in now.items() if extent.content != expected.extents[name].content]
        reason = f"entries in {', '.join(other)} were changed" if other else None
    if reason is not None:
        raise Unprovable(
            reason, cause=Cause.CATALOGS, objects=await catalogs.described(connection, since, scope, changes)
        )
    return written


def _written(changes: Mapping[str, Change], expected: Mapping[str, Extent]) -> tuple[set[str], str | None]:
    """Return the catalogs with rows that were written again, and the first difference if there is one."""
    written: set[str] = set()
    for name, change in changes.items():
        then = expected.get(name)
        if then is None or change.own != then.own or change.own_written:
            return written, f"PostgreSQL's own entries in {name} were changed"
        if change.rows != then.rows:
            return written, f"{name} had {then.rows} entries, and has {change.rows}"
        if change.written:
            written.add(name)
    return written, None


async def _rewritten_tables(connection: Reader, expected: CleanState) -> frozenset[Qualified]:
    """Return the tables whose row in ``pg_class`` was written since the mark: they were truncated, or rewritten."""
    rows = await connection.fetch(
        f"""
        SELECT CASE WHEN $2::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND {written_since("$1", "c")} AND n.nspname !~ '^pg_'
          AND ($2::text IS NULL OR n.nspname = $2::text)
        """,
        xid(expected.known.mark.transaction),
        expected.site.schema,
    )
    return frozenset((str(row["schema"]), str(row["name"])) for row in rows)


async def _defined_since(connection: Reader, catalogs: Catalogs, expected: CleanState) -> list[str]:
    """Describe the objects that the holder defined, where nothing is compared."""
    known = expected.known
    return await catalogs.described(connection, known.mark.transaction, known.baseline.scope, catalogs.names)
