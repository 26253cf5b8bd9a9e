"""Dumps load as they are, and scripts do what ``psql -f`` does."""

from __future__ import annotations

import asyncio
import os
import re
from difflib import unified_diff
from pathlib import Path
from uuid import uuid4

import pytest

from freshdb_service.postgres import Login, Server, create_build, run_sql
from tests.integration.postgres.stage import EVERYTHING, pg_dump

WITH_DATA = """
CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, price numeric, tags text[]);
INSERT INTO item (name, price, tags)
VALUES ('pen', 1.5, '{a,b}'),
       (E'tab\\tback\\\\slash\\nline', NULL, '{}'), (E'\\restrict abc', 'NaN', NULL), ('', 0, '{"\\\\."}');
CREATE TABLE odd ("semi;colon" text, "qu""ote" text DEFAULT $$it's; fine$$);
INSERT INTO odd VALUES ('--', '/*'), (';', DEFAULT);
"""

DUMPABLE = re.sub(
    r"^(?:ALTER TABLE secret FORCE|CREATE POLICY builder) .*\n", "", EVERYTHING, flags=re.MULTILINE
)
"""pg_dump refuses to dump a table whose policies also apply to its owner. And a policy can name a role."""

SCRIPTS = {
    "quotes": r"""CREATE TABLE t AS SELECT 'a'';' AS a, E'b\';' AS b, $x$;$$;$x$ AS c, U&'d\0061;' AS d, ';' AS "e"";";""",
    "comments": "CREATE TABLE t (a int /* ; /* ; */ -- ;\n*/); -- ;\nINSERT INTO t VALUES (1);",
    "rules": "CREATE TABLE t (a int); CREATE RULE r AS ON UPDATE TO t DO ALSO (DELETE FROM t; INSERT INTO t VALUES (7));"
    "INSERT INTO t VALUES (1); UPDATE t SET a = 2;",
    "bodies": "CREATE FUNCTION f(a int) RETURNS int BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 ELSE 3 END; SELECT a + 1; END;"
    "CREATE TABLE t AS SELECT f(1);",
    "transactions": "CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1); ROLLBACK; INSERT INTO t VALUES (2);"
    "BEGIN; INSERT INTO t VALUES (3); SAVEPOINT s; INSERT INTO t VALUES (4); ROLLBACK TO s; COMMIT;",
    "data": "CREATE TABLE t (a text); COPY t FROM stdin;\n;\n'\n\\\\.\n\\N\n\\.\nINSERT INTO t VALUES ('last');",
    "without an end": "CREATE TABLE t (a int);\nCOPY t FROM stdin;\n1\n2",
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_script_does_what_psql_does(server_18: Server, name: str) -> None:
    ours, theirs = [await create_build(server_18, uuid4(), 1, []) for _ in range(2)]
    await run_sql(server_18, ours, [SCRIPTS[name]], timeout_seconds=60)
    await run(server_18, theirs, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", text=SCRIPTS[name])
    assert await differences(server_18, ours, theirs) == []


@pytest.mark.parametrize(
    "flags", [[], ["--inserts"], ["--column-inserts", "--clean", "--if-exists"]], ids=" ".join
)
@pytest.mark.parametrize("source", [WITH_DATA, DUMPABLE], ids=["data", "everything"])
async def test_plain_dump_loads_as_it_is(server: Server, source: str, flags: list[str]) -> None:
    original, copy = [await create_build(server, uuid4(), 1, []) for _ in range(2)]
    await run_sql(server, original, [source], timeout_seconds=60)
    dump = await run(server, original, "pg_dump", "--no-owner", "--no-acl", *flags)
    await run_sql(server, copy, [dump], timeout_seconds=60)
    assert await differences(server, copy, original) == []


async def test_pg_restore_as_the_builder_has_no_error(server_18: Server, tmp_path: Path) -> None:
    original, copy = [await create_build(server_18, uuid4(), 1, []) for _ in range(2)]
    await run_sql(server_18, original, [WITH_DATA], timeout_seconds=60)
    file = tmp_path / "dump"
    await run(server_18, original, "pg_dump", "--format=custom", f"--file={file}")
    await run(server_18, copy, "pg_restore", "--no-owner", "--no-acl", "--exit-on-error", file)
    assert await differences(server_18, copy, original) == []


async def test_plain_dump_with_an_extension_of_the_service_loads(server_18: Server) -> None:
    """Only its owner may comment on an extension, and the comment is there already."""
    original, copy = [await create_build(server_18, uuid4(), 1, ["vector"]) for _ in range(2)]
    await run_sql(
        server_18,
        original,
        ["CREATE TABLE v (v vector(2)); INSERT INTO v VALUES ('[1,2]')"],
        timeout_seconds=60,
    )
    dump = await run(server_18, original, "pg_dump", "--no-owner", "--no-acl")
    assert "COMMENT ON EXTENSION vector" in dump
    await run_sql(server_18, copy, [dump], timeout_seconds=60)
    assert await differences(server_18, copy, original) == []


async def test_attribute_versions_in_a_dump_are_ignored(server: Server) -> None:
    """PostgreSQL 15.20 stores them for each column, a pg_dump that is older writes them, and other servers refuse them."""
    build = await create_build(server, uuid4(), 1, [])
    script = "CREATE TABLE t (a int);\nALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=22158952);\nSELECT 1;"
    await run_sql(server, build, [script], timeout_seconds=60)


async def differences(server: Server, one: Login, other: Login) -> list[str]:
    left, right = [(await dumped(server, build)).splitlines() for build in (one, other)]
    return [*unified_diff(left, right, n=0)]


async def dumped(server: Server, build: Login) -> str:
    dump = await run(server, build, "pg_dump", "--no-owner", "--no-acl")
    dump = re.sub(r"^\\(?:un)?restrict .*$", "", dump, flags=re.MULTILINE).replace(build.user, "BUILDER")
    return re.sub(r"\bpg_attver=\d+", "pg_attver={number}", dump)


async def run(server: Server, build: Login, program: str, *arguments: str | Path, text: str = "") -> str:
    """Run one of PostgreSQL's programs as the builder."""
    target = f"postgresql://{build.user}@{server.host}:{server.port}/{build.database}"
    process = await asyncio.create_subprocess_exec(
        pg_dump().with_name(program),
        f"--dbname={target}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": build.password, "PGCLIENTENCODING": "UTF8"},
    )
    out, complaint = await process.communicate(text.encode())
    assert process.returncode == 0, complaint.decode()
    return out.decode()
