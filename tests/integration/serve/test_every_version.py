"""All steps on every version of PostgreSQL: register, lease in both isolations, use, release, and lease again."""

from __future__ import annotations

import httpx
import psycopg

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import PostgresServer
from tests.services import start_service

SQL = """
create type colour as enum ('red', 'green');
create table item (id bigint generated always as identity primary key, name text unique, c colour default 'red');
create table part (item bigint references item, n int);
insert into item (name) values ('apple'), ('pear');
create function items() returns bigint language sql as 'select count(*) from item';
create view names as select name from item;
"""
DIRT = """
insert into item (name) values ('plum'); delete from item where name = 'apple'; alter table part add column more text;
create table mine (id int); drop view names; alter type colour add value 'blue'
"""


def test_lease_can_be_used_released_and_acquired_again(
    every_postgres: PostgresServer, redis_url: str
) -> None:
    settings = {"min_ready": 0, "max_size": 1}
    service = start_service([every_postgres.dsn], redis_url, settings=settings)
    try:
        with httpx.Client(
            verify=plain_http.NO_CERTIFICATES, base_url=service.url, timeout=2 * LIMIT_SECONDS
        ) as http:
            template = http.post("/v1/templates", json={"name": "t", "sql": [SQL]})
            assert template.json()["state"] == "ready", template.text
            for isolation in ("database", "schema"):
                logins = set()
                for _ in range(3):
                    body = {"template": "t", "isolation": isolation, "wait_seconds": LIMIT_SECONDS}
                    answer = http.post("/v1/leases", json=body)
                    assert answer.status_code == 201, answer.text
                    lease = answer.json()
                    logins.add(lease["user"])
                    with psycopg.connect(lease["url"], autocommit=True) as connection:
                        found = connection.execute("select id, name, c from item order by id").fetchall()
                        assert found == [(1, "apple", "red"), (2, "pear", "red")]
                        assert connection.execute("select items()").fetchone() == (2,)
                        assert connection.execute("select * from names order by 1").fetchall() == [
                            ("apple",),
                            ("pear",),
                        ]
                        for statement in DIRT.split(";"):
                            connection.execute(statement)
                        assert connection.execute("select max(id) from item").fetchone() == (3,)
                    assert http.delete(f"/v1/leases/{lease['id']}").status_code == 200
                    while _opens(lease["url"]):
                        pass
                assert len(logins) == 3
    finally:
        assert service.stop() == 0


def _opens(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
