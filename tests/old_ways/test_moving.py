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
from tests.old_ways.application import FUNCTION, Base, app, make_app
from tests.old_ways.caller import Caller
from tests.old_ways.cases import ANN
from tests.old_ways.running import STEPS, make_project, one_database, run_suite
from tests.old_ways.steps import Named
from tests.servers import PostgresServer
from tests.services import Service


@pytest.fixture
def old_database(postgres_18: PostgresServer) -> Iterator[Engine]:
    """The one test database, with its schema."""
    with one_database(postgres_18.dsn) as url:
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
        template = client.build("old-ways-moving", "1", build).reference
        with client.lease(template) as one, client.lease(template) as other:
            engines = [create_engine(lease.sqlalchemy_url()) for lease in (one, other)]
            yield engines
            for engine in engines:
                engine.dispose()


@pytest.mark.parametrize("step", STEPS)
def test_a_part_of_the_suite_passes_at_each_step(
    step: str, tmp_path: Path, service: Service, postgres_18: PostgresServer
) -> None:
    make_project(tmp_path)
    with one_database(postgres_18.dsn) as url:
        run_suite(tmp_path, step, service.url, url, tests=8)


def test_foreign_keys_in_a_circle_cannot_be_dropped_in_order_and_a_lease_need_not_be(
    old_database: Engine, leases: list[Engine]
) -> None:
    with pytest.raises(CircularDependencyError, match="Can't sort tables for DROP"):
        Base.metadata.drop_all(old_database)
    _put_ann(leases[0])  # no drop is necessary, because the service cleans the database


def test_one_function_made_by_two_processes_at_a_time_fails_and_a_template_makes_it_once(
    old_database: Engine, leases: list[Engine]
) -> None:
    url = old_database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as one, psycopg.connect(url) as other, ThreadPoolExecutor(1) as executor:
        one.execute(FUNCTION)
        late = executor.submit(other.execute, FUNCTION)
        with psycopg.connect(url, autocommit=True) as watching:
            while not watching.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", [other.info.backend_pid]
            ).fetchall():
                assert not late.done()
        one.commit()
        with pytest.raises(psycopg.InternalError, match="tuple concurrently updated"):
            late.result()
    for engine in leases:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 'add_to_spent'::regproc IS NOT NULL").scalar()


def test_identifiers_that_are_written_down_collide_in_one_database_and_not_in_two(
    old_database: Engine, leases: list[Engine]
) -> None:
    _put_ann(old_database)
    with pytest.raises(IntegrityError, match="customer_pkey"):
        _put_ann(old_database)
    for engine in leases:
        _put_ann(engine)


def test_middleware_that_was_added_to_the_one_app_stays_and_an_app_of_its_own_takes_it_along(
    old_database: Engine,
) -> None:
    def asked(application: Caller) -> list[str]:
        return application.ask("GET", f"/customers/{UUID(int=1)}/spent").headers.get_list("x-test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", old_database.url.render_as_string(hide_password=False))
        patch.setattr(app, "user_middleware", [])
        for name in ("first", "second"):
            app.user_middleware.append(Middleware(Named, name=name))
            app.middleware_stack = None
        assert asked(Caller(app)) == ["second", "first"]
    app.middleware_stack = None

    for name in ("first", "second"):
        own = make_app(old_database)
        own.add_middleware(Named, name=name)
        assert asked(Caller(own)) == [name]


def _put_ann(engine: Engine) -> None:
    Caller(make_app(engine)).ask("PUT", f"/customers/{ANN}", email="ann@example.org").raise_for_status()
