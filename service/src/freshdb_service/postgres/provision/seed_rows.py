"""Compose the statements that copy the rows of the seed, and the states of its sequences, to a new schema.

Rows are copied table by table, from each ordinary table and each leaf of a partitioned table. Ids keep their values, and
generated columns are computed again. A column whose type the template defines (an enumeration, a domain, a composite type)
has another type in the new schema, so its values are converted through text.
"""

from __future__ import annotations

from typing import Final

from freshdb_service.postgres.server.connections import Connection

_COPIES: Final = """
SELECT format('SELECT %L AS statement WHERE EXISTS (SELECT FROM ONLY %I.%I)',
              format('INSERT INTO %I.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ONLY %I.%I;',
                     $2::text, c.relname, columns.names, columns.sources, $1::text, c.relname),
              $1::text, c.relname) AS query
FROM pg_class c, LATERAL (
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names,
           string_agg(quote_ident(a.attname) || CASE WHEN t.typnamespace = c.relnamespace
                        THEN '::text::' || replace(format_type(a.atttypid, a.atttypmod), $1::text || '.', $2::text || '.')
                        ELSE '' END, ', ' ORDER BY a.attnum) AS sources
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
) columns
WHERE c.relnamespace = $1::text::regnamespace AND c.relkind = 'r' AND columns.names IS NOT NULL
ORDER BY c.oid
"""

_SEQUENCES: Final = """
SELECT format('SELECT format(%L, last_value, is_called) AS statement FROM %I.%I WHERE is_called OR last_value <> %s',
              'SELECT pg_catalog.setval(' || quote_literal(format('%I.%I', $2::text, c.relname)) || ', %s, %L);',
              $1::text, c.relname, s.seqstart) AS query
FROM pg_class c JOIN pg_sequence s ON s.seqrelid = c.oid
WHERE c.relnamespace = $1::text::regnamespace
ORDER BY c.oid
"""


async def load_script(connection: Connection, seed: str, target: str) -> str:
    """Compose the statements that copy ``seed`` to the schema with the placeholder ``target``. Empty tables need none."""
    statements = []
    for catalog in (_COPIES, _SEQUENCES):
        for row in await connection.fetch(catalog, seed, target):
            statements += [str(found["statement"]) for found in await connection.fetch(row["query"])]
    return "\n".join(statements)
