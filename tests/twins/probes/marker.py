"""The probe that looks for values of former holders in everything that the login may read.

Doings put ``TWINMARK`` into rows, names, comments, settings and statistics. The probe casts each row of each readable
relation to text and looks for the marker: in letters of any case (a name without quotes is lower case), in hexadecimal
(bytea), and in the decimal bytes of constants in stored expressions (pg_attrdef.adbin and the like).

It searches every schema that the login may use, not only its own and those of the system. It reads single columns where
the login has no right on the others, such as in pg_subscription. It also reads large objects and the definitions of
functions, constraints, indexes, triggers and rules. The marker reaches the server as a parameter, so that the probe does
not find its own statement in pg_stat_activity. No probe that runs earlier has the marker in a statement.

Roles, settings and application names are visible in every database of a server. So the marker must not be in use elsewhere
on the server while the probe runs.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import psycopg

from tests.twins.probes.probe import Probe
from tests.twins.probes.session import Session
from tests.twins.probes.values import Json

MARKER: Final = "TWINMARK"
_RELATIONS: Final = """
SELECT n.nspname, c.relname, array_agg(quote_ident(a.attname) ORDER BY a.attnum)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S', 't') AND a.attnum > 0 AND NOT a.attisdropped
AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
GROUP BY 1, 2 ORDER BY 1, 2
"""
_FORMS: Final = tuple(
    form
    for text in (MARKER, MARKER.lower())
    for form in (text.lower(), text.encode().hex(), " ".join(str(byte) for byte in text.encode()))
)
"""The marker in lower case, in hexadecimal, and as decimal bytes. Numbers of bytes keep the case of the letters."""
_SEARCH: Final = (
    "SELECT left(found, 200) FROM ({source}) AS s(found) WHERE lower(found) LIKE ANY (%s) LIMIT 3"
)
_FURTHER: Final = {
    "definitions of functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid >= 16384 AND prokind <> 'a'",
    "definitions of constraints": "SELECT pg_get_constraintdef(oid) FROM pg_constraint",
    "definitions of indexes": "SELECT pg_get_indexdef(indexrelid) FROM pg_index",
    "definitions of triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger",
    "definitions of rules": "SELECT pg_get_ruledef(oid) FROM pg_rewrite WHERE oid >= 16384",
    "identities of objects": "SELECT (pg_identify_object(classid, objid, objsubid)).identity FROM pg_depend",
    "channels": "SELECT pg_listening_channels()",
}
"""Results of functions for objects that the login may read."""


def _found(session: Session) -> Json:
    """Return the relations that show the marker, with an excerpt, and those that could not be read."""
    found: dict[str, Json] = {}
    for schema, relation, columns in session.rows(_RELATIONS):
        source = f'SELECT ROW({", ".join(columns)})::text FROM "{schema}"."{relation}"'
        _search(session, f"{schema}.{relation}", source, found)
    for name, source in _FURTHER.items():
        _search(session, name, source, found)
    for (oid,) in session.rows("SELECT oid::text FROM pg_largeobject_metadata"):
        readable = session.outcome(partial(session.lines, f"SELECT length(lo_get({oid}))"))
        if isinstance(readable, list):
            _search(session, "large objects", f"SELECT encode(lo_get({oid}), 'hex')", found)
    return found


def _search(session: Session, name: str, source: str, found: dict[str, Json]) -> None:
    patterns = [f"%{form}%" for form in _FORMS]
    names = session.names
    try:
        with session.connection.transaction():
            rows = session.connection.execute(_SEARCH.replace("{source}", source), (patterns,)).fetchall()
    except psycopg.Error as error:
        found[names.hidden(name)] = f"cannot be searched: {error.sqlstate} {error.diag.message_primary}"
        return
    if rows:
        found[names.hidden(name)] = [names.plain(row[0]) for row in rows]


PROBES: Final = (
    Probe(
        name="marker.anywhere",
        observes=f"the word {MARKER} of a former holder in any relation that the login may read: nowhere."
        " A relation that cannot be searched fails, too",
        run=_found,
        must_be_empty=True,
    ),
)
