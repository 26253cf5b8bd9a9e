"""Models read from JSON, the formats of credentials, and secrets that they never show."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from freshdb import BuildGrant, Lease, NoCredentials, Pool, Template, UnexpectedAnswer
from freshdb.credentials import Credentials
from freshdb.environment import environment_with
from tests.unit.client.scripted import PASSWORD, TEMPLATE, build_body, lease_body, template_body

words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


def _lease(**changes: object) -> Lease:
    return Lease.from_wire(lease_body(**changes))


def test_unknown_members_of_a_lease_are_ignored() -> None:
    lease = _lease()
    assert (lease.template, lease.generation, lease.holder) == ("shop@abc", 3, {"name": "me"})
    assert lease.granted_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert lease.ended_at is None


@pytest.mark.parametrize(
    "changes",
    [
        {"port": "5432"}, {"id": None}, {"granted_at": "yesterday"}, {"granted_at": "2026-01-01T00:00:00"},
        {"holder": []}, {"holder": {"a": 1}}, {"ttl_seconds": True}, {"generation": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_member_of_the_wrong_type_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(UnexpectedAnswer, match=next(iter(changes))):
        _lease(**changes)


def test_value_of_a_wrong_member_is_not_shown() -> None:
    with pytest.raises(UnexpectedAnswer) as caught:
        _lease(password=[PASSWORD])
    assert PASSWORD not in str(caught.value)


def test_repr_hides_passwords_and_tokens() -> None:
    grant = BuildGrant.from_wire(build_body(), "shop@abc")
    template = Template.from_wire(template_body("building", build=build_body()))
    for one in (_lease(), _lease().credentials(), grant, template):
        assert PASSWORD not in repr(one)
        assert "t0k3n" not in repr(one)


def test_listed_lease_has_no_url() -> None:
    with pytest.raises(NoCredentials, match="looked up"):
        _ = _lease(password=None, url=None).url


def test_environment_has_the_url_and_libpqs_variables() -> None:
    lease = _lease()
    assert lease.env() == {
        "DATABASE_URL": lease.url,
        "PGHOST": "db.example",
        "PGPORT": "5432",
        "PGUSER": "u_1",
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": "freshdb_1",
    }
    assert lease.async_url == lease.url.replace("postgresql://", "postgresql+asyncpg://")
    assert lease.sqlalchemy_url() == lease.url.replace("postgresql://", "postgresql+psycopg://")


def test_ipv6_host_is_bracketed() -> None:
    assert "@[::1]:5432/" in _lease(host="::1").url


@given(user=words, password=words, database=words)
def test_url_and_dsn_preserve_any_credentials(user: str, password: str, database: str) -> None:
    lease = _lease(user=user, password=password, database=database)
    parts = urlsplit(lease.url)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (user, password)
    assert unquote(parts.path[1:]) == database
    assert make_url(lease.async_url).password == password
    from_url, from_dsn = conninfo_to_dict(lease.url), conninfo_to_dict(lease.dsn)
    assert from_url == from_dsn
    assert (from_dsn["user"], from_dsn["password"], from_dsn["dbname"]) == (user, password, database)


def test_credentials_support_any_url_scheme() -> None:
    assert Credentials("h", 1, "d", "u", "p").url("postgresql+psycopg2") == "postgresql+psycopg2://u:p@h:1/d"


def test_failed_template_has_its_error() -> None:
    error = {
        "message": "syntax error",
        "line": 3,
        "position": 17,
        "sqlstate": "42601",
        "statement": "create",
        "more": 1,
    }
    template = Template.from_wire(template_body("failed", error=error))
    assert template.error is not None
    assert (template.error.line, template.error.position, template.error.hint) == (3, 17, None)
    assert template.reference == "shop@abc"


def test_pool_is_read() -> None:
    pool = Pool.from_wire(
        {
            "id": TEMPLATE, "template": "shop@abc", "template_id": TEMPLATE, "isolation": "schema", "server": "one",
            "min_ready": 2, "max_size": 50, "idle_seconds": 300.0, "databases": {"ready": 2}, "waiting": 0,
            "refusal": ["an event trigger"], "last_error": None, "last_acquired_at": None,
        }
    )  # fmt: skip
    assert (pool.databases, pool.refusal) == ({"ready": 2}, ("an event trigger",))


def test_environment_replaces_other_databases() -> None:
    given = {
        "PATH": "/bin",
        "PGHOST": "other",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "other",
        "PGSSLMODE": "disable",
    }
    environment = environment_with(_lease(), given)
    assert environment == {"PATH": "/bin", "PGSSLMODE": "disable", **_lease().env()}
