"""The control plane's schema, step by step (Alembic); :func:`upgrade` brings a database to the newest step."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

_LOCK = 0x66726573_68646200  # "freshdb": replicas that start at once migrate one after the other


def alembic_config() -> Config:
    """Alembic's configuration; there is no ``alembic.ini``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


async def upgrade(engine: AsyncEngine) -> None:
    """Bring the control plane's database to the newest step; safe to call from many replicas at once."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        await connection.commit()
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        finally:
            await asyncio.shield(connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK}))
            await connection.commit()


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
