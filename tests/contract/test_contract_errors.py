"""Each error of the service: status, code, and a message with the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from freshdb import (
    BuildLost,
    Client,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidRequest,
    IsolationUnsupported,
    LeaseEnded,
    LeaseNotFound,
    LeaseRequest,
    PayloadTooLarge,
    PoolExhausted,
    PoolNotFound,
    QuotaExceeded,
    ServiceError,
    Template,
    TemplateBuilding,
    TemplateConflict,
    TemplateFailed,
    TemplateNotFound,
    Unauthorized,
)
from tests.contract.conftest import SCHEMA, unique
from tests.pools import shrink
from tests.servers import PostgresServer
from tests.services import start_service

NOWHERE = "00000000-0000-4000-8000-000000000000"


def _assert(error: ServiceError, status: int, words: str) -> None:
    assert error.status == status
    assert error.code == type(error).default_code
    assert words in str(error)


def test_unknown_template(client: Client) -> None:
    with pytest.raises(TemplateNotFound) as caught:
        client.acquire(unique("none"))
    _assert(caught.value, 404, "register it first")
    with pytest.raises(TemplateNotFound):
        client.template(NOWHERE)


def test_template_that_is_being_built(client: Client) -> None:
    name = unique("building")
    template = client.register(name, fingerprint="f1")
    assert template.build is not None
    with pytest.raises(TemplateBuilding) as caught:
        client.acquire(name)
    _assert(caught.value, 409, "still being built")
    with pytest.raises(TemplateBuilding):
        client.wait_template(name, wait_seconds=0.3)
    client.build_failed(template.id, template.build.token, message="done with")


def test_failed_sql_names_the_statement_and_its_position(client: Client) -> None:
    with pytest.raises(TemplateFailed) as caught:
        client.ensure_sql(unique("bad"), ["select 1", "create table a ();\ncreate tabel b ()"])
    error = caught.value
    _assert(error, 422, 'syntax error at or near "tabel"')
    assert (error.extra["sql_index"], error.extra["line"], error.extra["sqlstate"]) == (1, 2, "42601")
    assert "create tabel b" in str(error.extra["statement"])


def test_other_sql_under_the_same_fingerprint(client: Client) -> None:
    name = unique("same")
    client.register(name, fingerprint="f1", sql=[SCHEMA])
    with pytest.raises(TemplateConflict) as caught:
        client.register(name, fingerprint="f1", sql=["create table other ()"])
    _assert(caught.value, 409, "a template never changes")


def test_build_that_another_builder_has_taken_over(client: Client) -> None:
    name = unique("lost")
    first = client.register(name, fingerprint="f1", build_seconds=0.2)
    assert first.build is not None
    second = client.claim_build(name, "f1")
    assert second.build is not None
    for report in (client.build_ready, client.build_failed):
        with pytest.raises(BuildLost) as caught:
            report(first.id, first.build.token)
        _assert(caught.value, 409, "register the template again")
    assert client.build_ready(second.id, second.build.token).state == "ready"


def test_isolation_that_the_template_does_not_support(client: Client) -> None:
    template = client.ensure_sql(unique("two"), ["create schema other; create table other.t ()"])
    with pytest.raises(IsolationUnsupported) as caught:
        client.acquire(template.name, isolation="schema")
    _assert(caught.value, 422, "schema")
    assert caught.value.reasons


def test_full_pool_has_the_position_in_the_queue(client: Client, template: Callable[[], Template]) -> None:
    with client.lease(template().name) as lease:
        shrink(client, lease.lease.pool_id)
        with pytest.raises(PoolExhausted) as caught:
            client.acquire(lease.template, wait_seconds=0.2)
        _assert(caught.value, 503, "place 1 of 1")
        assert (caught.value.queue_position, caught.value.queue_length) == (1, 1)
        assert caught.value.retry_after_seconds


def test_batch_larger_than_the_pool(client: Client, template: Callable[[], Template]) -> None:
    name = template().name
    with client.lease(name) as lease:
        shrink(client, lease.lease.pool_id)
    with pytest.raises(QuotaExceeded) as caught:
        client.acquire_batch([LeaseRequest(name, wait_seconds=5)] * 2)
    _assert(caught.value, 429, "max_size")


def test_ended_lease(client: Client, shop: Template) -> None:
    lease = client.acquire(shop.name)
    client.revoke(lease.id)
    for use in (client.renew, client.release, client.keep, client.revoke):
        with pytest.raises(LeaseEnded) as caught:
            use(lease.id)
        _assert(caught.value, 410, "revoked")


@pytest.mark.parametrize(
    "identifier", [NOWHERE, "not-an-id", ".", "..", "%2e%2e", "'; drop table leases; --"]
)
def test_unknown_lease(client: Client, identifier: str) -> None:
    for use in (client.renew, client.release, client.keep, client.get_lease):
        with pytest.raises(LeaseNotFound) as caught:
            use(identifier)
        _assert(caught.value, 404, "lease")


def test_unknown_pool(client: Client) -> None:
    with pytest.raises(PoolNotFound) as caught:
        client.pool(NOWHERE)
    _assert(caught.value, 404, "pool")


def test_idempotency_key_of_another_request(client: Client, shop: Template) -> None:
    key = unique("key")
    lease = client.acquire(shop.name, idempotency_key=key)
    with pytest.raises(IdempotencyMismatch) as caught:
        client.acquire(shop.name, idempotency_key=key, ttl_seconds=17)
    _assert(caught.value, 422, "new key")
    client.release(lease.id)
    with pytest.raises(LeaseEnded):
        client.acquire(shop.name, idempotency_key=key)


def test_template_with_a_lease_is_retired_only_by_force(
    client: Client, template: Callable[[], Template]
) -> None:
    own = template()
    with client.lease(own.name):
        with pytest.raises(Conflict) as caught:
            client.retire(own.id)
        _assert(caught.value, 409, "live leases")
        assert client.retire(own.id, force=True).state == "retired"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ttl_seconds", 0.0),
        ("ttl_seconds", -1.0),
        ("ttl_seconds", 31536000000000.0),
        ("wait_seconds", -1.0),
        ("isolation", "table"),
        ("template", "'; drop table templates; --"),
        ("template", ""),
        ("holder", {"": "no key"}),
        ("labels", {"a": "x" * 2000}),
        ("labels", {"a": "\x00"}),
    ],
)
def test_invalid_request_names_the_field(client: Client, shop: Template, field: str, value: object) -> None:
    terms: dict[str, object] = {"template": shop.name, field: value}
    with pytest.raises(InvalidRequest) as caught:
        client.acquire(**terms)  # type: ignore[arg-type]
    _assert(caught.value, 422, field)
    assert any(name.startswith(field) for name, _ in caught.value.errors)


def test_body_that_is_too_large(client: Client) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        client.register(unique("large"), sql=["-- " + "x" * 17_000_000])
    _assert(caught.value, 413, "")


@pytest.fixture(scope="module")
def guarded(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[str]:
    """A service that requires tokens."""
    tokens = "alice:a-secret bob:b-secret viewer:v-secret:read root:r-secret:admin"
    running = start_service([postgres_18.dsn], service_redis_url, settings={"tokens": tokens})
    yield running.url
    assert running.stop() == 0


@pytest.mark.parametrize("token", ["", "guessed"])
def test_missing_or_unknown_token(guarded: str, token: str) -> None:
    with Client(guarded, token) as client, pytest.raises(Unauthorized) as caught:
        client.leases()
    _assert(caught.value, 401, "token")


def test_lease_of_another_token_can_be_read_but_not_changed(guarded: str) -> None:
    with Client(guarded, "a-secret") as alice, Client(guarded, "b-secret") as bob:
        lease = alice.acquire(alice.ensure_sql("shop", [SCHEMA]).name)
        assert bob.get_lease(lease.id).password is None
        assert alice.get_lease(lease.id).password == lease.password
        for use in (bob.renew, bob.release, bob.keep, bob.revoke):
            with pytest.raises(Forbidden) as caught:
                use(lease.id)
            _assert(caught.value, 403, "")
        with Client(guarded, "r-secret") as root:
            assert root.revoke(lease.id).state == "revoked"


def test_token_with_the_scope_read_can_only_read(guarded: str) -> None:
    with Client(guarded, "v-secret") as viewer:
        viewer.leases()
        with pytest.raises(Forbidden, match="lease"):
            viewer.acquire("shop")
        with pytest.raises(Forbidden, match="build"):
            viewer.register("shop", fingerprint="f2")
