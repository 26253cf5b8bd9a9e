"""Rows of a control plane, in any state: they are written past its triggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Placeholder
from psycopg.types.json import Jsonb

SERVER: Final = "one"
PRINCIPAL: Final = "ci"


@dataclass(frozen=True, slots=True)
class Plane:
    """A control plane, seen by a superuser."""

    connection: psycopg.Connection[Any]

    def insert(self, table: str, values: Mapping[str, object]) -> None:
        """Insert a row, as any program would."""
        names = [SQL("{}").format(Identifier(name)) for name in values]
        self.connection.execute(
            SQL("insert into {} ({}) values ({})").format(
                Identifier(table), SQL(", ").join(names), SQL(", ").join([Placeholder()] * len(names))
            ),
            [Jsonb(value) if isinstance(value, dict) else value for value in values.values()],
        )

    def put(self, table: str, values: Mapping[str, object]) -> UUID:
        """Insert a row, whatever its state."""
        row_id = uuid4()
        with self.connection.transaction():
            self.connection.execute("set local session_replication_role = replica")
            self.insert(table, {"id": row_id, **values})
        return row_id

    def sql(self, statement: str, *parameters: object) -> None:
        """Run a statement past the triggers."""
        with self.connection.transaction():
            self.connection.execute("set local session_replication_role = replica")
            self.connection.execute(statement.encode(), parameters)

    def empty(self) -> None:
        """Delete every row."""
        tables = ("leases", "baselines", "databases", "pools", "templates", "servers", "trail", "tokens")
        deletes = "; ".join(f"delete from {table}" for table in tables)
        self.connection.execute(
            f"begin; set local session_replication_role = replica; {deletes}; commit".encode()
        )

    def row(self, table: str, row_id: UUID) -> dict[str, Any] | None:
        """One row."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            query = SQL("select * from {} where id = %s").format(Identifier(table))
            return cursor.execute(query, [row_id]).fetchone()

    def state(self, table: str, row_id: UUID) -> str | None:
        """Return the state of a row, if it exists."""
        row = self.row(table, row_id)
        return None if row is None else str(row["state"])

    def server(self, name: str = SERVER) -> str:
        """Insert a server, if it does not exist."""
        self.connection.execute(
            "insert into servers (name, host, port, version) values (%s, 'h', 1, 18) on conflict do nothing",
            [name],
        )
        return name

    def template(self, state: str = "ready", **values: object) -> UUID:
        """Insert a template."""
        plain = {"name": "shop", "fingerprint": uuid4().hex, "server": self.server(), "build_seconds": 60}
        return self.put("templates", {**plain, "state": state, **values})

    def pool(self, template: UUID | None = None, **values: object) -> UUID:
        """Insert a pool, with a template if none is given."""
        plain = {
            "template_id": template or self.template(),
            "isolation": "database",
            "server": self.server(),
            "min_ready": 1,
            "max_size": 50,
            "idle_seconds": 300,
        }
        return self.put("pools", {**plain, **values})

    def database(self, state: str, pool: UUID | None = None, **values: object) -> UUID:
        """Insert a database of generation 5, in a pool of its own if none is given."""
        plain = {
            "pool_id": pool or self.pool(),
            "server": self.server(),
            "generation": 5,
            "database_name": "d",
            "login": "l",
            "password": "p",
        }
        return self.put("databases", {**plain, "state": state, **values})

    def lease(self, state: str = "active", database: UUID | None = None, **values: object) -> UUID:
        """Insert a lease, and set it in its database if one is given."""
        used = None if database is None else self.row("databases", database)
        pool = None if used is None else self.row("pools", used["pool_id"])
        plain: dict[str, object] = {
            "pool_id": uuid4() if used is None else used["pool_id"],
            "database_id": database or uuid4(),
            "generation": 5 if used is None else used["generation"],
            "template_id": uuid4() if pool is None else pool["template_id"],
            "template": "shop@1",
            "isolation": "database",
            "server": SERVER,
            "database_name": "d",
            "login": "l",
            "principal": PRINCIPAL,
            "holder": {},
            "labels": {},
            "ttl_seconds": 60,
            "max_expires_at": "2099-01-01",
        }
        lease_id = self.put("leases", {**plain, "state": state, **values})
        if database is not None:
            self.sql("update databases set lease_id = %s where id = %s", lease_id, database)
        return lease_id
