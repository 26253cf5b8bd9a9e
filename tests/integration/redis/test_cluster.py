"""Redis Cluster: everything of an installation is in one slot, and a cluster's node that has it serves a lease."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from uuid import uuid4

import psycopg
import pytest
import redis as redis_library
from redis.backoff import ConstantBackoff
from redis.crc import key_slot
from redis.retry import Retry

from freshdb import Client
from freshdb_service.embedded import redis_binary
from freshdb_service.errors import BackendUnavailable
from freshdb_service.redis.connection import SCRIPTS, RedisConnection
from freshdb_service.redis.deadlines import Deadline, Deadlines
from freshdb_service.redis.queue import Queue
from freshdb_service.redis.shared_work import SharedWork
from freshdb_service.redis.wakeups import Wakeups
from tests.servers import PostgresServer
from tests.services import start_service

pytestmark = pytest.mark.xdist_group("redis-cluster")  # one cluster for the tests of this module

SLOTS = 16_384
START_SECONDS = 60


class Noting(RedisConnection):
    """Runs scripts, and records the keys of each."""

    given: defaultdict[str, set[str]]

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> object:
        self.given[script] |= set(keys)
        return await super().run(script, keys, arguments)


@pytest.fixture
async def noting(redis_url: str) -> AsyncIterator[Noting]:
    connection = Noting(redis_url, uuid4())
    connection.given = defaultdict(set)
    yield connection
    await connection.close()


async def everything(connection: RedisConnection) -> None:
    """Run every script of freshdb for two pools and two leases."""
    deadlines, queue = Deadlines(connection), Queue(connection, Wakeups(connection))
    run_id = (await deadlines.due()).forgotten_in_run
    await deadlines.restore([Deadline(uuid4(), "ci", 60, 600)], run_id=run_id)
    for pool, lease in ((uuid4(), uuid4()), (uuid4(), uuid4())):
        await deadlines.admit(pool, [lease], ttl_seconds=60, max_ttl_seconds=600, principal="ci")
        await deadlines.renew(lease, ttl_seconds=None, principal="ci")
        await deadlines.extend_ttl(lease, ttl_seconds=90)
        await deadlines.prolong(lease, ttl_seconds=90)
        assert await deadlines.expiry([lease]) != [None]
        async with queue.waiting(pool, 1) as waiter:
            await queue.wake(pool)
            assert (await queue.place(pool, waiter)).position == 1
            assert len(await queue.standing(pool, most=10)) == 1
            assert await queue.ticket_again(pool, "me", 7, 60) == 7
        await deadlines.settle([lease])
    assert len(await deadlines.noted()) == 1
    assert await SharedWork(connection).mine("sweep", seconds=60)


async def test_all_keys_of_an_installation_are_in_one_slot(noting: Noting) -> None:
    await everything(noting)
    assert set(noting.given) == set(SCRIPTS)
    keys = set[str]().union(*noting.given.values(), await noting.client.keys("*"))
    assert len(keys) > 10
    assert {key_slot(str(key).encode()) for key in keys} == {key_slot(noting.key("any").encode())}


def free_port() -> int:
    """Return a free port whose port for the nodes' own connections, 10,000 higher, is free, too.

    Both are below the ports that the kernel assigns by itself.
    """
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with socket() as one, socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@contextmanager
def node(directory: Path) -> Iterator[redis_library.Redis]:
    """A Redis in cluster mode, without slots."""
    directory.mkdir()
    port = free_port()
    command = [str(redis_binary()), *("--port", str(port)), *("--dir", str(directory)), *("--save", "")]
    process = subprocess.Popen([*command, "--cluster-enabled", "yes"], stdout=subprocess.DEVNULL)
    try:
        with redis_library.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 600)) as client:
            client.ping()
            yield client
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URLs of the two nodes of a cluster: one has all slots, the other none."""
    directory = tmp_path_factory.mktemp("cluster")
    with node(directory / "all") as has_all, node(directory / "none") as has_none:
        ports = [one.connection_pool.connection_kwargs["port"] for one in (has_all, has_none)]
        has_all.cluster("addslots", *range(SLOTS))
        has_none.cluster("meet", "127.0.0.1", ports[0])
        until = time.monotonic() + START_SECONDS
        while {one.cluster("info")["cluster_state"] for one in (has_all, has_none)} != {"ok"}:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{ports[0]}/0", f"redis://127.0.0.1:{ports[1]}/0"


async def test_cluster_node_with_the_slot_serves_every_script(cluster: tuple[str, str]) -> None:
    connection = RedisConnection(cluster[0], uuid4())
    await connection.check()
    await everything(connection)
    await connection.close()


async def test_other_cluster_node_is_refused_with_the_right_address(
    cluster: tuple[str, str],
) -> None:
    connection = RedisConnection(cluster[1], uuid4())
    with pytest.raises(BackendUnavailable, match=rf"name that one \({cluster[0][8:-2]}\)"):
        await Deadlines(connection).due()
    await connection.close()


def test_service_leases_with_a_cluster(cluster: tuple[str, str], postgres_18: PostgresServer) -> None:
    service = start_service([postgres_18.dsn], cluster[0], settings={"min_ready": 1})
    try:
        with Client(service.url) as client:
            client.ensure_sql("notes", ["create table note (id int)"])
            with client.lease("notes") as lease, psycopg.connect(lease.url) as connection:
                assert connection.execute("select count(*) from note").fetchone() == (0,)
    finally:
        assert service.stop() == 0
