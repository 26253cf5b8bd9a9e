"""The control plane's schema, step by step (Alembic); :func:`upgrade` brings a database to the newest step.

Alembic is loaded only when there is a step to take: it would be a fifth of the time that a warm start takes.
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

_LOCK = 0x66726573_68646200  # "freshdb": replicas that start at once migrate one after the other
_HERE = Path(__file__).parent


def newest_step() -> str:
    """The revision of the last step; each file in ``versions`` begins with its own."""
    return max(path.name.partition("_")[0] for path in (_HERE / "versions").glob("[0-9]*.py"))


def alembic_config() -> Config:
    """Alembic's configuration; there is no ``alembic.ini``."""
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    return config


async def upgrade(engine: AsyncEngine) -> None:
    """Bring the control plane's database to the newest step; safe to call from many replicas at once."""
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
    """The step that a database is at; ``None`` if it is no control plane."""
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
