"""Preparing a pool of schemas: the shared database, the seed in it, and the blueprint.

The shared database is a clone of the template. In it, ``public`` becomes the *seed* (a name of its own, nobody's but a
role's that cannot log in), a new ``public`` takes the extensions, and ``pg_dump`` writes down once what the seed consists
of. New schemas are made from that text, and their rows are copied from the seed's tables.

The preparation ends with a trial: a schema is made from the blueprint, dumped, and compared with the dump of the seed,
object by object. A template for which they differ, or whose schema cannot be made, is refused with what differs. So what
is handed out as a schema is the template's, or nothing is.

The finished blueprint is kept in the shared database itself, as the comment on the seed. A preparation that finds one is
done: whoever was paused and comes late never takes a database away that is in use. One that finds none drops what a dead
worker left, and starts again. A lock in the maintenance database keeps two from doing so at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final
from uuid import UUID

import asyncpg

from freshdb_service.errors import BackendUnavailable, FreshdbError, IsolationUnsupported
from freshdb_service.postgres import ownership
from freshdb_service.postgres.blockers import insisting
from freshdb_service.postgres.drop import drop_schema, drop_shared
from freshdb_service.postgres.names import Kind, Name, quoted
from freshdb_service.postgres.provision.blueprint import Blueprint, entries, renamed
from freshdb_service.postgres.provision.clone import clone, default_privileges, hand_over
from freshdb_service.postgres.provision.pg_dump import dump_schema
from freshdb_service.postgres.provision.schema import CopyFailed, provision_schema
from freshdb_service.postgres.provision.schema_eligibility import reasons_against, texts_naming_public
from freshdb_service.postgres.provision.seed_rows import load_script
from freshdb_service.postgres.roles import create_group
from freshdb_service.postgres.server.connections import Connection, operation
from freshdb_service.postgres.server.server import Server

_LOCK_SECONDS: Final = 30.0


@operation
async def prepare_shared(server: Server, pool_id: UUID, template_database: str) -> Blueprint:
    """Make a pool's shared database, or find the finished one.

    Raises:
        IsolationUnsupported: the template cannot be given out as a schema; ``reasons`` has every reason.
        TemplateNotFound: there is no such template.
        ConfigurationError: there is no ``pg_dump`` that could be used.
        BackendUnavailable: the server is away, or somebody else is preparing this pool.
    """
    async with _alone(server, pool_id):
        finished = await _finished(server, pool_id)
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
    await hand_over(server, str(shared), template_database, shared)
    async with server.inside(str(shared)) as connection:
        _refuse_for(await reasons_against(connection))
        await _rearrange(connection, seed, shared)
        before, after = await asyncio.gather(
            dump_schema(server, str(shared), str(seed), "pre-data"),
            dump_schema(server, str(shared), str(seed), "post-data"),
        )
        first, last = entries(before, str(seed)), entries(after, str(seed))
        _refuse_for(texts_naming_public([*first, *last]))
        wanted = [*first, *last]
        # Default privileges that are not limited to a schema are in no dump of one.
        last += [f"{one};" for one in await default_privileges(connection, str(shared))]
        await _open_to(connection, seed, reader)
        blueprint = Blueprint(str(shared), str(seed), str(shared), _script(first), "", _script(last))
        blueprint = replace(blueprint, load=await load_script(connection, str(seed), blueprint.target))
        await _try(server, pool_id, blueprint, wanted)
        await _finish(connection, seed, blueprint)
    return blueprint


async def _rearrange(connection: Connection, seed: Name, owner: Name) -> None:
    """``public`` becomes the seed; extensions move to a new ``public``."""
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
                _refuse_for(
                    [f'the extension {extension} cannot be moved out of the schema "public": {error}']
                )


async def _open_to(connection: Connection, seed: Name, reader: Name) -> None:
    """Let every row be read, and by the reader; after the dump, which must not show it."""
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


async def _try(server: Server, pool_id: UUID, blueprint: Blueprint, wanted: list[str]) -> None:
    """Make one schema, compare it with the seed, and drop it. It bears the pool's own token (``ownership.inventory``)."""
    try:
        login = await provision_schema(server, pool_id, 0, blueprint)
        dumped = await asyncio.gather(
            dump_schema(server, blueprint.shared_database, login.user, "pre-data"),
            dump_schema(server, blueprint.shared_database, login.user, "post-data"),
        )
        await drop_schema(server, pool_id, blueprint.shared_database)
    except CopyFailed as error:
        _refuse_for([error.message])
        raise
    names = {login.user: blueprint.seed_schema}
    made = {renamed(entry, names) for text in dumped for entry in entries(text, login.user)}
    # The login stands in the places of two: of the schema, and of its owner.
    expected = {renamed(entry, {blueprint.build_role: blueprint.seed_schema}) for entry in wanted}
    differing = sorted(made.symmetric_difference(expected))
    _refuse_for([f"a schema made from it would not be the same: {entry[:500]}" for entry in differing])


async def _finish(connection: Connection, seed: Name, blueprint: Blueprint) -> None:
    statement: str = await connection.fetchval(
        "SELECT format('COMMENT ON SCHEMA %I IS %L', $1::text, $2::text)",
        str(seed),
        json.dumps(blueprint.to_json()),
    )
    await connection.execute(statement)


async def _finished(server: Server, pool_id: UUID) -> Blueprint | None:
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
async def _alone(server: Server, pool_id: UUID) -> AsyncIterator[None]:
    """Hold the lock on a pool's preparation; it ends with the session at the latest."""
    key = int.from_bytes(pool_id.bytes[-8:], signed=True)
    async with server.inside(server.maintenance_database) as connection:
        try:
            with insisting(server, connection):  # a holder who is let into that database could take it, too
                await connection.execute(f"SELECT pg_advisory_lock({key:d})", timeout=_LOCK_SECONDS)
        except TimeoutError as error:
            raise BackendUnavailable(
                "somebody else is preparing this pool", retry_after_seconds=5.0
            ) from error
        yield


def _script(statements: list[str]) -> str:
    return "\n\n".join(statements)


def _refuse_for(reasons: list[str]) -> None:
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise IsolationUnsupported(
            f"this template cannot be given out as a schema; use isolation database. {reasons[0]}{more}",
            reasons=reasons,
        )
