"""Four problems of the old suite, each before and now, and a small part of the suite at each step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import CircularDependencyError, IntegrityError
from starlette.middleware import Middleware

from freshdb import BuildGrant, Client
from tests.legacy_suite.app_client import AppClient
from tests.legacy_suite.application import FUNCTION, Base, app, make_app
from tests.legacy_suite.cases import ANN
from tests.legacy_suite.running import STEPS, make_project, run_suite, shared_database
from tests.legacy_suite.steps import NameHeader
from tests.servers import PostgresServer
from tests.services import Service


@pytest.fixture
def shared_engine(postgres_18: PostgresServer) -> Iterator[Engine]:
    """The one test database, with its schema."""
    with shared_database(postgres_18.dsn) as url:
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def leases(service: Service) -> Iterator[list[Engine]]:
    """Engines of two leased databases."""

    def build(grant: BuildGrant) -> None:
        engine = create_engine(grant.sqlalchemy_url())
        Base.metadata.create_all(engine)
        engine.dispose()

    with Client(service.url) as client:
        template = client.build("legacy-suite", "1", build).reference
        with client.lease(template) as one, client.lease(template) as other:
            engines = [create_engine(lease.sqlalchemy_url()) for lease in (one, other)]
            yield engines
            for engine in engines:
                engine.dispose()


@pytest.mark.parametrize("step", STEPS)
def test_sample_of_the_suite_passes_at_each_step(
    step: str, tmp_path: Path, service: Service, postgres_18: PostgresServer
) -> None:
    make_project(tmp_path)
    with shared_database(postgres_18.dsn) as url:
        run_suite(tmp_path, step, service.url, url, tests=8)


def test_circular_foreign_keys_prevent_drop_all_and_a_lease_needs_no_drop(
    shared_engine: Engine, leases: list[Engine]
) -> None:
    with pytest.raises(CircularDependencyError, match="Can't sort tables for DROP"):
        Base.metadata.drop_all(shared_engine)
    _create_ann(leases[0])  # no drop is necessary, because the service cleans the database


def test_concurrent_create_function_fails_and_a_template_creates_it_once(
    shared_engine: Engine, leases: list[Engine]
) -> None:
    url = shared_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as one, psycopg.connect(url) as other, ThreadPoolExecutor(1) as executor:
        one.execute(FUNCTION)
        second_call = executor.submit(other.execute, FUNCTION)
        with psycopg.connect(url, autocommit=True) as observer:
            while not observer.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", [other.info.backend_pid]
            ).fetchall():
                assert not second_call.done()
        one.commit()
        with pytest.raises(psycopg.InternalError, match="tuple concurrently updated"):
            second_call.result()
    for engine in leases:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 'add_to_spent'::regproc IS NOT NULL").scalar()


def test_constant_identifiers_collide_in_a_shared_database_but_not_in_leases(
    shared_engine: Engine, leases: list[Engine]
) -> None:
    _create_ann(shared_engine)
    with pytest.raises(IntegrityError, match="customer_pkey"):
        _create_ann(shared_engine)
    for engine in leases:
        _create_ann(engine)


def test_middleware_stays_on_the_global_application_but_not_on_one_per_test(
    shared_engine: Engine,
) -> None:
    def names_of_response(application: AppClient) -> list[str]:
        return application.request("GET", f"/customers/{UUID(int=1)}/spent").headers.get_list("x-test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", shared_engine.url.render_as_string(hide_password=False))
        patch.setattr(app, "user_middleware", [])
        for name in ("first", "second"):
            app.user_middleware.append(Middleware(NameHeader, name=name))
            app.middleware_stack = None
        assert names_of_response(AppClient(app)) == ["second", "first"]
    app.middleware_stack = None

    for name in ("first", "second"):
        own = make_app(shared_engine)
        own.add_middleware(NameHeader, name=name)
        assert names_of_response(AppClient(own)) == [name]


def _create_ann(engine: Engine) -> None:
    AppClient(make_app(engine)).request(
        "PUT", f"/customers/{ANN}", email="ann@example.org"
    ).raise_for_status()
