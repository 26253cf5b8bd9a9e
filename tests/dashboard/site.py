"""Services for the dashboard: one with tokens and a day of history, and one with a large pool."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.services import Service

ADMIN, ANN, GUEST = "admin-secret", "ann-secret", "guest-secret"
TOKENS = f"admin:{ADMIN}:admin ann:{ANN}:read+lease guest:{GUEST}:read"
HOLDER = {
    "name": "pytest",
    "user": "ann",
    "host": "runner-7",
    "worker": "gw1",
    "test": "tests/test_cart.py::test_a_cart_keeps_its_items",
    "run": "https://ci.example.com/acme/shop/actions/runs/1234567",
}

Item = dict[str, Any]


@dataclass(slots=True)
class Site:
    """A running service, with requests by any token."""

    service: Service
    token: str = ""
    held: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.service.url

    def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **query: str
    ) -> httpx.Response:
        secret = self.token if token is None else token
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return plain_http.request(
            method, self.url + path, json=body, headers=headers, params=query or None, timeout=LIMIT_SECONDS
        )

    def get(self, path: str, **query: str) -> Item:
        answer = self.ask("GET", path, **query)
        assert answer.status_code == 200, answer.text
        found: Item = answer.json()
        return found

    def template(self, name: str = "shop") -> str:
        """Create a template for this test, and return its name."""
        unique = f"{name}-{secrets.token_hex(3)}"
        sql = [
            "create table item (id serial primary key, name text)",
            "insert into item (name) values ('one')",
        ]
        answer = self.ask("POST", "/v1/templates", {"name": unique, "sql": sql})
        assert answer.json()["state"] == "ready", answer.text
        return unique

    def acquire(self, template: str, *, token: str | None = None, **body: object) -> Item:
        wanted = {"template": template, "holder": HOLDER, "ttl_seconds": 600, **body}
        answer = self.ask("POST", "/v1/leases", wanted, token=token)
        assert answer.status_code == 201, answer.text
        lease: Item = answer.json()
        self.held.append(lease["id"])
        return lease

    def release(self, lease: Item) -> None:
        self.ask("DELETE", f"/v1/leases/{lease['id']}", force="true")

    def clear(self) -> None:
        """Revoke the remaining leases of a test."""
        for lease_id in self.held:
            self.ask("DELETE", f"/v1/leases/{lease_id}", force="true")
        self.held.clear()

    @contextmanager
    def control(self) -> Iterator[psycopg.Connection]:
        """The control plane's database."""
        with psycopg.connect(self.service.control_dsn, autocommit=True) as connection:
            yield connection


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - any value
    until = time.monotonic() + LIMIT_SECONDS
    while not wanted(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.05)
    return seen


def a_day_of_history(site: Site, pool_id: str) -> None:
    """Insert a day of history with two busy hours in which callers waited."""
    with site.control() as connection:
        connection.execute(_DAY, {"pool": pool_id})


def a_crowd(site: Site) -> None:
    """Insert a pool of 2,000 databases with 500 leases, on a server of another replica."""
    with site.control() as connection:
        connection.execute("set session_replication_role = replica")  # rows in states that no row begins with
        connection.execute(_CROWD)


_DAY = """
insert into pool_minutes (at, pool_id, databases, waiting, waits, resets, paths, failures)
select at, %(pool)s::uuid,
       jsonb_build_object('ready', 8 - least(8, busy), 'leased', busy, 'resetting', busy / 4, 'dirty', busy / 6),
       greatest(0, busy - 8),
       array[0, 0, busy, busy * 3, busy, busy / 2, busy / 3, 0, 0, busy / 6, greatest(0, busy - 7), greatest(0, busy - 8),
             0, 0, 0, 0, 0, 0, 0, 0],
       array[0, 0, 0, 0, busy * 3, busy * 2, busy, busy / 3, busy / 5, busy / 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
       jsonb_build_object('nothing', busy, 'delete', busy * 4, 'reload', busy / 3, 'rebuild', busy / 4), 0
from (select at, greatest(1, round(2 + 3 * abs(sin(minute / 60.0)) + 6 / (1 + ((minute - 25) / 7.0) ^ 2)
                                   + 7 / (1 + ((minute - 700) / 45.0) ^ 2)))::integer as busy
      from (select minute, date_trunc('minute', now()) - make_interval(mins => minute) as at
            from generate_series(1, 1439) as minute) minutes) day
on conflict (at, pool_id) do update set databases = excluded.databases, waiting = excluded.waiting, waits = excluded.waits,
    resets = excluded.resets, paths = excluded.paths
"""

_CROWD = """
with server as (
    insert into servers (name, host, port, version, disk_bytes) values ('big', 'big.example', 5432, 180001, 21474836480)
    returning name
), template as (
    insert into templates (id, name, fingerprint, state, server, build_seconds, database_name, size_bytes, ready_at)
    select gen_random_uuid(), 'monolith', 'f00d', 'ready', name, 600, 'freshdb_t_crowd', 9437184, now() from server
    returning id, server
), pool as (
    insert into pools (id, template_id, isolation, server, min_ready, max_size, idle_seconds)
    select gen_random_uuid(), id, 'database', server, 100, 2000, 300 from template
    returning id, server, template_id
), made as (
    insert into databases (id, pool_id, server, state, generation, database_name, login, lease_id, state_changed_at)
    select gen_random_uuid(), pool.id, pool.server,
           case when n <= 500 then 'leased' when n <= 1900 then 'ready' else 'dirty' end,
           1 + n % 9, 'freshdb_d_' || n, 'freshdb_l_' || n, case when n <= 500 then gen_random_uuid() end,
           now() - make_interval(secs => n)
    from pool, generate_series(1, 2000) as n
    returning *
), named as (
    select *, right(database_name, 1) as one, right(database_name, 2) as two from made
)
insert into leases (id, state, pool_id, database_id, generation, template_id, template, isolation, server, database_name,
                    login, principal, holder, labels, ttl_seconds, granted_at, max_expires_at)
select named.lease_id, 'active', pool.id, named.id, generation, pool.template_id, 'monolith@f00d', 'database', pool.server,
       database_name, login, 'ci',
       jsonb_build_object(
           'name', 'pytest', 'user', 'dev' || one, 'host', 'runner-' || two, 'worker', 'gw' || one,
           'test', 'tests/test_' || two || '.py::test_' || database_name,
           'run', 'https://ci.example.com/acme/monolith/runs/' || two),
       '{}', 80000, state_changed_at, now() + interval '1 day'
from named, pool where named.lease_id is not null
"""
