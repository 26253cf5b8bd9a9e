"""Prepare a pool of schemas: the shared database, the seed in it, and the blueprint.

The shared database is a clone of the template. In it, ``public`` is renamed and becomes the *seed*, which belongs to a role
that cannot log in. A new ``public`` gets the extensions. ``pg_dump`` dumps the seed once. New schemas are created from this
dump, and their rows are copied from the seed's tables.

The preparation ends with a trial: a schema is created from the blueprint, dumped, and compared with the dump of the seed,
object by object. So are the rows of its tables and materialized views. If they differ, or if the schema cannot be created,
the template is refused with the differences. So a schema that is leased is always equal to the template's.

The finished blueprint is stored in the shared database, as the comment on the seed. A preparation that finds one is done, so
a worker that was paused never drops a database that is in use. A preparation that finds none drops what a dead worker left,
and starts again. A lock in the maintenance database prevents two preparations at the same time.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_reset import differences, read_digest, read_table_model
from freshdb_service.errors import BackendUnavailable, FreshdbError, IsolationUnsupported
from freshdb_service.postgres import ownership
from freshdb_service.postgres.blockers import terminating_blockers
from freshdb_service.postgres.drop import drop_schema, drop_shared
from freshdb_service.postgres.names import Kind, Name, quoted
from freshdb_service.postgres.provision.blueprint import Blueprint, entries, renamed
from freshdb_service.postgres.provision.clone import clone, default_privileges, transfer_ownership
from freshdb_service.postgres.provision.extensions import take_back_writing
from freshdb_service.postgres.provision.pg_dump import dump_schema
from freshdb_service.postgres.provision.schema import CopyFailed, provision_schema
from freshdb_service.postgres.provision.schema_eligibility import (
    ineligibility_reasons,
    literals_naming_public,
)
from freshdb_service.postgres.provision.seed_rows import load_script
from freshdb_service.postgres.roles import create_group
from freshdb_service.postgres.server.connections import Connection, operation
from freshdb_service.postgres.server.server import Server

_LOCK_SECONDS: Final = 30.0


@operation
async def prepare_shared(server: Server, pool_id: UUID, template_database: str) -> Blueprint:
    """Prepare a pool's shared database, or find the finished one.

    Raises:
        IsolationUnsupported: the template cannot be leased as a schema (``reasons`` has every reason).
        TemplateNotFound: the template does not exist.
        ConfigurationError: there is no usable ``pg_dump``.
        BackendUnavailable: the server is unavailable, or another worker prepares this pool.
    """
    async with _locked(server, pool_id):
        finished = await _read_finished(server, pool_id)
        if finished is not None:
            return finished
        await drop_shared(server, pool_id)
        try:
            return await _prepare(server, pool_id, template_database)
        except BaseException:
            with suppress(FreshdbError, asyncpg.PostgresError):
                await drop_shared(server, pool_id)
            raise


async def _prepare(server: Server, pool_id: UUID, template_database: str) -> Blueprint:
    shared = server.name_of(Kind.SHARED, pool_id)
    reader = server.name_of(Kind.READER, pool_id)
    seed = server.name_of(Kind.SEED, pool_id)
    async with server.maintenance() as connection:
        await create_group(connection, server, shared)
        await create_group(connection, server, reader)
    await clone(server, shared, template_database)
    await transfer_ownership(server, str(shared), template_database, shared)
    async with server.inside(str(shared)) as connection:
        _refuse(await ineligibility_reasons(connection))
        await take_back_writing(connection)
        await _rename_public(connection, seed, shared, as_superuser=server.is_superuser)
        before, after = await asyncio.gather(
            dump_schema(server, str(shared), str(seed), "pre-data"),
            dump_schema(server, str(shared), str(seed), "post-data"),
        )
        first, last = entries(before, str(seed)), entries(after, str(seed))
        _refuse(literals_naming_public([*first, *last]))
        wanted = [*first, *last]
        # A dump of one schema does not contain default privileges that are not limited to a schema.
        last += [f"{one};" for one in await default_privileges(connection, str(shared))]
        await _grant_reading(connection, seed, reader)
        blueprint = Blueprint(str(shared), str(seed), str(shared), _script(first), "", _script(last))
        blueprint = replace(blueprint, load=await load_script(connection, str(seed), blueprint.target))
        await _try(server, connection, pool_id, blueprint, wanted)
        await _write_finished(connection, seed, blueprint)
    return blueprint


async def _rename_public(connection: Connection, seed: Name, owner: Name, *, as_superuser: bool) -> None:
    """Rename ``public`` to the seed's name, and move extensions to a new ``public``."""
    rows = await connection.fetch(
        "SELECT extname FROM pg_extension WHERE extnamespace = 'public'::regnamespace"
    )
    async with connection.transaction():
        await connection.execute(
            f"ALTER SCHEMA public RENAME TO {quoted(seed)}; "
            f"ALTER SCHEMA {quoted(seed)} OWNER TO {quoted(owner)}; "
            f"REVOKE ALL ON SCHEMA {quoted(seed)} FROM PUBLIC; "
            f"CREATE SCHEMA public AUTHORIZATION {quoted(owner)}; "
            "GRANT USAGE ON SCHEMA public TO PUBLIC"
        )
        for row in rows:
            extension: str = row["extname"]
            try:
                await connection.execute(f"ALTER EXTENSION {quoted(extension)} SET SCHEMA public")
            except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError) as error:
                remedy = (
                    ""
                    if as_superuser
                    else ". A superuser owns its parts, so let freshdb connect as a superuser"
                )
                _refuse(
                    [f'the extension {extension} cannot be moved out of the schema "public": {error}{remedy}']
                )


async def _grant_reading(connection: Connection, seed: Name, reader: Name) -> None:
    """Let the reader read every row. This runs after the dump, which must not contain these changes."""
    protected = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::text::regnamespace AND relrowsecurity",
        str(seed),
    )
    async with connection.transaction():
        for row in protected:
            table = f"{quoted(seed)}.{quoted(row['relname'])}"
            await connection.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        await connection.execute(
            f"GRANT USAGE ON SCHEMA {quoted(seed)} TO {quoted(reader)}; "
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted(seed)} TO {quoted(reader)}"
        )


async def _try(
    server: Server, connection: Connection, pool_id: UUID, blueprint: Blueprint, wanted: list[str]
) -> None:
    """Create one schema, compare it with the seed, and drop it. Its name has the pool's token (``ownership.inventory``)."""
    seed = blueprint.seed_schema
    try:
        name, first, last = await _created(server, pool_id, blueprint)
        _refuse(await _differing_rows(server, connection, seed, name))
        await drop_schema(server, pool_id, blueprint.shared_database)
        made = {renamed(entry, {name: seed}) for entry in (*first, *last)}
        # The login's name replaces two names: the schema's, and its owner's.
        expected = {renamed(entry, {blueprint.build_role: seed}) for entry in wanted}
        if made == expected:
            return
        # PostgreSQL may print an expression differently once it has read its own text, and then always the same.
        copied = replace(
            blueprint, seed_schema=name, build_role=name, before=_script(first), load="", after=_script(last)
        )
        name, first, last = await _created(server, pool_id, copied)
        await drop_schema(server, pool_id, blueprint.shared_database)
        stable = {renamed(entry, {name: seed}) for entry in (*first, *last)}
        _refuse(differing_definitions(expected - made, made - expected, stable))
    except CopyFailed as error:
        _refuse([error.message])
        raise


async def _created(server: Server, pool_id: UUID, blueprint: Blueprint) -> tuple[str, list[str], list[str]]:
    """Create one schema. Return its name and the entries of its dump, before and after the rows."""
    login = await provision_schema(server, pool_id, 0, blueprint)
    before, after = await asyncio.gather(
        dump_schema(server, blueprint.shared_database, login.user, "pre-data"),
        dump_schema(server, blueprint.shared_database, login.user, "post-data"),
    )
    return login.user, entries(before, login.user), entries(after, login.user)


async def _differing_rows(server: Server, connection: Connection, seed: str, made: str) -> list[str]:
    """Return the tables and materialized views whose stored rows a copy would compute differently."""
    digests = []
    for schema in (seed, made):
        try:
            model = await read_table_model(connection, server.version, schema=schema, as_replica=False)
            digest = await read_digest(connection, server.version, model, schema=schema, positions=False)
        except asyncpg.InsufficientPrivilegeError:
            return []  # row security hides rows from the service's role, if that is no superuser
        digests.append(digest)
    return [f"in a schema created from it, {difference}" for difference in differences(*digests)]


def differing_definitions(
    expected: Collection[str], made: Collection[str], stable: Collection[str]
) -> list[str]:
    """Describe the definitions that differ in a copy, unless they differ only in how PostgreSQL prints them.

    Args:
        expected: definitions that the template has and the copy has not.
        made: definitions that the copy has and the template has not.
        stable: definitions of a copy of the copy.
    """
    if set(made) <= set(stable) and Counter(map(_beginning, expected)) == Counter(map(_beginning, made)):
        return []
    described = []
    for beginning in sorted({*map(_beginning, expected), *map(_beginning, made)}):
        there = {line for entry in expected if _beginning(entry) == beginning for line in entry.splitlines()}
        here = {line for entry in made if _beginning(entry) == beginning for line in entry.splitlines()}
        lines = [f"template: {one.strip()}" for one in sorted(there - here)]
        lines += [f"schema: {one.strip()}" for one in sorted(here - there)]
        described.append(f"a schema created from it would differ: {beginning}: {', '.join(lines)[:500]}")
    return described


def _beginning(entry: str) -> str:
    """Return what names the object that a statement of a dump defines."""
    return entry.splitlines()[0].partition("(")[0].strip()


async def _write_finished(connection: Connection, seed: Name, blueprint: Blueprint) -> None:
    statement: str = await connection.fetchval(
        "SELECT format('COMMENT ON SCHEMA %I IS %L', $1::text, $2::text)",
        str(seed),
        json.dumps(blueprint.to_json()),
    )
    await connection.execute(statement)


async def _read_finished(server: Server, pool_id: UUID) -> Blueprint | None:
    async with server.maintenance() as connection:
        held = await ownership.databases(connection, server, kind=Kind.SHARED, identifier=pool_id)
    if not held or not held[0].open or held[0].invalid:
        return None
    async with server.inside(str(held[0].name)) as connection:
        stored: str | None = await connection.fetchval(
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1",
            str(server.name_of(Kind.SEED, pool_id)),
        )
    return Blueprint.from_json(json.loads(stored)) if stored is not None and stored.startswith("{") else None


@asynccontextmanager
async def _locked(server: Server, pool_id: UUID) -> AsyncIterator[None]:
    """Hold the lock on a pool's preparation, for one block."""
    key = int.from_bytes(pool_id.bytes[-8:], signed=True)
    async with server.inside(server.maintenance_database) as connection:
        try:
            with terminating_blockers(
                server, connection
            ):  # a holder that may connect to that database could take it
                await connection.execute(f"SELECT pg_advisory_lock({key:d})", timeout=_LOCK_SECONDS)
        except TimeoutError as error:
            raise BackendUnavailable(
                "another worker is preparing this pool: retry later", retry_after_seconds=5.0
            ) from error
        yield


def _script(statements: list[str]) -> str:
    return "\n\n".join(statements)


def _refuse(reasons: list[str]) -> None:
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise IsolationUnsupported(
            f"this template cannot be leased as a schema, so use isolation database: {reasons[0]}{more}",
            reasons=reasons,
        )
