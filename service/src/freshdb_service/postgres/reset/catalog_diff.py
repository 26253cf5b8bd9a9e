"""Whether a used database is defined as it was: its catalogs, compared with their fingerprint (``catalogs``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from freshdb_service.postgres.reset.baseline import Cause, Mark, Site, Unprovable
from freshdb_service.postgres.reset.catalog_fingerprint import Catalogs, Change, Extent, written_since, xid
from freshdb_service.postgres.reset.engine import KnownState
from freshdb_service.postgres.reset.table_model import Qualified
from freshdb_service.postgres.server.session_cache import Session


async def compare(
    session: Session,
    catalogs: Catalogs,
    site: Site,
    known: KnownState,
    expected: Mapping[str, Extent],
    names: Iterable[str],
) -> set[str]:
    """Compare catalogs with what they were.

    Returns:
        those with rows that were written anew, and say the same as before.

    Raises:
        Unprovable: one differs.
    """
    baseline, since, scope = known.baseline, known.mark.transaction, known.baseline.scope
    changes = await catalogs.changes(session, since, scope, names)
    written, reason = _written(changes, expected)
    if reason is None:
        now = await catalogs.extents(session, site.names(baseline.numbers[0]), scope, sorted(written))
        other = [name for name, extent in now.items() if extent.content != expected[name].content]
        reason = f"entries in {', '.join(other)} were changed" if other else None
    if reason is not None:
        raise Unprovable(
            reason, cause=Cause.CATALOGS, objects=await catalogs.described(session, since, scope, changes)
        )
    return written


def _written(changes: Mapping[str, Change], expected: Mapping[str, Extent]) -> tuple[set[str], str | None]:
    """The catalogs with rows that were written anew; and why that is more than it may be, if it is."""
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


async def rewritten(session: Session, site: Site, mark: Mark) -> frozenset[Qualified]:
    """Tables whose entry in ``pg_class`` was written since the mark: truncated, or stored anew."""
    rows = await session.fetch(
        f"""
        SELECT CASE WHEN $2::text IS NULL THEN n.nspname ELSE '' END AS schema, c.relname AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND {written_since("$1", "c")} AND n.nspname !~ '^pg_'
          AND ($2::text IS NULL OR n.nspname = $2::text)
        """,
        xid(mark.transaction),
        site.schema,
    )
    return frozenset((str(row["schema"]), str(row["name"])) for row in rows)
