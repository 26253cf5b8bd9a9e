"""A held lease: renewed in the background, released at the end, and an error when it is lost."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback

import pytest

from freshdb import AsyncClient, Client, Conflict, InternalError, LeaseEnded, LeaseLost, Leftovers
from freshdb.heartbeat import _process_heartbeats
from tests.limits import LIMIT_SECONDS
from tests.unit.client.scripted import (
    LEASE,
    PASSWORD,
    Asked,
    Reply,
    Script,
    granted,
    lease_body,
    methods,
    problem,
    released,
    renewed,
)

RENEW = f"POST /v1/leases/{LEASE}/renew"
RELEASE = f"DELETE /v1/leases/{LEASE}"
GONE = problem(410, "lease_ended", "the lease is over: revoked; acquire a new one")


FREQUENT_HEARTBEATS = pytest.mark.usefixtures("frequent_heartbeats")
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since 3.12, if threads are running


class Desk:
    """Answers each kind of request."""

    def __init__(self, *, ttl_seconds: float = 300.0) -> None:
        self.acquired = granted(ttl_seconds=ttl_seconds)
        self.renewed: Reply = renewed(ttl_seconds)
        self.released: Reply = released()
        self.reset: Reply = Reply(200, lease_body(generation=4, user="u_2", password="new"))

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "DELETE":
            return self.released
        if asked.path.endswith("/renew"):
            return self.renewed
        if asked.path.endswith("/keep"):
            return Reply(200, lease_body(state="kept"))
        if asked.path.endswith("/reset"):
            return self.reset
        return self.acquired


def test_lease_is_released_at_the_end_of_the_block(client: Client, script: Script) -> None:
    script.play(Desk())
    with client.lease("shop", holder={"name": "me"}, labels={"a": "b"}) as lease:
        assert lease.id == LEASE
        assert (lease.template, lease.isolation, lease.schema) == ("shop@abc", "database", None)
        assert lease.env()["PGDATABASE"] == lease.database
    assert methods(script.asked) == ["POST /v1/leases", RELEASE]
    assert script.asked[0].body == {
        "template": "shop", "isolation": "database", "ttl_seconds": 300.0, "wait_seconds": 30.0,
        "holder": {"name": "me"}, "labels": {"a": "b"},
    }  # fmt: skip


def test_lease_is_released_when_the_block_fails(client: Client, script: Script) -> None:
    script.play(Desk())
    with pytest.raises(ZeroDivisionError), client.lease("shop"):
        raise ZeroDivisionError
    assert methods(script.asked)[-1] == RELEASE


def test_lease_is_released_when_the_block_is_interrupted(client: Client, script: Script) -> None:
    script.play(Desk())
    with pytest.raises(KeyboardInterrupt), client.lease("shop"):
        raise KeyboardInterrupt
    assert methods(script.asked)[-1] == RELEASE


@FREQUENT_HEARTBEATS
def test_lease_is_renewed_while_the_block_runs(client: Client, script: Script) -> None:
    script.play(Desk(ttl_seconds=LIMIT_SECONDS))
    with client.lease("shop") as lease:
        script.wait_for(5)
        lease.check()
    assert methods(script.asked)[1:4] == [RENEW] * 3


@FREQUENT_HEARTBEATS
def test_every_use_of_a_lost_lease_raises(client: Client, script: Script) -> None:
    desk = Desk(ttl_seconds=LIMIT_SECONDS)
    desk.renewed = desk.released = GONE
    script.play(desk)
    told: list[LeaseLost] = []
    with pytest.raises(LeaseLost, match="revoked"), client.lease("shop", on_lost=told.append) as lease:  # noqa: PT012 - the end of the block raises
        assert lease.lost.wait(LIMIT_SECONDS)
        assert lease.loss is not None
        assert LEASE in str(lease.loss)
        for use in ("url", "async_url", "dsn", "host", "password"):
            with pytest.raises(LeaseLost):
                getattr(lease, use)
        with pytest.raises(LeaseLost):
            lease.env()
    assert [one.reason for one in told] == ["the lease is over: revoked; acquire a new one"]


@FREQUENT_HEARTBEATS
def test_loss_is_raised_with_the_error_of_the_block_as_context(client: Client, script: Script) -> None:
    desk = Desk(ttl_seconds=LIMIT_SECONDS)
    desk.renewed = desk.released = GONE
    script.play(desk)
    with pytest.raises(LeaseLost) as caught, client.lease("shop") as lease:  # noqa: PT012 - the end of the block raises
        assert lease.lost.wait(LIMIT_SECONDS)
        raise ConnectionResetError
    assert isinstance(caught.value.__context__, ConnectionResetError)


@FREQUENT_HEARTBEATS
def test_loss_does_not_replace_an_interrupt(client: Client, script: Script) -> None:
    desk = Desk(ttl_seconds=LIMIT_SECONDS)
    desk.renewed = desk.released = GONE
    script.play(desk)
    with pytest.raises(KeyboardInterrupt), client.lease("shop") as lease:  # noqa: PT012 - the end of the block raises
        assert lease.lost.wait(LIMIT_SECONDS)
        raise KeyboardInterrupt


def test_loss_detected_by_the_release_is_raised(client: Client, script: Script) -> None:
    desk = Desk()
    desk.released = GONE
    script.play(desk)
    with pytest.raises(LeaseLost, match="revoked"), client.lease("shop"):
        pass


def test_lease_is_lost_when_service_is_unavailable_beyond_the_ttl(script: Script) -> None:
    desk = Desk(ttl_seconds=0.8)
    desk.renewed = desk.released = Reply(hang_up=True)
    script.play(desk)
    with (
        Client(script.url) as client,
        pytest.raises(LeaseLost, match="no heartbeat"),
        client.lease("shop") as lease,
    ):
        assert lease.lost.wait(LIMIT_SECONDS)


def test_failed_release_is_logged_and_left_to_the_ttl(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.released = problem(503, "backend_unavailable")
    script.play(desk)
    with Client(script.url, retry_seconds=0.3) as client, client.lease("shop"):
        pass
    assert "will expire" in caplog.text


def test_released_lease_cannot_be_used(client: Client, script: Script) -> None:
    script.play(Desk())
    with client.lease("shop") as lease:
        lease.release()
        lease.release()
        with pytest.raises(LeaseLost, match="released here"):
            _ = lease.url
    assert methods(script.asked) == ["POST /v1/leases", RELEASE]


def test_release_returns_leftovers(client: Client, script: Script) -> None:
    desk = Desk()
    desk.released = Reply(200, {"id": LEASE, "leftovers": {"connections": 2, "cursors": ["new"]}})
    script.play(desk)
    with client.lease("shop") as lease:
        assert lease.release() == Leftovers(connections=2, prepared_transactions=0, advisory_locks=0)
    assert methods(script.asked) == ["POST /v1/leases", RELEASE]


@pytest.mark.parametrize("reply", [Reply(204, ""), released()], ids=["no content", "the lease"])
def test_release_without_leftovers_returns_none(client: Client, script: Script, reply: Reply) -> None:
    desk = Desk()
    desk.released = reply
    script.play(desk)
    with client.lease("shop") as lease:
        assert lease.release() is None
    with client.lease("shop"):
        pass
    assert methods(script.asked) == ["POST /v1/leases", RELEASE] * 2


def test_release_operation_returns_the_lease_for_every_kind_of_answer(client: Client, script: Script) -> None:
    over = released()
    script.play(
        Reply(200, lease_body(state="released", password=None, leftovers={"advisory_locks": 1})),
        Reply(200, {"id": LEASE, "leftovers": {"connections": 2}}),
        over,
        Reply(204, ""),
        over,
    )
    found = [client.release(LEASE) for _ in range(3)]
    assert {one.state for one in found} == {"released"}
    assert [one.leftovers for one in found] == [Leftovers(advisory_locks=1), Leftovers(connections=2), None]


@FREQUENT_HEARTBEATS
def test_reset_lease_has_another_login(client: Client, script: Script) -> None:
    script.play(Desk(ttl_seconds=LIMIT_SECONDS))
    with client.lease("shop") as lease:
        before = lease.url
        clean = lease.reset()
        assert (lease.id, lease.user, lease.lease.generation) == (LEASE, "u_2", 4)
        assert lease.url == clean.url != before
        script.wait_for(len(script.asked) + 2)  # its heartbeat continues
        assert lease.env()["PGUSER"] == "u_2"
    others = [one for one in methods(script.asked) if not one.endswith("/renew")]
    assert others[:2] == ["POST /v1/leases", f"POST /v1/leases/{LEASE}/reset"]
    assert methods(script.asked)[-1] == RELEASE


def test_reset_is_retried_after_a_lost_answer(client: Client, script: Script) -> None:
    script.play(Reply(hang_up=True), Desk().reset)
    assert client.reset(LEASE).user == "u_2"
    assert methods(script.asked) == [f"POST /v1/leases/{LEASE}/reset"] * 2


def test_reset_is_retried_while_the_first_attempt_is_running(client: Client, script: Script) -> None:
    busy = problem(409, "conflict", "it is being reset at this moment", retry_after=0.05)
    script.play(Reply(hang_up=True), busy, busy, Desk().reset)
    assert client.reset(LEASE).user == "u_2"
    assert len(script.asked) == 4


def test_conflict_with_another_reset_raises_at_once(client: Client, script: Script) -> None:
    script.play(problem(409, "conflict", "it is being reset at this moment", retry_after=0.05))
    with pytest.raises(Conflict):
        client.reset(LEASE)
    assert len(script.asked) == 1


def test_reset_of_an_ended_lease_raises_lease_lost(client: Client, script: Script) -> None:
    desk = Desk()
    desk.reset = desk.released = GONE
    script.play(desk)
    told: list[LeaseLost] = []
    with pytest.raises(LeaseLost, match="revoked"), client.lease("shop", on_lost=told.append) as lease:  # noqa: PT012 - the end of the block raises
        with pytest.raises(LeaseLost, match="revoked"):
            lease.reset()
        assert lease.lost.is_set()
        with pytest.raises(LeaseLost):
            _ = lease.url
    assert len(told) == 1


def test_failed_reset_leaves_the_lease_unchanged(client: Client, script: Script) -> None:
    desk = Desk()
    desk.reset = problem(500, "internal_error")
    script.play(desk)
    with client.lease("shop") as lease:
        with pytest.raises(InternalError):
            lease.reset()
        assert lease.user == "u_1"
        lease.check()


def test_released_lease_cannot_be_reset(client: Client, script: Script) -> None:
    script.play(Desk())
    with client.lease("shop") as lease:
        lease.release()
        with pytest.raises(LeaseLost, match="released here"):
            lease.reset()
    assert methods(script.asked) == ["POST /v1/leases", RELEASE]


@FORKS
def test_forked_child_cannot_reset_its_parents_lease(client: Client, script: Script) -> None:
    script.play(Desk())
    with client.lease("shop") as lease:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 1
            try:
                lease.reset()
            except RuntimeError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert methods(script.asked) == ["POST /v1/leases", RELEASE]


async def test_async_lease_is_reset_and_release_returns_leftovers(script: Script) -> None:
    desk = Desk()
    desk.released = Reply(200, {"id": LEASE, "leftovers": {"prepared_transactions": 1}})
    script.play(desk)
    async with AsyncClient(script.url) as client, client.lease("shop") as lease:
        before = lease.url
        assert (await lease.reset()).url == lease.url != before
        assert await lease.release() == Leftovers(prepared_transactions=1)
    assert methods(script.asked) == ["POST /v1/leases", f"POST /v1/leases/{LEASE}/reset", RELEASE]


async def test_async_reset_of_an_ended_lease_raises_lease_lost(script: Script) -> None:
    desk = Desk()
    desk.reset = desk.released = GONE
    script.play(desk)
    async with AsyncClient(script.url) as client:
        with pytest.raises(LeaseLost, match="revoked"):
            async with client.lease("shop") as lease:
                await lease.reset()


def test_kept_lease_is_neither_renewed_nor_released(client: Client, script: Script) -> None:
    script.play(Desk())
    with client.lease("shop") as lease:
        kept = lease.keep(ttl_seconds=60, reason="failed")
        assert kept.url == lease.url
    assert methods(script.asked) == ["POST /v1/leases", f"POST /v1/leases/{LEASE}/keep"]
    assert script.asked[1].body == {"ttl_seconds": 60, "reason": "failed"}


def test_acquired_lease_can_be_held_later(client: Client, script: Script) -> None:
    script.play(Desk())
    acquired = client.acquire("shop")
    with client.hold(acquired) as lease:
        assert lease.url == acquired.url
    assert methods(script.asked) == ["POST /v1/leases", RENEW, RELEASE]


def test_ended_lease_cannot_be_held(client: Client, script: Script) -> None:
    desk = Desk()
    desk.renewed = GONE
    script.play(desk)
    acquired = client.acquire("shop")
    with pytest.raises(LeaseEnded), client.hold(acquired):
        pytest.fail("the block ran")


def test_lease_of_a_retried_acquire_is_renewed_at_once(client: Client, script: Script) -> None:
    desk = Desk()
    script.play(Reply(hang_up=True), desk)
    with client.lease("shop"):
        script.wait_for(3)
        assert methods(script.asked)[2] == RENEW


@FREQUENT_HEARTBEATS
@FORKS
def test_forked_child_uses_the_database_and_neither_renews_nor_releases(
    client: Client, script: Script
) -> None:
    script.play(Desk(ttl_seconds=LIMIT_SECONDS))
    reader, writer = os.pipe()
    with client.lease("shop") as lease:
        script.wait_for(2)
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                os.write(writer, f"{len(_process_heartbeats)} {lease.url == lease.lease.url}".encode())
                lease.release()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"0 True"
        lease.check()
        assert RELEASE not in methods(script.asked)
        already = len(script.asked)
        script.wait_for(already + 2)
        lease.check()
    os.close(reader)
    os.close(writer)


@FORKS
def test_block_in_a_forked_child_does_not_release(client: Client, script: Script) -> None:
    script.play(Desk())
    block = client.lease("shop")
    block.__enter__()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            block.__exit__(None, None, None)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert RELEASE not in methods(script.asked)
    block.__exit__(None, None, None)
    assert methods(script.asked)[-1] == RELEASE


@FORKS
def test_client_works_on_both_sides_of_a_fork(client: Client, script: Script) -> None:
    script.play(Desk())
    client.acquire("shop")
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            client.acquire("shop")
            code = 0
        finally:
            os._exit(code)
    client.acquire("shop")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(script.asked) == 3


def test_blocking_leases_of_a_process_share_one_thread(script: Script) -> None:
    script.play(Desk())
    with Client(script.url) as one, Client(script.url) as other:
        with one.lease("shop"):
            before = threading.active_count()
        with one.lease("shop"), other.lease("shop"), other.lease("shop"):
            assert threading.active_count() <= before + 1  # the server's thread for the second connection


@FREQUENT_HEARTBEATS
def test_repr_and_traceback_of_a_lease_hide_its_password(client: Client, script: Script) -> None:
    desk = Desk(ttl_seconds=LIMIT_SECONDS)
    desk.renewed = desk.released = GONE
    script.play(desk)
    with pytest.raises(LeaseLost) as caught, client.lease("shop") as lease:  # noqa: PT012 - the end of the block raises
        assert lease.lost.wait(LIMIT_SECONDS)
        assert PASSWORD not in repr(lease)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert PASSWORD not in shown
    assert "s3cr3t" not in shown


@FREQUENT_HEARTBEATS
async def test_async_lease_is_renewed_and_released(script: Script) -> None:
    script.play(Desk(ttl_seconds=LIMIT_SECONDS))
    async with AsyncClient(script.url) as client:
        async with client.lease("shop") as lease:
            await asyncio.to_thread(script.wait_for, 4)
            assert lease.url
        assert methods(script.asked)[-1] == RELEASE
        assert [task for task in asyncio.all_tasks() if task.get_name() == "freshdb-heartbeat"] == []


@FREQUENT_HEARTBEATS
async def test_async_use_of_a_lost_lease_raises(script: Script) -> None:
    desk = Desk(ttl_seconds=LIMIT_SECONDS)
    desk.renewed = desk.released = GONE
    script.play(desk)
    async with AsyncClient(script.url) as client:
        with pytest.raises(LeaseLost, match="revoked"):  # noqa: PT012 - the end of the block raises
            async with client.lease("shop") as lease:
                await asyncio.wait_for(lease.lost.wait(), LIMIT_SECONDS)
                with pytest.raises(LeaseLost):
                    lease.check()


async def test_cancelled_block_releases_its_lease(script: Script) -> None:
    script.play(Desk())
    inside = asyncio.Event()
    async with AsyncClient(script.url) as client:

        async def hold() -> None:
            async with client.lease("shop"):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert methods(script.asked)[-1] == RELEASE


async def test_async_leases_can_be_kept_released_and_held(script: Script) -> None:
    script.play(Desk())
    async with AsyncClient(script.url) as client:
        async with client.lease("shop") as lease:
            assert (await lease.keep()).state == "kept"
        async with client.hold(await client.acquire("shop")) as lease:
            await lease.release()
    assert methods(script.asked) == [
        "POST /v1/leases",
        f"POST /v1/leases/{LEASE}/keep",
        "POST /v1/leases",
        RENEW,
        RELEASE,
    ]


@FREQUENT_HEARTBEATS
def test_heartbeat_does_not_wait_behind_other_calls(script: Script) -> None:
    all_wait = threading.Event()
    waiting: list[threading.Thread] = []
    # Longer than the TTL, so that no call ends and leaves its connection to the heartbeat.
    longer = LIMIT_SECONDS * 10

    def answer(asked: Asked) -> Reply:
        if asked.path == "/v1/leases" and len(script.asked) > 1:
            all_wait.wait(longer)
        return Desk(ttl_seconds=LIMIT_SECONDS)(asked)

    script.play(answer)
    with Client(script.url, timeout_seconds=longer) as client, client.lease("shop") as lease:
        for _ in range(105):  # more than httpx's default limit of connections
            waiting.append(threading.Thread(target=client.acquire, args=["shop"]))
            waiting[-1].start()
        try:
            script.wait_for(100)
            heartbeats = methods(script.asked).count(RENEW)
            while methods(script.asked).count(RENEW) < heartbeats + 2:
                lease.check()
                all_wait.wait(0.02)
        finally:
            all_wait.set()
            for thread in waiting:
                thread.join()
