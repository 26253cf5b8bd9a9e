"""Migrations of the control plane's schema (Alembic). :func:`upgrade` migrates a database to the newest revision.

Alembic is imported only when a migration is needed, because it would take a fifth of a warm start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from freshdb_service.store.connection import Store

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x66726573_68646200  # "freshdb": replicas that start at the same time migrate one after the other
_HERE = Path(__file__).parent


def newest_step() -> str:
    """Return the newest revision. The name of each file in ``versions`` begins with its revision."""
    return max(path.name.partition("_")[0] for path in (_HERE / "versions").glob("[0-9]*.py"))


def alembic_config() -> Config:
    """Return Alembic's configuration. There is no ``alembic.ini``."""
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    return config


async def upgrade(engine: AsyncEngine) -> None:
    """Migrate the control plane's database to the newest revision. Several replicas may call it at the same time."""
    async with engine.connect() as connection:
        if await _step_of(connection) == newest_step():
            return
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        await connection.commit()
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        finally:
            await asyncio.shield(connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK}))
            await connection.commit()


async def step_of(store: Store) -> str | None:
    """Return the revision of a database. ``None`` if it is no control plane."""
    async with store.statement() as connection:
        return await _step_of(connection)


async def _step_of(connection: AsyncConnection) -> str | None:
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    step: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return step


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
