"""Run ``pg_dump``, the only program that can write every kind of object of a schema as SQL."""

from __future__ import annotations

import asyncio
import os
from typing import Final, Literal

from freshdb_service.errors import BackendUnavailable, ConfigurationError
from freshdb_service.postgres.server.server import Server

_DUMP_SECONDS: Final = 300.0


async def dump_schema(
    server: Server, database: str, schema: str, section: Literal["pre-data", "post-data"]
) -> str:
    """Dump the definitions of one schema, without rows and owners.

    Raises:
        ConfigurationError: ``pg_dump`` is not installed, cannot be run, or is older than the server.
        BackendUnavailable: ``pg_dump`` failed, or took too long.
    """
    program = server.options.pg_dump
    if program is None:
        raise ConfigurationError("isolation schema needs pg_dump: install PostgreSQL's client programs")
    uri, secrets = server.libpq(database)
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--dbname={uri}",
            f"--schema={schema}",
            f"--section={section}",
            "--no-owner",
            "--no-password",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **secrets, "PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"},
        )
    except OSError as error:
        raise ConfigurationError(
            f"{program} cannot be run ({error}): install PostgreSQL's client programs"
        ) from error
    try:
        async with asyncio.timeout(_DUMP_SECONDS):
            out, complaint = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise BackendUnavailable(
                f"pg_dump of {database} took longer than {_DUMP_SECONDS:g} seconds"
            ) from error
        raise
    if process.returncode != 0:
        said = complaint.decode(errors="replace").strip()
        if "server version mismatch" in said:
            raise ConfigurationError(f"{program} is older than the server {server.name}: {said}")
        raise BackendUnavailable(f"pg_dump of {database} on the server {server.name} failed: {said}")
    return out.decode()
